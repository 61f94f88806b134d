"""Address spaces: pages come, are shared by fork, are copied when written, and go.

Every change is a store to a table through the CPU, followed by the flush that Linux does.
Linux, mm/memory.c; for large pages mm/hugetlb.c, which likewise copies a page as a whole.
"""

from collections.abc import Iterator
from typing import Protocol

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import OutOfMemory
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.contexts import USER_ROOT
from kvmlab.guest.frames import Frames
from kvmlab.guest.process import Process, Vma
from kvmlab.guest.records import DemandFault, PageCopied, PageReused
from kvmlab.guest.shootdown import Shootdown
from kvmlab.guest.smp import Smp
from kvmlab.guest.tables import ACCESSED, DIRTY, NX, USER, WRITABLE, PageTables


class Pager(Protocol):
    """Who takes pages away and brings them back, once it is attached (guest/reclaim.py)."""

    def fill(self, process: Process, gva: int, frame: int) -> None:
        """A page is about to be mapped: give it what it held before."""

    def mapped(self, process: Process, gva: int, frame: int) -> None:
        """A small page is mapped."""

    def copied(self, parent: Process, child: Process) -> None:
        """A child has what its parent has, wherever it is."""

    def forget(self, root: int, start: int, end: int) -> None:
        """A range is unmapped."""

    def gone(self, root: int) -> None:
        """An address space is no more."""


class Memory:
    """What is done to the address spaces of processes; user addresses end at ``user_end``."""

    def __init__(
        self,
        smp: Smp,
        tables: PageTables,
        frames: Frames,
        shootdown: Shootdown,
        user_end: int,
        tap: Tap,
    ) -> None:
        self._smp, self._tables, self._frames = smp, tables, frames
        self._shootdown, self._tap = shootdown, tap
        self.pager: Pager | None = None  # who swaps pages out, if anybody does
        self._top_entries = user_end >> tables.shift_of(tables.format.levels)

    # -- address spaces -----------------------------------------------------------------

    def new_root(self, kernel_entries: list[tuple[int, int]]) -> int:
        """A root with the kernel's half; with KPTI a pair of roots, the second with less of it."""
        root = self._frames.alloc_table(self._root_order)
        for offset, entry in kernel_entries:
            self._tables.write(root + offset, entry)
        if self._root_order:  # the last entry leads to the entry code
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

    def free(self, root: int, vmas: list[Vma]) -> None:
        """Give back the pages and tables of an address space that runs no more (exit_mmap)."""
        for vma in vmas:
            self._forget(root, vma)
            for _gva, slot, level in list(self._mapped(root, vma)):
                entry = self._tables.read(slot)
                self._tables.write(slot, 0)
                self._frames.release(self._tables.frame_of(entry, level), vma.shift - PAGE_SHIFT)
        levels = self._tables.format.levels
        *below, _root = self._tables.tables_below(root, levels, self._top_entries)
        for table, _level in below:
            self._frames.free_table(table)
        self._frames.free_table(root, self._root_order)
        if self.pager:
            self.pager.gone(root)

    def tables_of(self, root: int) -> int:
        """How many page tables an address space has."""
        levels = self._tables.format.levels
        return len(self._tables.tables_below(root, levels, self._top_entries))

    def _forget(self, root: int, vma: Vma) -> None:
        if self.pager:
            self.pager.forget(root, vma.start, vma.end)

    @property
    def _root_order(self) -> int:
        return 1 if self._tables.isolated else 0  # PGD_ALLOCATION_ORDER

    # -- fork ---------------------------------------------------------------------------

    def copy(self, parent: Process, child: Process) -> int:
        """Give ``child`` all of ``parent`` to share until one writes; returns how many pages.

        Both sides lose W; the child's entries start as not accessed (copy_present_ptes,
        copy_huge_pmd).  The parent's translations are flushed once, at the end (dup_mmap).
        """
        pages = 0
        for vma in parent.vmas:
            child.vmas.append(vma)
            for gva, slot, level in self._mapped(parent.root, vma):
                entry = self._tables.read(slot)
                if entry & WRITABLE:
                    entry &= ~WRITABLE
                    self._tables.write(slot, entry)
                frame = self._tables.frame_of(entry, level)
                flags = self._tables.flags_of(entry, level) & ~ACCESSED
                self._frames.share(frame)  # first, so that it stays while a table is made
                try:
                    self._tables.map(child.root, gva, frame, vma.shift, flags)
                except OutOfMemory:
                    self._frames.release(frame, vma.shift - PAGE_SHIFT)
                    raise
                pages += 1
        if self.pager:
            self.pager.copied(parent, child)
        self._shootdown.flush(parent)
        return pages

    # -- page faults --------------------------------------------------------------------

    def demand(self, process: Process, vma: Vma, gva: int, *, write: bool) -> int:
        """Map a fresh zeroed page at ``gva``, as Linux does for anonymous memory; its slot.

        A page first touched by a write is born dirty.  (Linux maps its one zero page for a
        first touch that reads; here it gets a page of its own.)
        """
        if vma.shift > PAGE_SHIFT:
            self._retract(process, vma, gva)
        frame = self._frames.alloc(vma.shift - PAGE_SHIFT)
        if self.pager:
            self.pager.fill(process, gva, frame)
        flags = USER | ACCESSED | (WRITABLE if vma.write else 0)
        flags |= DIRTY if write else 0
        flags |= 0 if vma.execute or self._tables.format.entry_bytes == 4 else NX
        slot = self._tables.map(process.root, gva, frame, vma.shift, flags)
        self._tap(DemandFault(process.name, gva, frame, vma.shift))
        self._mapped_anew(process, vma, gva, frame)
        return slot

    def populate(self, process: Process, vma: Vma) -> None:
        """Give every page of a new mapping as `demand` does; unless told, table by table."""
        gva = vma.start
        while gva < vma.end:
            slot = self.demand(process, vma, gva, write=vma.write)
            gva += 1 << vma.shift
            if vma.shift == PAGE_SHIFT and self._tap is silent and not self.pager:
                gva += self._fill_table(slot, vma.end - gva >> PAGE_SHIFT)

    def _fill_table(self, slot: int, pages: int) -> int:
        """Map ``pages`` more like the one at ``slot``, in its table; how many bytes.

        That is less if the table ends, or frames run out.
        """
        flags = self._tables.flags_of(self._tables.read(slot), 1)
        room = self._tables.entries(1) - 1 - self._tables.index(slot)
        frames = self._frames.take(min(room, pages))
        self._tables.fill(slot + self._tables.format.entry_bytes, frames, flags)
        return len(frames) << PAGE_SHIFT

    def _mapped_anew(self, process: Process, vma: Vma, gva: int, frame: int) -> None:
        if self.pager and vma.shift == PAGE_SHIFT:
            self.pager.mapped(process, gva, frame)

    def _retract(self, process: Process, vma: Vma, gva: int) -> None:
        """Free the empty table that small pages left where a large one is to be.

        Linux frees such tables when the small pages are unmapped (free_pgtables).
        """
        leaf = self._tables.level_of(vma.shift)
        if found := self._tables.table_at(process.root, gva, leaf):
            slot, table = found
            self._tables.write(slot, 0)
            self._shootdown.flush_pages(process, [gva], vma.shift)
            entries = self._tables.entries(leaf - 1)
            for one, _level in self._tables.tables_below(table, leaf - 1, entries):
                self._frames.free_table(one)

    def write_protected(self, process: Process, vma: Vma, gva: int) -> bool:
        """Serve a write to a page without W that ``vma`` lets be written (do_wp_page).

        It is copied while others have it too; the last one has it to itself again.  False if
        the entry allows the write already.
        """
        found = self._tables.find(process.root, gva)
        entry = self._tables.read(found[0]) if found else 0
        if found is None or entry & WRITABLE:
            return False
        slot, level = found
        old = self._tables.frame_of(entry, level)
        entry |= WRITABLE | ACCESSED | DIRTY
        if not self._frames.shared(old):  # wp_page_reuse
            self._tables.write(slot, entry)
            self._tap(PageReused(process.name, gva, old, vma.shift))
            self._mapped_anew(process, vma, gva, old)
            return True
        new = self._frames.alloc(vma.shift - PAGE_SHIFT)
        self._copy_page(old, new, vma.shift)
        self._tables.write(slot, 0)
        self._shootdown.flush_pages(process, [gva], vma.shift)  # ptep_clear_flush
        self._tables.write(slot, entry ^ old ^ new)
        self._frames.release(old, vma.shift - PAGE_SHIFT)
        self._tap(PageCopied(process.name, gva, old, new, vma.shift))
        self._mapped_anew(process, vma, gva, new)
        return True

    def _copy_page(self, old: int, new: int, shift: int) -> None:
        """Copy through the direct map, 4 KiB at a time (REP MOVS)."""
        for offset in range(0, 1 << shift, PAGE_SIZE):
            data = self._smp.cpu.load(self._tables.virtual(old + offset), PAGE_SIZE)
            self._smp.cpu.store(self._tables.virtual(new + offset), data, PAGE_SIZE)

    # -- mappings -----------------------------------------------------------------------

    def unmap(self, process: Process, vma: Vma) -> None:
        """Clear every entry of a mapping and flush; only then its pages go (mmu_gather)."""
        self._forget(process.root, vma)
        gone = []
        for gva, slot, level in list(self._mapped(process.root, vma)):
            gone.append((gva, self._tables.frame_of(self._tables.read(slot), level)))
            self._tables.write(slot, 0)
        self._shootdown.flush_pages(process, [gva for gva, _frame in gone], vma.shift)
        for _gva, frame in gone:
            self._frames.release(frame, vma.shift - PAGE_SHIFT)

    def protect(self, process: Process, vma: Vma) -> None:
        """Give every entry of a mapping the rights that the mapping has now.

        A page that is shared stays without W: a write is to copy it (change_pte_range).
        """
        changed = []
        for gva, slot, level in self._mapped(process.root, vma):
            entry = self._tables.read(slot) & ~WRITABLE
            own = not self._frames.shared(self._tables.frame_of(entry, level))
            self._tables.write(slot, entry | (WRITABLE if vma.write and own else 0))
            changed.append(gva)
        self._shootdown.flush_pages(process, changed, vma.shift)

    def _mapped(self, root: int, vma: Vma) -> Iterator[tuple[int, int, int]]:
        """Each page of a mapping that has an entry: its address, the entry's slot and level."""
        for gva in range(vma.start, vma.end, 1 << vma.shift):
            if found := self._tables.find(root, gva):
                yield gva, *found
