"""A process of the host, QEMU: its page table maps HVA to HPA, filled on demand.

The table is real: 4-level x86 entries in RAM, walked with the walker of `hardware`.  The host
kernel writes it directly, since how the host itself is translated is not this package's subject.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import size_text
from kvmlab.base.errors import BadAddress, BadSize
from kvmlab.base.tap import Tap, silent
from kvmlab.hardware.formats import compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from kvmlab.hardware.records import Fault, Mapped
from kvmlab.hardware.walker import walk
from kvmlab.host.records import HostFault, HostMigrated, HostTookBack, WillNeed
from kvmlab.linux.buddy import Buddy

_MMAP_BASE = 0x7F5A_0000_0000  # where mmap starts to place areas; areas grow upwards from here
_PRESENT_TABLE, _PRESENT_PAGE, _PS = 0x67, 0x67, 0x80
_FRAME = 0x000F_FFFF_FFFF_F000
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

    def madvise_dontneed(self, hva: int, size: int) -> int:
        """Give the frames of a range back to the host; the next touch finds zeroes.

        Returns how many bytes the host got: nothing for pages that were not backed.  Notifiers
        are told first, so that no one who shadows this table is left behind (Linux,
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
        return self._take_back(hva, hva + size, shift)

    def madvise_willneed(self, hva: int, size: int) -> None:
        """Announce that a range will be used; raises `BadAddress` for one of no area.

        Linux reads ahead what is swapped out or in a file; an anonymous page that was given back
        stays absent until it is touched (mm/madvise.c: madvise_willneed()).
        """
        self._area_shift(hva)
        self._area_shift(hva + size - 1)
        self._tap(WillNeed(hva, size))

    def page_shift(self, hva: int) -> int:
        """The shift of the pages that back the area of ``hva``; raises `BadAddress`."""
        return self._area_shift(hva)

    def madvise_dontneed_each(self, hvas: NDArray[np.int64]) -> int:
        """Give single 4 KiB pages back, by one `madvise_dontneed` each; returns the bytes freed.

        When nobody listens, neighbours go together: the same pages, in fewer steps.
        """
        if self._tap is not silent:
            return sum(self.madvise_dontneed(hva, PAGE_SIZE) for hva in hvas.tolist())
        return sum(self.madvise_dontneed(start, size) for start, size in _runs(hvas))

    def _take_back(self, start: int, end: int, shift: int) -> int:
        """Free the frames of a range of one area, table by table; returns the bytes freed."""
        freed, level = 0, (shift - PAGE_SHIFT) // 9 + 1
        span = 1 << shift + 9  # what one table of leaves covers
        while start < end:
            stop = min(end, (start & ~(span - 1)) + span)
            table = self._table_of(start, level)
            if table is not None:
                slot = table + (start >> shift & 511) * 8
                freed += self._clear(slot, start, (stop - start) >> shift, shift)
            start = stop
        return freed

    def _table_of(self, hva: int, leaf_level: int) -> int | None:
        """The table whose entries map the pages around ``hva``; None if there is none."""
        table = self.root
        for level in range(_LEVELS, leaf_level, -1):
            entry = self._ram.load(table + (hva >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8)
            if not entry & 1:
                return None
            table = entry & _FRAME
        return table

    def _clear(self, slot: int, hva: int, count: int, shift: int) -> int:
        """Clear ``count`` leaf entries from ``slot`` on and free what they mapped."""
        entries = self._ram.words_at(slot, count)
        present = np.flatnonzero(entries)
        pages = entries[present] & _FRAME
        self._ram.clear_words(slot, count)
        for first, size in _runs(pages, 1 << shift):
            self._ram.discard_run(first >> PAGE_SHIFT, size >> PAGE_SHIFT)
            self._buddy.free_run(first >> PAGE_SHIFT, size >> PAGE_SHIFT)
        if self._tap is not silent:
            for index, page in zip(present.tolist(), pages.tolist(), strict=True):
                self._tap(HostTookBack(hva + (index << shift), page, shift))
        return len(pages) << shift

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


def _runs(pages: NDArray[np.int64], step: int = PAGE_SIZE) -> Iterator[tuple[int, int]]:
    """Addresses of pages of ``step`` bytes, each counted once, as (start, size) of runs."""
    ordered = pages if (np.diff(pages) > 0).all() else np.unique(pages)
    breaks = np.flatnonzero(np.diff(ordered) != step) + 1
    firsts = ordered[np.append(0, breaks)] if ordered.size else ordered
    lasts = ordered[np.append(breaks - 1, -1)] if ordered.size else ordered
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield first, last - first + step
