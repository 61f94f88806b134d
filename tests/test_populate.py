"""Memory mapped ahead of use, table by table: just what page after page leaves behind.

A machine with a listener tells of each page, so it goes page by page; one that nobody listens to
goes table by table.
"""

import numpy as np
import pytest

from kvmlab.base.errors import BadAddress, BadSize, OutOfMemory
from kvmlab.base.tap import silent
from kvmlab.guest import ahead
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.hardware.tlb import SKYLAKE, TINY, UNIFIED
from kvmlab.linux.lru import Lru
from kvmlab.linux.records import VmEvent
from kvmlab.machine import Machine

MIB, GIB, AREA = 1 << 20, 1 << 30, 0x1000_0000
MACHINES = (
    {"mmu": "native"},
    {"mmu": "native", "guest_levels": 2},
    {"mmu": "ept"},
    {"mmu": "ept", "guest_levels": 3},
    {"mmu": "ept", "host_page": "2M"},
    {"mmu": "ept", "kpti": True, "vcpus": 2},
    {"mmu": "npt", "host_levels": 5, "guest_levels": 5},
    {"mmu": "shadow"},
    {"mmu": "shadow", "policy": "today"},
    {"mmu": "agile"},
    {"mmu": "l2-ept"},
)


def both(do, **options):
    """What two machines are after ``do``: one that goes page by page, and one that need not."""
    options = {"guest_memory": "16M", "host_memory": "32M"} | options
    return [state(did(do, Machine(tap=tap, **options))) for tap in ([].append, silent)]


def did(do, made):
    do(made)
    return made


def state(made):
    """All memory, what the allocators know of it, what CPUs keep; stale descriptors aside."""
    found = {"image": made.ram.image(), "guest": buddy(made.guest.frames.buddy)}
    found["cached"] = [cached(cpu) for cpu in made.cpus]
    found["tables"] = made.guest.table_frames, made.table_bytes()
    if made.host:
        found["host"] = buddy(made.host.buddy), made.qemu.process.rss
        found["host pages"] = pages(made.host.memory)
    return found


def pages(memory):
    """Every page in use, and the lists of them."""
    frames, lists = memory.frames, memory.lists
    used = np.flatnonzero(frames.role)
    columns = ("role", "order", "lru", "referenced", "dirty", "mapping", "index")
    found = {one: getattr(frames, one)[used].tolist() for one in columns}
    order = np.unique(frames.stamp[used], return_inverse=True)[1]  # lists may count anew
    found["lists"] = [lists.pages(one).tolist() for one in Lru]
    return found | {"used": used.tolist(), "stamp": order.tolist(), "size": list(lists.size)}


def cached(cpu):
    """All translations that a CPU keeps, each set in its order of use."""
    sets = [ways for array in cpu.tlb.arrays() for ways in array.sets]
    sets += cpu.walk_caches.held.values() if cpu.walk_caches else []
    sets += cpu.nested_tlb.array.sets if cpu.nested_tlb else []
    return [list(one.items()) for one in sets]


def buddy(one):
    return one.free_frames, [list(blocks) for blocks in one._blocks]


def populate_guest(made):
    process = made.guest.spawn("demo")
    made.guest.switch(process)
    process.mmap(AREA + 0x7000, 3 * MIB, populate=True)
    process.mmap(AREA + 0x7000 + 3 * MIB, 5 * MIB, write=False, populate=True)
    process.mmap(AREA, 0x5000, populate=True)
    for page in (0, 300, 700):
        made.guest.store(AREA + 0x7000 + page * 4096, page)


@pytest.mark.parametrize("huge", ["never", "always"])
@pytest.mark.parametrize("free", ["plenty", "not enough"])
def test_a_guest_that_reclaims_fills_its_tables_so_too(free, huge):
    """Its statistics, when kswapd is woken, and which page goes first, are those of faults."""

    def populate(made):
        heard = []
        memory = (guest := Reclaimer(made.guest, swap="8M", tap=heard.append)).memory
        guest.huge.enabled = huge
        spare = memory.buddy.free_frames - memory.zone.marks.low
        first = spare - 900 if free == "plenty" else spare - 300
        made.guest.switch(process := made.guest.spawn("demo"))
        process.mmap(AREA, first << 12, populate=True)
        process.mmap(AREA + GIB + 0x5000, 700 << 12, populate=True)
        made.guest.store(AREA + GIB + 0x5000, 7)
        told = [one for one in heard if not isinstance(one, VmEvent)]
        found.append((guest.statistics(), guest.stat.fields(), pages(memory), told))

    found = []
    page_by_page, quiet = both(populate, mmu="ept")
    assert found[0] == found[1]
    assert bool(found[0][-1]) is (free != "plenty")
    assert page_by_page == quiet


@pytest.fixture
def few(monkeypatch):
    """Even two tables are worth being filled at once; returns whether that was so, each time."""
    made, store = [], ahead.store_quietly
    monkeypatch.setattr(ahead, "_WORTH", 2)
    monkeypatch.setattr(ahead, "store_quietly", lambda *args: made.append(store(*args)) or made[-1])
    return made


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("options", MACHINES, ids=str)
def test_a_guest_that_populates_a_mapping_table_by_table(options):
    page_by_page, quiet = both(populate_guest, **options)
    for what, expected in page_by_page.items():
        assert quiet[what] == expected, what


@pytest.mark.parametrize("geometry", [UNIFIED, SKYLAKE, TINY], ids=lambda one: one.name)
@pytest.mark.parametrize("mmu", ["native", "ept", "npt"])
def test_a_guest_whose_stores_nobody_traps_fills_many_tables_at_once(few, mmu, geometry):
    """Two tables above them, which it enters them in: one ends after 3 MiB."""

    def populate(made):
        if made.host:
            made.vcpu.mmu.pre_fault(0, 24 * MIB)
        made.guest.switch(made.guest.spawn("demo"))
        made.guest.current.mmap(GIB - 7 * MIB, 14 * MIB, populate=True)
        made.guest.current.mmap(GIB + 8 * MIB, 6 * MIB, write=False, populate=True)

    page_by_page, quiet = both(populate, mmu=mmu, geometry=geometry, guest_memory="24M")
    for what, expected in page_by_page.items():
        assert quiet[what] == expected, what
    assert few == [True, True, True]


def test_a_guest_that_runs_out_of_frames_meanwhile():
    def populate_too_much(made):
        process = made.guest.spawn("demo")
        made.guest.switch(process)
        with pytest.raises(OutOfMemory):
            process.mmap(AREA, 20 * MIB, populate=True)

    page_by_page, quiet = both(populate_too_much)
    assert quiet == page_by_page


@pytest.mark.parametrize("prepare", ["", "used", "swapped", "huge", "locked"])
def test_a_host_that_backs_a_range_table_by_table(prepare):
    def populate(made):
        process, hva = made.qemu.process, made.vm.slots.find(0).hva
        if prepare == "used":
            for page in (8, 600, 601, 2000):
                process.fault_in(hva + (page << 12))
        if prepare == "swapped":
            made.host.swapon(16 * MIB)
            process.populate(hva + 7 * MIB, 2 * MIB)
            made.host.memory.reclaim.shrink(300, "direct")
        if prepare == "huge":
            process.advise_huge(hva, wanted=True)
        if prepare == "locked":
            process.areas.find(hva).locked = True
        process.populate(hva + 0x5000, 9 * MIB)

    page_by_page, quiet = both(populate)
    assert quiet == page_by_page


def test_a_host_whose_memory_gets_short_meanwhile():
    def populate(made):
        made.host.swapon(8 * MIB)
        made.host.memory.wake_kswapd = made.host.memory.balance
        made.qemu.process.populate(made.vm.slots.find(0).hva, 16 * MIB)

    page_by_page, quiet = both(populate, host_memory="17M")
    assert quiet == page_by_page


@pytest.mark.parametrize(
    "mmu, host_page, prepare",
    [
        ("ept", "4K", ""),
        ("ept", "4K", "used"),
        ("ept", "4K", "logged"),
        ("ept", "4K", "shared"),
        ("ept", "2M", "used"),
        ("ept", "4K", "backed"),
        ("npt", "4K", "backed"),
        ("agile", "4K", "backed"),
        ("agile", "4K", "used"),
    ],
)
def test_guest_memory_that_is_mapped_before_it_is_touched(mmu, host_page, prepare):
    def pre_fault(made):
        slot = made.vm.slots.find(0)
        if prepare == "used":
            populate_guest(made)
        if prepare == "logged":
            made.vm.set_region(0, 0, slot.size, slot.hva, 1)
        if prepare == "backed":
            made.qemu.process.populate(slot.hva, slot.size)
        if prepare == "shared":
            made.qemu.process.populate(slot.hva, slot.size)
            made.qemu.process.advise_mergeable(slot.hva, wanted=True)
            for _pass in range(4):
                made.host.ksm.scan(slot.size)
            assert made.host.ksm.pages_sharing
        direct = getattr(made.vcpu.mmu, "ept", made.vcpu.mmu)
        direct.pre_fault(0x3000, 9 * MIB)

    page_by_page, quiet = both(pre_fault, mmu=mmu, host_page=host_page)
    for what, expected in page_by_page.items():
        assert quiet[what] == expected, what


def test_what_is_mapped_ahead_exits_no_more():
    exits = []
    made = Machine("ept", guest_memory="32M", host_memory="64M", tap=exits.append)
    made.vcpu.mmu.pre_fault(0, 32 * MIB)
    exits.clear()
    populate_guest(made)
    assert not [one for one in exits if type(one).__name__ == "VmExit"]


@pytest.mark.parametrize("gpa, size", [(1, 4096), (0, 4095), (0, 0), (4096, -4096)])
def test_what_cannot_be_mapped_ahead(gpa, size):
    made = Machine("ept", guest_memory="32M", host_memory="64M")
    before = made.ram.image()
    with pytest.raises(BadSize, match="multiples of 4 KiB"):
        made.vcpu.mmu.pre_fault(gpa, size)
    with pytest.raises(BadAddress, match="0x2000000 is in no memslot"):
        made.vcpu.mmu.pre_fault(32 * MIB, 4096)
    assert made.ram.image() == before
