"""The guest kernel's page tables, built by its own loads and stores.

Every entry is read and written through the CPU at its address in the kernel's direct map, so a
hypervisor that write-protects a table sees the store trap, and EPT sees the frame touched.
Linux, arch/x86/mm and mm/memory.c.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import Overlap
from kvmlab.base.tap import Tap
from kvmlab.guest.records import TableMade
from kvmlab.guest.smp import Smp
from kvmlab.hardware.formats import Format

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL = (
    1 << 0,
    1 << 1,
    1 << 2,
    1 << 5,
    1 << 6,
    1 << 7,
    1 << 8,
)
UNCACHED = 3 << 3  # PWT, PCD
NX = 1 << 63
_TABLE = PRESENT | WRITABLE | ACCESSED | DIRTY  # _KERNPG_TABLE; with USER, _PAGE_TABLE
_FRAME = 0x000F_FFFF_FFFF_F000
_WIDE = 8  # bytes of an entry but of 32-bit paging
_KERNEL_HALF = 1 << 11  # of the entries of a root


def pointing(table: int) -> int:
    """The entry of a user's address range that leads to a table of small pages."""
    return table | _TABLE | USER


class PageTables:
    """Trees of page tables in one format, at guest-physical roots.

    ``virtual`` gives the address at which the kernel sees a guest-physical one, ``alloc`` a
    zeroed frame for a table.  ``isolated``: each root has a second one in the next frame, which
    user mode runs on (KPTI).
    """

    def __init__(
        self,
        smp: Smp,
        fmt: Format,
        virtual: Callable[[int], int],
        alloc: Callable[[], int],
        tap: Tap,
        *,
        isolated: bool = False,
    ) -> None:
        self.format, self.virtual, self.isolated = fmt, virtual, isolated
        self._smp, self._alloc, self._tap = smp, alloc, tap

    def shift_of(self, level: int) -> int:
        """The shift of what one entry at ``level`` covers."""
        bits = self.format.index_bits
        return 12 + sum(bits[len(bits) - level + 1 :])

    def level_of(self, shift: int) -> int:
        """The level of a leaf that maps a page of 2**shift bytes."""
        return next(one for one in range(1, self.format.levels + 1) if self.shift_of(one) == shift)

    def slot(self, table: int, gva: int, level: int) -> int:
        """The guest-physical address of the entry for ``gva`` in ``table`` at ``level``."""
        bits = self.format.index_bits[self.format.levels - level]
        index = gva >> self.shift_of(level) & (1 << bits) - 1
        return table + index * self.format.entry_bytes

    def read(self, slot: int) -> int:
        """Load an entry."""
        return self._smp.cpu.load(self.virtual(slot), self.format.entry_bytes)

    def write(self, slot: int, entry: int) -> None:
        """Store an entry: the store that a hypervisor may trap."""
        self._smp.cpu.store(self.virtual(slot), entry, self.format.entry_bytes)

    def map(self, root: int, gva: int, frame: int, shift: int, flags: int) -> int:
        """Map one page of 2**shift bytes at ``gva`` to ``frame``; returns the entry's slot.

        Raises `Overlap`.
        """
        leaf = self.level_of(shift)
        slot = self.prepare(root, gva, leaf, flags & USER)
        if self.read(slot) & PRESENT:
            raise Overlap(f"{gva:#x} is already mapped")
        self.write(slot, frame | flags | PRESENT | (LARGE if leaf > 1 else 0))
        return slot

    def prepare(self, root: int, gva: int, leaf: int, user: int = USER) -> int:
        """The slot for ``gva`` at level ``leaf``; tables down to it are made.  Raises `Overlap`."""
        table = root
        for level in range(self.format.levels, leaf, -1):
            slot = self.slot(table, gva, level)
            entry = self.read(slot)
            if not entry & PRESENT:
                entry = self.add_table(slot, level, user)
            elif entry & LARGE:
                raise Overlap(f"{gva:#x} lies in a large page that is already mapped")
            table = entry & _FRAME
        return self.slot(table, gva, leaf)

    def way(self, root: int, gva: int, level: int) -> list[int]:
        """The slots on the way down to the one for ``gva`` at ``level``; empty if a table lacks."""
        slots, table = [], root
        for here in range(self.format.levels, level - 1, -1):
            slots.append(self.slot(table, gva, here))
            entry = self.read(slots[-1])
            if here > level and (not entry & PRESENT or entry & LARGE):
                return []
            table = entry & _FRAME
        return slots

    def fill(self, slot: int, frames: list[int] | NDArray[np.int64], flags: int) -> None:
        """Map small pages by neighbouring entries of one table, which are empty."""
        entries = np.asarray(frames).astype(np.uint64) | np.uint64(flags | PRESENT)
        here = self.virtual(slot)
        wide = self.format.entry_bytes == _WIDE
        self._smp.cpu.store_each(here, entries if wide else entries.astype(np.uint32))

    def read_all(self, table: int, level: int = 1) -> list[int]:
        """Every entry of a table of ``level``, by one load of all of it."""
        size = self.entries(level) * self.format.entry_bytes
        data = self._smp.cpu.load(self.virtual(table), size).to_bytes(size, "little")
        wide = self.format.entry_bytes == _WIDE
        entries: list[int] = np.frombuffer(data, np.uint64 if wide else np.uint32).tolist()
        return entries

    def clear(self, table: int) -> None:
        """Empty all of a table by one store."""
        self._smp.cpu.store_bytes(self.virtual(table), bytes(PAGE_SIZE))

    def point(self, slot: int, table: int) -> None:
        """Let an entry of the user's half lead to a table (pmd_populate())."""
        self.write(slot, pointing(table))

    def index(self, slot: int) -> int:
        """The number of an entry in its table."""
        return (slot & PAGE_SIZE - 1) // self.format.entry_bytes

    def find(self, root: int, gva: int) -> tuple[int, int] | None:
        """The slot and level of the leaf entry for ``gva``, or None if nothing is mapped."""
        table = root
        for level in range(self.format.levels, 0, -1):
            slot = self.slot(table, gva, level)
            entry = self.read(slot)
            if not entry & PRESENT:
                return None
            if level == 1 or entry & LARGE:
                return slot, level
            table = entry & _FRAME
        return None

    def table_at(self, root: int, gva: int, leaf: int) -> tuple[int, int] | None:
        """The slot that a leaf at level ``leaf`` would take for ``gva`` if a table is there now.

        Returns that slot and the table, or None.
        """
        table = root
        for level in range(self.format.levels, leaf - 1, -1):
            slot = self.slot(table, gva, level)
            entry = self.read(slot)
            if not entry & PRESENT or level == 1 or entry & LARGE:
                return None
            table = entry & _FRAME
        return slot, table

    def frame_of(self, entry: int, level: int) -> int:
        """The guest-physical address of the page that a leaf entry at ``level`` maps."""
        return entry & _FRAME & ~((1 << self.shift_of(level)) - 1)

    def flags_of(self, entry: int, level: int) -> int:
        """What a leaf entry at ``level`` says beside its frame: what `map` takes."""
        return entry & ~self.frame_of(entry, level) & ~(PRESENT | (LARGE if level > 1 else 0))

    def tables_below(self, table: int, level: int, top_entries: int) -> list[tuple[int, int]]:
        """Every table under ``table``, itself last, as (address, level).

        At the top only the first ``top_entries`` are followed: a process owns the user half.
        """
        found = []
        if level > 1:
            for index in range(top_entries):
                entry = self.read(table + index * self.format.entry_bytes)
                if entry & PRESENT and not entry & LARGE:
                    below = self.entries(level - 1)
                    found += self.tables_below(entry & _FRAME, level - 1, below)
        return [*found, (table, level)]

    def entries(self, level: int) -> int:
        """How many entries a table at ``level`` has."""
        return 1 << self.format.index_bits[self.format.levels - level]

    def add_table(self, slot: int, level: int, user: int = USER) -> int:
        """Make ``slot``, an entry at ``level``, point to a new empty table; returns the entry."""
        gpa = self._alloc()
        self._tap(TableMade(level - 1, gpa))
        pointer = self.format.mode == "PAE" and level == self.format.levels
        entry = gpa | (PRESENT if pointer else _TABLE | user)  # a PDPTE has no rights, no A
        if self.isolated and level == self.format.levels and not slot & _KERNEL_HALF:
            self.write(slot | PAGE_SIZE, entry)  # pti_set_user_pgtbl()
            entry |= NX  # the kernel's root cannot run user code by mistake
        self.write(slot, entry)
        return entry
