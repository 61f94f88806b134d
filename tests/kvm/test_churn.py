"""Random deeds of guest, host and user space: memory keeps its contents, frames have one owner."""

import random

import pytest

from kvmlab.kvm.dirty_log import pages_in
from kvmlab.kvm.parameters import Parameters
from tests.small_guest import DESIGNS, FIRST, LARGE, PAGES, SIZE, SmallGuest

PS, ADDRESS = 1 << 7, 0x000F_FFFF_FFFF_F000
AREA = 1 << 21  # of the VM's memory, that programs write through small and large guest pages
WORDS = [FIRST + (page << 12) for page in range(PAGES)] + list(range(4 << 20, 8 << 20, 0x3_3000))


class Churn:
    """One guest, and what its words must hold."""

    def __init__(self, design, seed, host_shift, **options):
        self.guest = SmallGuest(design, host_shift=host_shift, **options)
        self.page = 1 << host_shift
        self.choose = random.Random(seed)
        self.words = {}
        self.written = set()  # pages, since the log was last read
        self.logging = False

    def gva(self, gpa):
        """Where the guest finds ``gpa``: in a small page, or in a large one."""
        small = FIRST <= gpa < FIRST + (PAGES << 12) and self.choose.random() < 0.5
        return gpa - FIRST if small else LARGE + gpa

    def step(self):
        gpa = self.choose.choice(WORDS)
        deeds = (self.store, self.load) * 6 + (self.take, self.age, self.toggle, self.harvest)
        self.choose.choice((*deeds, self.devices))(gpa)

    def store(self, gpa):
        value = self.choose.getrandbits(64)
        self.guest.cpu.store(self.gva(gpa), value)
        self.words[gpa] = value
        self.written.add(gpa >> 12)

    def load(self, gpa):
        assert self.guest.cpu.load(self.gva(gpa)) == self.words.get(gpa, 0)

    def take(self, gpa):
        """The host takes the page back, unless guest tables lie in it too."""
        first = gpa & ~(self.page - 1)
        if first:
            self.guest.process.madvise_dontneed(self.guest.hva + first, self.page)
            self.words = {a: w for a, w in self.words.items() if not first <= a < first + self.page}

    def age(self, gpa):
        start = self.guest.hva + gpa
        self.guest.vm.clear_flush_young(start, start + 4096)

    def toggle(self, _gpa):
        self.logging = not self.logging
        self.guest.log(self.logging)
        self.written.clear()

    def harvest(self, _gpa):
        if self.logging:
            assert self.written <= set(pages_in(self.guest.vm.get_dirty_log(0)))
            self.written.clear()

    def devices(self, _gpa):
        """Another slot comes and goes: what was built of the slots may not outlive it."""
        vm = self.guest.vm
        hva = self.guest.hva + SIZE - AREA
        vm.set_region(1, 1 << 32, 0 if vm.slots.get(1) else AREA, hva)

    def check(self):
        """Every frame of the host is free, a table of somebody, or backs the guest."""
        guest = self.guest
        tables, backing = collect(guest, guest.process.root, 4)
        others = guest.mmu.table_frames + (guest.vcpu.vmcs.pml is not None)
        used = len(tables) + len(backing) + others
        idle = 512 * guest.host.hugetlb[21].free  # of the pool: not free for anybody else
        assert guest.host.buddy.free_frames + idle + used == guest.host.buddy.total
        assert {one.page >> 12 for one in guest.cpu.tlb.entries()} <= backing


def collect(guest, table, level):
    """The frames of the host's own tables, and those that they map."""
    tables, backing = {table >> 12}, set()
    for index in range(512):
        entry = guest.vm.ram.load(table + 8 * index)
        if not entry & 1:
            continue
        pfn = (entry & ADDRESS) >> 12
        if level == 1 or entry & PS:
            backing |= set(range(pfn, pfn + (1 << 9 * (level - 1))))
        else:
            more = collect(guest, entry & ADDRESS, level - 1)
            tables |= more[0]
            backing |= more[1]
    return tables, backing


CASES = [(design, 12, {}) for design in DESIGNS]
CASES += [(design, 21, {}) for design in ("ept", "ept pml=0", "npt legacy", "today")]
CASES += [("ept", 21, {"parameters": Parameters(nx_huge_pages=True, pml=False)})]


@pytest.mark.parametrize("design, host_shift, options", CASES)
def test_memory_keeps_its_contents_and_frames_have_one_owner(design, host_shift, options):
    churn = Churn(design, f"{design} {host_shift}", host_shift, **options)
    for step in range(150):
        churn.step()
        if step % 30 == 0:
            churn.check()
    churn.check()
