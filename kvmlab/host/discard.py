"""Mappings of a host process go: dropped by madvise, taken out to be replaced, or at its end.

Linux, mm/madvise.c: madvise_dontneed_single_vma(); mm/memory.c: zap_pte_range().
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.tap import silent
from kvmlab.host.page_table import BLOCK, PRESENT, Leaf, pfns_of
from kvmlab.host.parts import Parts
from kvmlab.host.records import HostTookBack
from kvmlab.linux.frames import Pages, Role, runs

if TYPE_CHECKING:
    from kvmlab.host.address_space import AddressSpace


class Discard:
    """Empties entries of the page table of ``space`` and frees what they mapped."""

    def __init__(self, space: "AddressSpace", parts: Parts) -> None:
        self._space, self._parts = space, parts

    def range(self, hva: int, size: int) -> int:
        """Drop a range: the next touch finds zeroes.  Returns how many bytes the host got.

        That is less than was mapped if a huge page is only partly dropped: its frames are free
        when it is split.  Whole pages of one area only; raises `BadAddress`.
        """
        area = self._space.areas.whole_pages(hva, size)
        for edge in dict.fromkeys((hva, hva + size - PAGE_SIZE)):
            leaf = self._space.table.find(edge)
            if leaf and leaf.level == 2 and not area.pool:
                within = hva <= leaf.hva and leaf.hva + BLOCK <= hva + size
                if not within:
                    self._space.split_entry(leaf)
        self._space.notify(hva, hva + size)
        freed, end = 0, hva + size
        plain: list[Pages] = []
        while hva < end:
            stop = min(end, (hva & -BLOCK) + BLOCK)
            freed += self._empty_block(hva, stop, plain)
            hva = stop
        pages = np.concatenate(plain) if plain else np.empty(0, np.int64)
        self._space.rss -= len(pages)
        self._parts.memory.free_pages(pages)
        return freed + (len(pages) << PAGE_SHIFT)

    def each(self, hvas: NDArray[np.int64]) -> int:
        """Drop single 4 KiB pages, by one `madvise_dontneed` each; returns the bytes freed.

        When nobody listens, neighbours go together: the same pages, in fewer steps.
        """
        if self._parts.tap is not silent:
            return sum(self.range(hva, PAGE_SIZE) for hva in hvas.tolist())
        return sum(
            self.range(first << PAGE_SHIFT, count << PAGE_SHIFT)
            for first, count in runs(hvas >> PAGE_SHIFT)
        )

    def _empty_block(self, hva: int, end: int, plain: list[Pages]) -> int:
        """Empty what one table covers; returns how many bytes the host got at once.

        Plain small pages are left to the caller, in ``plain``; all else is freed one by one.
        """
        address, entries = self._space.table.small_entries(hva, end)
        used = np.flatnonzero(entries)
        if len(entries) > len(used) == 0:
            return 0
        pfns = pfns_of(entries[used])
        present = (entries[used] & PRESENT != 0).all()
        if not len(used) or not present or not self._parts.plain(pfns):
            return sum(self.zap(leaf) for leaf in self._space.table.between(hva, end))
        self._space.table.clear(address, len(entries))
        plain.append(pfns)
        if self._parts.tap is not silent:
            for page, pfn in zip(used.tolist(), pfns.tolist(), strict=True):
                told = HostTookBack(hva + page * PAGE_SIZE, pfn << PAGE_SHIFT, PAGE_SHIFT)
                self._parts.tap(told)
        return 0

    def zap(self, leaf: Leaf, *, ending: bool = False) -> int:
        """Empty an entry, after notification; returns how many bytes the host got."""
        self._space.table.set(leaf.address, 0)
        if not leaf.present:
            self._parts.memory.swap.release(leaf.slot)
            self._space.swap_entries -= 1
            return 0
        area = self._space.areas.find(leaf.hva)
        if area.pool:
            area.pool.give_back(leaf.pfn, promised=not ending)
            freed = 1 << leaf.shift
        else:
            freed = self.take_out(leaf) << PAGE_SHIFT
        self._parts.tap(HostTookBack(leaf.hva, leaf.pfn << PAGE_SHIFT, leaf.shift))
        return freed

    def take_out(self, leaf: Leaf) -> int:
        """Empty the entry of an anonymous page; returns how many frames are free for that."""
        self._space.table.set(leaf.address, 0)
        self._space.rss -= 1 << leaf.shift - PAGE_SHIFT
        if leaf.level == 2:
            self._space.table.withdraw(leaf.address)
            self._parts.memory.free(leaf.pfn, 9)
            return 512
        if self._parts.memory.frames.role[leaf.pfn] == Role.KSM:
            return self._parts.ksm.unmapped(self._space, leaf)
        if self._parts.memory.huge.is_piece(leaf.pfn):
            return self._parts.memory.huge.entry_gone(leaf.pfn)
        self._parts.memory.free(leaf.pfn)
        return 1
