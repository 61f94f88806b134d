"""Page-table pages: one tree for each process under shadow paging, one for the VM under EPT.

1 GiB of 4 KiB pages takes 512 page tables, a directory, a pointer table and a root: 515.
"""

import pytest

from kvmlab.hardware.records import Kind
from kvmlab.kvm.records import ShadowPageZapped
from kvmlab.machine import Machine

AREA = 1 << 39  # in no table that the kernel or another mapping uses
GIB, ENTRY = 1 << 30, 2 << 20  # what a page table maps
TABLES = 512 + 3


class Gigabyte:
    """Processes that map the same GiB of guest frames, which is aligned, at the same address.

    ``stride`` leaves pages out: one page of each 2 MiB needs all the tables too.
    """

    def __init__(self, mmu, processes=1, stride=ENTRY, **options):
        self.records = []
        sizes = {"guest_memory": "2560M", "host_memory": "4G"}
        self.machine = Machine(mmu, tap=self._tap, **sizes, **options)
        self.guest = self.machine.guest
        self.stride = stride
        self.frame = self.guest.frames.alloc(18)
        before = self.guest.table_frames
        self.processes = [self._start(f"p{number}") for number in range(processes)]
        self.guest_tables = self.guest.table_frames - before
        for process in self.processes:
            self.guest.switch(process)
            for offset in range(0, GIB, stride):
                self.guest.touch(AREA + offset, Kind.READ)

    def _tap(self, record):
        if isinstance(record, ShadowPageZapped):
            self.records.append(record)

    def _start(self, name):
        process = self.guest.spawn(name)
        process.mmap(AREA, GIB)
        for offset in range(0, GIB, self.stride):
            self.guest.tables.map(process.root, AREA + offset, self.frame + offset, 12, 0x67)
        return process

    def ept_tables(self):
        """EPT tables that map any of the gigabyte, and the others."""
        levels, root = 4, self.machine.cpu.context.ept.root
        inside, outside = set(), set()
        todo = [(root, levels, 0)]
        while todo:
            table, level, base = todo.pop()
            covered = base < self.frame + GIB and self.frame < base + (1 << 12 + 9 * level)
            (inside if covered else outside).add(table)
            shift = 12 + 9 * (level - 1)
            for index, entry in enumerate(self.machine.ram.frame(table >> 12).tolist()):
                if level > 1 and entry & 7:
                    address = entry & 0x000F_FFFF_FFFF_F000
                    todo.append((address, level - 1, base | index << shift))
        return inside, outside

    def shadow_tables(self):
        """Shadow pages of the tables of each process."""
        pages = self.machine.vcpu.mmu.pages
        levels = self.guest.tables.format.levels
        top = self.guest.user_end >> 39
        return [
            sum(
                len(pages.shadowing(table >> 12))
                for table, _ in self.guest.tables.tables_below(process.root, levels, top)
            )
            for process in self.processes
        ]


def test_a_gigabyte_of_small_pages_takes_515_guest_tables_and_515_of_ept():
    one = Gigabyte("ept")
    assert one.guest_tables == TABLES
    inside, outside = one.ept_tables()
    assert len(inside) == TABLES
    assert len(outside) == one.machine.vcpu.mmu.table_frames - TABLES
    assert 0 < len(outside) <= 4  # a directory, and a table for each 2 MiB with guest tables


def test_processes_over_the_same_gigabyte_share_one_ept():
    """But their own tables are guest memory too, and want EPT tables where they are."""
    one, eight = Gigabyte("ept"), Gigabyte("ept", processes=8)
    assert eight.guest_tables == 8 * TABLES
    (inside, outside), (_, few) = eight.ept_tables(), one.ept_tables()
    assert len(inside) == TABLES
    megabytes = 8 * TABLES * 4096 / ENTRY  # that the guest's tables fill: 8.05
    assert len(outside) <= len(few) + megabytes


@pytest.mark.parametrize("processes, policy", [(1, "naive"), (2, "update"), (8, "today")])
def test_processes_over_the_same_gigabyte_take_515_shadow_pages_each(processes, policy):
    """2.5 GiB of slots allow 13107 shadow pages (a page for 50 frames), so none is recycled."""
    many = Gigabyte("shadow", processes, policy=policy)
    assert many.shadow_tables() == [TABLES] * processes
    assert not many.records
    assert many.machine.vcpu.mmu.table_frames >= processes * TABLES


@pytest.mark.long
@pytest.mark.parametrize("mmu", ["native", "ept", "shadow"])
def test_all_262144_pages_of_two_processes_take_the_same_tables(mmu):
    both = Gigabyte(mmu, processes=2, stride=4096, policy="today")
    assert both.guest_tables == 2 * TABLES
    if mmu == "ept":
        assert len(both.ept_tables()[0]) == TABLES
    if mmu == "shadow":
        assert both.shadow_tables() == [TABLES] * 2
