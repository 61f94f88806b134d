"""A process of the host, QEMU: its page table maps HVA to HPA, filled on demand.

The table is real: 4-level x86 entries in RAM, walked with the walker of `hardware`.  The host
kernel writes it directly, since how the host itself is translated is not this package's subject.
"""

from collections.abc import Callable

from kvmlab.base.addresses import size_text
from kvmlab.base.errors import BadAddress, BadSize
from kvmlab.base.tap import Tap
from kvmlab.hardware.formats import compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from kvmlab.hardware.records import Fault, Mapped
from kvmlab.hardware.walker import walk
from kvmlab.host.records import HostFault, HostMigrated, HostTookBack
from kvmlab.linux.buddy import Buddy

_MMAP_BASE = 0x7F5A_0000_0000  # where mmap starts to place areas; areas grow upwards from here
_PRESENT_TABLE, _PRESENT_PAGE, _PS = 0x67, 0x67, 0x80
_LEVELS = 4

Notifier = Callable[[int, int], None]
"""Told [start, end) of the HVAs whose mappings are about to go: invalidate_range_start."""


class AddressSpace:
    """The virtual memory of one host process, in areas of one page size each."""

    def __init__(self, ram: Ram, buddy: Buddy, tap: Tap) -> None:
        self._ram, self._buddy, self._tap = ram, buddy, tap
        self._tables = compile_tables(format_named("4-level"), Processor())
        self._areas: list[tuple[int, int, int]] = []  # start, end, page shift
        self._next = _MMAP_BASE
        self.notifiers: list[Notifier] = []  # told before mappings go (mmu_notifier)
        self.root = self._table()

    def mmap(self, size: int, shift: int = PAGE_SHIFT) -> int:
        """Reserve ``size`` bytes backed by pages of 2**shift bytes; returns the HVA.

        Nothing is backed yet.  The area starts at a multiple of its page size, so guest-physical
        and host-virtual addresses are congruent.
        """
        page = 1 << shift
        if size % page:
            raise BadSize(f"{size_text(size)} is no multiple of the host page {size_text(page)}")
        start = -(-self._next // page) * page
        self._next = start + size + PAGE_SIZE  # a guard page
        self._areas.append((start, start + size, shift))
        return start

    def translate(self, hva: int) -> Mapped | None:
        """Where ``hva`` is in host memory now; None while it is not backed."""
        steps = walk(self._tables, self.root, hva, self._ram)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found = end.value
                return None if isinstance(found, Fault) else found

    def fault_in(self, hva: int) -> Mapped:
        """Where ``hva`` is, backed with a zeroed page first if need be (get_user_pages)."""
        found = self.translate(hva)
        if found is None:
            self._back(hva)
            found = self.translate(hva)
            assert found is not None  # noqa: S101  it was just mapped
            self._tap(HostFault(hva, found.address, found.shift))
        return found

    def madvise_dontneed(self, hva: int, size: int) -> None:
        """Give the frames of a range back to the host; the next touch finds zeroes.

        Notifiers are told first, so that no one who shadows this table is left behind (Linux,
        include/linux/mmu_notifier.h).  Whole pages of one area only; raises `BadAddress`.
        """
        shift = self._area_shift(hva)
        page = 1 << shift
        if hva % page or size <= 0 or size % page or self._area_shift(hva + size - 1) != shift:
            raise BadAddress(
                f"HVA {hva:#x} with {size:#x} bytes is no range of whole pages of "
                f"{size_text(page)} in one area"
            )
        for tell in self.notifiers:
            tell(hva, hva + size)
        for one in range(hva, hva + size, page):
            self._take_back(one, shift)

    def _take_back(self, hva: int, shift: int) -> None:
        found = self.translate(hva)
        if found is None:
            return
        self._ram.store(found.path[-1].hpa, 0)
        pfn = found.address >> PAGE_SHIFT
        for one in range(pfn, pfn + (1 << shift - PAGE_SHIFT)):
            self._ram.discard(one)
        self._buddy.free(pfn, shift - PAGE_SHIFT)
        self._tap(HostTookBack(hva, found.address, shift))

    def migrate(self, hva: int) -> int:
        """Move the page of ``hva`` to another frame; returns where it is now.

        Compaction and NUMA balancing do so (Linux, mm/migrate.c).  Notifiers are told first, as
        by `madvise_dontneed`.  Raises `BadAddress` if nothing backs ``hva``, `OutOfMemory` if there
        is no frame to move to; then nothing has changed.
        """
        found = self.translate(hva)
        if found is None:
            raise BadAddress(f"HVA {hva:#x} is not backed: there is no page to migrate")
        size = 1 << found.shift
        first, old = hva & -size, found.address & -size
        new = self._buddy.alloc(found.shift - PAGE_SHIFT) << PAGE_SHIFT
        for tell in self.notifiers:
            tell(first, first + size)
        for offset in range(0, size, PAGE_SIZE):
            self._ram.discard(new + offset >> PAGE_SHIFT)
            self._ram.write(new + offset, self._ram.read(old + offset, PAGE_SIZE))
            self._ram.discard(old + offset >> PAGE_SHIFT)
        leaf = found.path[-1]
        self._ram.store(leaf.hpa, leaf.entry ^ old ^ new)
        self._buddy.free(old >> PAGE_SHIFT, found.shift - PAGE_SHIFT)
        self._tap(HostMigrated(first, old, new, found.shift))
        return new | hva & size - 1

    def _area_shift(self, hva: int) -> int:
        """The page shift of the area that holds ``hva``."""
        for start, end, shift in self._areas:
            if start <= hva < end:
                return shift
        raise BadAddress(f"HVA {hva:#x} is in no area of the process")

    def _back(self, hva: int) -> None:
        shift = self._area_shift(hva)
        table = self.root
        leaf_level = (shift - PAGE_SHIFT) // 9 + 1
        for level in range(_LEVELS, leaf_level, -1):
            slot = table + (hva >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8
            entry = self._ram.load(slot)
            if not entry & 1:
                entry = self._table() | _PRESENT_TABLE
                self._ram.store(slot, entry)
            table = entry & ~(PAGE_SIZE - 1)
        page = self._buddy.alloc(shift - PAGE_SHIFT) << PAGE_SHIFT
        slot = table + (hva >> shift & 511) * 8
        self._ram.store(slot, page | _PRESENT_PAGE | (_PS if leaf_level > 1 else 0))

    def _table(self) -> int:
        pfn = self._buddy.alloc()
        self._ram.discard(pfn)
        return pfn << PAGE_SHIFT
