"""What exits under each design, and how often: the figures that the literature gives."""

from collections import Counter
from itertools import pairwise

import pytest

from kvmlab.guest.records import DemandFault, TableMade
from kvmlab.hardware.instructions import invlpg, invpcid
from kvmlab.hardware.records import ExitReason, Kind, PageFault, VmExit
from kvmlab.kvm.records import Reflected, SpteSet, WriteTrapped
from kvmlab.machine import Machine

AREA = 0x1000_0000


class Guest:
    """A booted machine with one process and everything it did since the last look."""

    def __init__(self, mmu, **options):
        self.records = []
        self.machine = Machine(mmu, tap=self.records.append, **options)
        self.kernel = self.machine.guest
        self.process = None

    def start(self, size="1M"):
        self.process = self.kernel.spawn("demo")
        self.kernel.switch(self.process)
        self.process.mmap(AREA, size)
        self.records.clear()

    def end(self):
        self.kernel.exit(self.process)

    def write(self, page):
        self.records.clear()
        self.kernel.touch(AREA + page * 4096, Kind.WRITE)
        return self.exits()

    def exits(self):
        return Counter(one.reason for one in self.records if isinstance(one, VmExit))

    def of(self, kind):
        return [one for one in self.records if isinstance(one, kind)]


def warm(mmu, **options):
    """A guest whose frames are backed and were touched by its kernel: only tables are new."""
    guest = Guest(mmu, **options)
    guest.start()
    for page in range(256):
        guest.write(page)
    guest.end()
    guest.start()
    guest.write(0)
    return guest


@pytest.mark.parametrize("mmu, exits", [("native", 0), ("shadow", 3), ("ept", 0)])
def test_exits_per_demand_fault_on_backed_frames(mmu, exits):
    """Linux commit 0028425f647b (2007): reflected #PF, trapped PTE write, fill. EPT: none."""
    guest = warm(mmu)
    for page in range(1, 256):
        assert guest.write(page).total() == exits
        assert len(guest.of(DemandFault)) == 1


@pytest.mark.parametrize(
    "policy, exits", [("naive", 3), ("update", 2), ("bypass", 1), ("today", 2)]
)
def test_exits_per_demand_fault_by_shadow_policy(policy, exits):
    """Linux commits 0028425f647b (3, and 2 with the update) and c7addb902054 (1).

    Today: the reflected fault and the fill; one more where a table is protected, so once for
    each that the guest begins to fill (mmu.rst, "Synchronized and unsynchronized pages").
    """
    guest = warm("shadow", policy=policy)
    costs = Counter(guest.write(page).total() for page in range(1, 256))
    assert costs == ({2: 254, 3: 1} if policy == "today" else {exits: 255})


def test_the_three_exits_of_a_shadow_fault_come_in_order():
    guest = warm("shadow")
    guest.write(1)
    happened = [
        type(one).__name__
        for one in guest.records
        if isinstance(one, VmExit | Reflected | PageFault | WriteTrapped | SpteSet)
    ]
    assert happened == [
        *("VmExit", "Reflected", "PageFault"),  # 1: the guest's own fault
        *("VmExit", "WriteTrapped"),  # 2: its store to the PTE
        *("VmExit", "SpteSet"),  # 3: the retried access
    ]


def test_first_touch_of_one_guest_frame_under_ept_costs_one_violation():
    guest = Guest("ept")
    guest.start()
    guest.write(0)  # tables and their frames are there now
    assert guest.write(1) == {ExitReason.EPT_VIOLATION: 1}
    assert guest.write(1) == {}


def test_guest_page_faults_and_cr3_loads_never_exit_under_ept():
    guest = Guest("ept")
    guest.start()
    other = guest.kernel.spawn("other")
    guest.records.clear()
    for process in (other, guest.process, other):
        guest.kernel.switch(process)
    assert guest.exits() == {}


def test_every_cr3_load_exits_under_shadow_paging():
    guest = Guest("shadow")
    guest.start()
    other = guest.kernel.spawn("other")
    guest.records.clear()
    for process in (other, guest.process, other):
        guest.kernel.switch(process)
    assert guest.exits() == {ExitReason.CR_ACCESS: 3}


def test_each_invlpg_exits_under_shadow_paging():
    guest = warm("shadow")
    guest.records.clear()
    guest.process.munmap(AREA)
    assert guest.exits()[ExitReason.INVLPG] == 1  # one page was mapped


def test_a_new_guest_table_is_written_freely_until_it_is_shadowed():
    """Write protection comes when a table is linked and walked, not when it is allocated."""
    guest = warm("shadow")
    fresh = AREA + (1 << 30)  # another PD and PT
    guest.process.mmap(fresh, "4K")
    guest.records.clear()
    guest.kernel.touch(fresh, Kind.WRITE)
    made = {one.gpa >> 12 for one in guest.of(TableMade)}
    assert len(made) == 2
    assert made.isdisjoint(one.gpa >> 12 for one in guest.of(WriteTrapped))


def test_a_clean_page_is_shadowed_read_only_until_the_guest_writes():
    guest = Guest("shadow")
    guest.start()
    guest.kernel.touch(AREA, Kind.READ)
    assert not guest.of(SpteSet)[-1].spte & 2  # the last entry set is the leaf
    assert guest.write(0) == {ExitReason.EXCEPTION: 1}
    (leaf,) = guest.of(SpteSet)
    assert leaf.spte & 2
    assert guest.write(0) == {}


def test_a_table_that_becomes_a_data_page_is_let_go():
    """Clearing a former table writes more than an entry: its shadow page is thrown away."""
    guest = warm("shadow")
    tables = guest.machine.table_bytes()["shadow"]
    guest.end()
    guest.start()
    for page in range(200):
        guest.write(page)
    assert guest.machine.table_bytes()["shadow"] <= tables
    for page in range(200):
        assert guest.write(page).total() == 0


def test_shadow_tables_grow_with_processes_and_ept_does_not():
    sizes = {}
    for mmu in ("shadow", "ept"):
        machine = Machine(mmu, guest_memory="64M", host_memory="256M")
        sizes[mmu] = []
        for name in "abcd":
            process = machine.guest.spawn(name)
            machine.guest.switch(process)
            process.mmap(AREA, "64K")
            machine.guest.touch(AREA, Kind.WRITE)
            sizes[mmu].append(machine.table_bytes()[mmu])
    steps = {mmu: {b - a for a, b in pairwise(s[1:])} for mmu, s in sizes.items()}
    assert steps["shadow"] == {4 * 4096}  # a root, a PDPT, a PD and a PT each
    assert steps["ept"] == {0}


def test_a_guest_fault_exits_unless_the_shadow_tells_absent_from_unfilled():
    for policy, reflected in (("update", 1), ("bypass", 0)):
        guest = warm("shadow", policy=policy)
        guest.write(1)
        assert len(guest.of(Reflected)) == reflected
        assert len(guest.of(PageFault)) == 1


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_each_invpcid_exits_under_shadow_paging(kind):
    guest = warm("shadow", policy="today")
    guest.records.clear()
    invpcid(guest.machine.cpu, kind, 0, AREA)
    assert guest.exits() == {ExitReason.INVPCID: 1}


def test_an_unsync_table_may_be_stale_until_invlpg():
    """As a TLB may: the freedom that lets KVM leave the guest's stores alone."""
    guest = warm("shadow", policy="today")
    guest.write(1)
    tables, cpu = guest.kernel.tables, guest.machine.cpu
    slot, _ = tables.find(guest.process.root, AREA + 4096)
    guest.records.clear()
    tables.write(slot, 0)
    cpu.flush_tlb()
    assert guest.write(1) == {}  # the shadow entry is still there
    invlpg(cpu, AREA + 4096)
    guest.write(1)
    assert len(guest.of(PageFault)) == 1
