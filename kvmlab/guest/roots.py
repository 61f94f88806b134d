"""The tables at the top of each process: they come with the kernel's half, and go with all below.

Linux, arch/x86/mm/pgtable.c: pgd_alloc(), pgd_free().
"""

from kvmlab.guest.contexts import USER_ROOT
from kvmlab.guest.frames import Frames
from kvmlab.guest.tables import PageTables


class Roots:
    """Makes and frees the trees of tables of processes; user addresses end at ``user_end``."""

    def __init__(self, tables: PageTables, frames: Frames, user_end: int) -> None:
        self._tables, self._frames = tables, frames
        self._top_entries = user_end >> tables.shift_of(tables.format.levels)
        self._order = 1 if tables.isolated else 0  # PGD_ALLOCATION_ORDER

    def new(self, kernel_entries: list[tuple[int, int]]) -> int:
        """A root with the kernel's half; with KPTI a pair of roots, the second with less of it."""
        root = self._frames.alloc_table(self._order)
        for offset, entry in kernel_entries:
            self._tables.write(root + offset, entry)
        if self._order:  # the last entry leads to the entry code
            offset, entry = kernel_entries[-1]
            self._tables.write(root + USER_ROOT + offset, entry)
        if self._tables.format.mode == "PAE":
            self._preallocate(root)
        return root

    def _preallocate(self, root: int) -> None:
        """Give a PAE process all its page directories at once, as Linux does.

        The processor reads the four PDPTEs only when CR3 is loaded.
        """
        levels = self._tables.format.levels
        for number in range(self._top_entries):
            self._tables.add_table(root + number * self._tables.format.entry_bytes, levels)

    def free(self, root: int) -> None:
        """Give back a root and all tables below it, when nothing is mapped any more."""
        *below, _root = self._below(root)
        for table, _level in below:
            self._frames.free_table(table)
        self._frames.free_table(root, self._order)

    def tables_of(self, root: int) -> int:
        """How many page tables an address space has."""
        return len(self._below(root))

    def _below(self, root: int) -> list[tuple[int, int]]:
        levels = self._tables.format.levels
        return self._tables.tables_below(root, levels, self._top_entries)
