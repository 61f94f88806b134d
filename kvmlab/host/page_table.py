"""The page table of a host process: 4-level x86 entries in RAM, written by the host's kernel.

An entry that is not present is empty or names a swap slot in bits 63:9.  (Linux keeps the slot's
bits inverted there, against L1TF: arch/x86/include/asm/pgtable_64.h.)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.hardware.ram import Ram

PRESENT, WRITABLE, ACCESSED, LARGE = 1 << 0, 1 << 1, 1 << 5, 1 << 7
PAGE, TABLE = 0x67, 0x67  # present, writable, user, accessed, dirty
_FRAME = 0x000F_FFFF_FFFF_F000
_SWAP_SHIFT = 9
BLOCK = PAGE_SIZE << 9  # what a table of small pages covers
_LEVELS = 4
_YOUNG = PRESENT | ACCESSED


@dataclass(slots=True)
class Leaf:
    """An entry that maps a page or names a swap slot; ``address`` is the entry's own."""

    hva: int
    address: int
    entry: int
    level: int

    @property
    def present(self) -> bool:
        """Whether it maps a page."""
        return bool(self.entry & PRESENT)

    @property
    def pfn(self) -> int:
        """The first frame of the page that it maps."""
        return (self.entry & _FRAME) >> PAGE_SHIFT

    @property
    def slot(self) -> int:
        """The swap slot that it names; 0 for none."""
        return 0 if self.entry & PRESENT else self.entry >> _SWAP_SHIFT

    @property
    def shift(self) -> int:
        """The page covers 2**shift bytes."""
        return PAGE_SHIFT + 9 * (self.level - 1)


def pfns_of(entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames that entries of small pages map."""
    return (entries & _FRAME) >> PAGE_SHIFT


def swap_entry(slot: int) -> int:
    """The entry of a page that is in swap."""
    return slot << _SWAP_SHIFT


def _pieces(leaf: Leaf) -> NDArray[np.int64]:
    """The 512 small entries that map what a huge one does."""
    flags = leaf.entry & PAGE & ~LARGE
    return leaf.pfn + np.arange(512) << PAGE_SHIFT | flags


class PageTable:
    """A tree of tables; ``alloc`` gives a zeroed frame for one, ``free`` takes it back."""

    def __init__(self, ram: Ram, alloc: Callable[[], int], free: Callable[[int], None]) -> None:
        self._ram, self._alloc, self._free = ram, alloc, free
        self.pages = 0
        self._deposits: dict[int, int] = {}  # of a huge entry: the table it will split into
        self.root = self._table()

    def find(self, hva: int) -> Leaf | None:
        """What is at ``hva``; None where there is no entry, or an empty one."""
        table = self.root
        for level in range(_LEVELS, 0, -1):
            address = self._entry_address(table, hva, level)
            entry = self._ram.load(address)
            if not entry:
                return None
            if level == 1 or entry & LARGE:
                start = hva & ~((PAGE_SIZE << 9 * (level - 1)) - 1)
                return Leaf(start, address, entry, level)
            table = entry & _FRAME
        return None

    def between(self, start: int, end: int) -> Iterator[Leaf]:
        """Every entry of [start, end) that is not empty, in order; one may be changed once seen."""
        if end - start > PAGE_SIZE:
            return self._below(self.root, _LEVELS, 0, start, end)
        leaf = self.find(start)
        return iter(() if leaf is None else (leaf,))

    def small_entries(self, hva: int, end: int) -> tuple[int, NDArray[np.int64]]:
        """Entries from ``hva`` on, up to ``end`` and in one table of small pages; a copy.

        With the address of the first one; there are none where a huge page or nothing is.
        """
        table = self.root
        for level in range(_LEVELS, 1, -1):
            entry = self._ram.load(self._entry_address(table, hva, level))
            if not entry or entry & LARGE:
                return 0, np.empty(0, np.int64)
            table = entry & _FRAME
        address = self._entry_address(table, hva, 1)
        count = min(end - hva >> PAGE_SHIFT, 512 - (hva >> PAGE_SHIFT & 511))
        return address, self._ram.words_at(address, count).copy()

    def as_small(self, start: int, end: int) -> NDArray[np.int64]:
        """Entries of [start, end), which lie in one block, as small ones; a copy.

        For a huge page those that would take its place if it were split.
        """
        _, entries = self.small_entries(start, end)
        if len(entries):
            return entries
        leaf, count = self.find(start), end - start >> PAGE_SHIFT
        if leaf is None:
            return np.zeros(count, np.int64)
        first = start - leaf.hva >> PAGE_SHIFT
        return _pieces(leaf)[first : first + count]

    def clear_accessed(self, hvas: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Clear A of small pages that are mapped; whether each had it."""
        young = np.zeros(len(hvas), np.bool_)
        blocks = hvas & -BLOCK
        for block in set(blocks.tolist()):
            mine = blocks == block
            address, entries = self.small_entries(block, block + BLOCK)
            where = hvas[mine] - block >> PAGE_SHIFT
            young[mine] = entries[where] & _YOUNG == _YOUNG
            entries[where] &= ~ACCESSED
            self._ram.store_words(address, entries)
        return young

    def fill(self, address: int, pfns: NDArray[np.int64]) -> None:
        """Let neighbouring entries of one table map these frames."""
        self._ram.store_words(address, pfns << PAGE_SHIFT | PAGE)

    def clear(self, address: int, count: int) -> None:
        """Empty neighbouring entries of one table."""
        self._ram.clear_words(address, count)

    def prepare(self, hva: int, level: int) -> int:
        """The address of the entry for ``hva`` at ``level``; tables down to it are made."""
        table = self.root
        for above in range(_LEVELS, level, -1):
            address = self._entry_address(table, hva, above)
            entry = self._ram.load(address)
            if not entry:
                entry = self._table() | TABLE
                self._ram.store(address, entry)
            table = entry & _FRAME
        return self._entry_address(table, hva, level)

    def entry(self, address: int) -> int:
        """The entry at an address that `prepare` gave."""
        return self._ram.load(address)

    def set(self, address: int, entry: int) -> None:
        """Store an entry."""
        self._ram.store(address, entry)

    def deposit(self, address: int) -> None:
        """Keep a table at hand for a huge entry, so that splitting it never needs memory."""
        self._deposits[address] = self._table()

    def withdraw(self, address: int) -> None:
        """A huge entry goes: the table kept for it is free (zap_deposited_table())."""
        self._drop(self._deposits.pop(address))

    def split(self, leaf: Leaf) -> None:
        """Put a table of 512 small entries in the place of a huge one (__split_huge_pmd())."""
        table = self._deposits.pop(leaf.address)
        self._ram.store_words(table, _pieces(leaf))
        self._ram.store(leaf.address, table | TABLE)

    def collapse(self, hva: int) -> int:
        """Take the emptied table at ``hva`` out and keep it for a split; its entry's address."""
        address = self.prepare(hva, 2)
        self._deposits[address] = self._ram.load(address) & _FRAME
        return address

    def release(self) -> None:
        """Give all tables back, when nothing is mapped any more."""
        for table in self._deposits.values():
            self._drop(table)
        self._deposits.clear()
        self._release(self.root, _LEVELS)

    def _release(self, table: int, level: int) -> None:
        for address in range(table, table + PAGE_SIZE, 8) if level > 1 else ():
            entry = self._ram.load(address)
            if entry & PRESENT:
                self._release(entry & _FRAME, level - 1)
        self._drop(table)

    def _below(self, table: int, level: int, base: int, start: int, end: int) -> Iterator[Leaf]:
        shift = PAGE_SHIFT + 9 * (level - 1)
        first, last = max(0, start - base >> shift), min(511, end - 1 - base >> shift)
        entries = self._ram.words_at(table + 8 * first, max(0, last + 1 - first)).tolist()
        for index, entry in enumerate(entries, first):
            if not entry:
                continue
            here = base + (index << shift)
            if level == 1 or entry & LARGE:
                yield Leaf(here, table + 8 * index, entry, level)
            else:
                yield from self._below(entry & _FRAME, level - 1, here, start, end)

    @staticmethod
    def _entry_address(table: int, hva: int, level: int) -> int:
        return table + (hva >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8

    def _table(self) -> int:
        self.pages += 1
        return self._alloc()

    def _drop(self, table: int) -> None:
        self.pages -= 1
        self._free(table)
