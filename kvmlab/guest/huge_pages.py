"""Transparent huge pages in a guest's address spaces: entries of 2 MiB come, are split, and go.

Every change is a load or a store of the guest's CPU, and each flush is the one that Linux does.
Linux, mm/huge_memory.c.  Which page may be huge, and what becomes of its pieces, is the same for
any Linux (linux/huge_pages.py).  32-bit paging has large pages of 4 MiB, and none of these.
"""

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import OutOfMemory
from kvmlab.base.tap import Tap
from kvmlab.guest.frames import Frames
from kvmlab.guest.process import Process, Vma
from kvmlab.guest.records import EntrySplit
from kvmlab.guest.shootdown import Shootdown
from kvmlab.guest.tables import PRESENT, PageTables
from kvmlab.linux.huge_pages import HUGE_SHIFT, HUGE_SIZE, base_of_huge, huge_fits
from kvmlab.linux.memory import Memory
from kvmlab.linux.records import VmEvent

LEAF = 2  # the level of an entry of 2 MiB


class HugeEntries:
    """The entries of 2 MiB in the address spaces of a guest whose frames ``memory`` manages.

    Each has a table at hand into which it is split, so that splitting never needs memory
    (pgtable_trans_huge_deposit()).
    """

    def __init__(
        self, tables: PageTables, frames: Frames, shootdown: Shootdown, memory: Memory, tap: Tap
    ) -> None:
        self._tables, self._frames, self._shootdown = tables, frames, shootdown
        self._memory, self._tap = memory, tap
        self._deposits: dict[int, int] = {}  # slot of an entry -> that table

    def wanted(self, vma: Vma, gva: int) -> bool:
        """Whether the 2 MiB around ``gva`` may be one page."""
        return vma.file is None and huge_fits(vma, gva) and self._memory.huge.wanted(vma)

    def find(self, process: Process, vma: Vma, gva: int) -> int | None:
        """A page for the 2 MiB around ``gva``, its GPA; None if small pages must do.

        do_huge_pmd_anonymous_page(): nothing is mapped there yet, and there is a free block.
        """
        if not self.wanted(vma, gva):
            return None
        slot = self._tables.prepare(process.root, gva, LEAF)
        if self._tables.read(slot):
            return None
        self.deposit(slot)
        try:
            pfn = self._memory.huge.alloc_at_fault(vma)
        except OutOfMemory:
            self.gone(slot)
            self._memory.tell(VmEvent("thp_fault_fallback"))
            return None
        self._memory.tell(VmEvent("thp_fault_alloc"))
        return pfn * PAGE_SIZE

    def prepare_copy(self, parent: Process, child: Process, gva: int) -> bool:
        """Make all that a child's entry of 2 MiB needs; raises `OutOfMemory`.

        False if reclaim has split the parent's meanwhile (copy_huge_pmd() returns -EAGAIN).
        """
        slot = self._tables.prepare(child.root, gva, LEAF)
        self.deposit(slot)
        if self.page_of(parent, gva) is None:
            self.gone(slot)
            return False
        return True

    def has(self, slot: int) -> bool:
        """Whether the entry at ``slot`` is one of these."""
        return slot in self._deposits

    def deposit(self, slot: int, table: int | None = None) -> None:
        """Keep a table, or a new one, for the entry at ``slot``; raises `OutOfMemory`."""
        self._deposits[slot] = self._frames.alloc_table() if table is None else table

    def gone(self, slot: int) -> None:
        """The entry at ``slot`` is empty: if it was of 2 MiB its table goes too."""
        if self.has(slot):
            self._frames.free_table(self._deposits.pop(slot))

    def page_of(self, process: Process, gva: int) -> int | None:
        """The page, by its GPA, that an entry of 2 MiB maps ``gva`` to, if one does."""
        found = self._tables.find(process.root, gva)
        if found is None or not self.has(found[0]):
            return None
        return self._tables.frame_of(self._tables.read(found[0]), LEAF)

    def split(self, process: Process, gva: int) -> None:
        """Let 512 small entries map what one maps at ``gva``, if one does; the page stays whole.

        The entry is not present until the table is filled, and flushed first, so that no CPU
        knows the page in both sizes (__split_huge_pmd_locked()).
        """
        found = self._tables.find(process.root, gva)
        if found is None or not self.has(found[0]):
            return
        slot, base = found[0], base_of_huge(gva)
        entry = self._tables.read(slot)
        page, table = self._tables.frame_of(entry, LEAF), self._deposits.pop(slot)
        self._tables.write(slot, entry & ~PRESENT)
        self._shootdown.flush_pages(process, [base], HUGE_SHIFT)
        pieces = list(range(page, page + HUGE_SIZE, PAGE_SIZE))
        self._tables.fill(table, pieces, self._tables.flags_of(entry, LEAF))
        self._tables.point(slot, table)
        self._frames.entry_split(page)
        self._tap(EntrySplit(process.name, base, page))

    def split_at(self, process: Process, gva: int) -> None:
        """A mapping is to begin or end at ``gva``: no entry reaches over that.

        Linux, vma_adjust_trans_huge().
        """
        if gva != base_of_huge(gva):
            self.split(process, gva)
