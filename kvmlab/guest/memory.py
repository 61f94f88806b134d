"""Address spaces: pages come, are shared by fork, are copied when written, and go.

Every change is a store to a table through the CPU, followed by the flush that Linux does.
Linux, mm/memory.c; for large pages mm/hugetlb.c, which likewise copies a page as a whole.
"""

from collections.abc import Iterator
from dataclasses import replace

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import OutOfMemory
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.ahead import Ahead
from kvmlab.guest.file_faults import FileFaults
from kvmlab.guest.frames import Frames
from kvmlab.guest.huge_pages import HugeEntries
from kvmlab.guest.pager import Pager
from kvmlab.guest.process import Process, Vma
from kvmlab.guest.records import DemandFault, PageCopied, PageReused, PagesCollapsed
from kvmlab.guest.roots import Roots
from kvmlab.guest.shootdown import Shootdown
from kvmlab.guest.smp import Smp
from kvmlab.guest.tables import ACCESSED, DIRTY, NX, USER, WRITABLE, PageTables
from kvmlab.linux.huge_pages import HUGE_SHIFT, HUGE_SIZE, huge_blocks
from kvmlab.linux.memory import Memory as Managed
from kvmlab.linux.page_cache import PageCache


class Memory:
    """What is done to the address spaces of processes."""

    def __init__(
        self,
        smp: Smp,
        tables: PageTables,
        frames: Frames,
        shootdown: Shootdown,
        roots: Roots,
        tap: Tap,
    ) -> None:
        self._smp, self._tables, self._frames = smp, tables, frames
        self._shootdown, self._roots, self._tap = shootdown, roots, tap
        self._ahead = Ahead(smp, tables, frames)
        self.pager: Pager | None = None  # who swaps pages out, if anybody does
        self.huge: HugeEntries | None = None  # THP, where memory is managed at all
        self.files: FileFaults | None = None  # and files, which may be mapped then

    def manage(self, memory: Managed, pager: Pager, cache: PageCache) -> None:
        """From now on ``memory`` is what reclaims, on behalf of ``pager``; files may be mapped.

        Huge pages may come, but not with 32-bit paging, whose large pages are of 4 MiB.
        """
        self.pager, self._frames.huge = pager, memory.huge
        parts = self._tables, self._frames, self._shootdown
        self.files = FileFaults(self, *parts, pager, cache, self._tap)
        if HUGE_SHIFT in self._tables.format.page_shifts:
            self.huge = HugeEntries(*parts, memory, self._tap)

    # -- address spaces -----------------------------------------------------------------

    def free(self, root: int, vmas: list[Vma]) -> None:
        """Give back the pages and tables of an address space that runs no more (exit_mmap)."""
        for vma in vmas:
            self._forget(root, vma)
            for _gva, slot, level in list(self._mapped(root, vma)):
                entry = self._tables.read(slot)
                self._tables.write(slot, 0)
                self._gone(vma, slot, entry, level)
        self._roots.free(root)
        if self.pager:
            self.pager.gone(root)

    def _gone(self, vma: Vma, slot: int, entry: int, level: int) -> None:
        """A page that an entry of ``vma`` mapped has one mapping less (zap_present_ptes())."""
        frame = self._tables.frame_of(entry, level)
        if vma.file and self.files:
            self.files.left(frame, entry)
        self._frames.release(frame, self._tables.shift_of(level) - PAGE_SHIFT)
        if self.huge:
            self.huge.gone(slot)

    def _forget(self, root: int, vma: Vma) -> None:
        if self.pager:
            self.pager.forget(root, vma.start, vma.end)

    # -- fork ---------------------------------------------------------------------------

    def copy(self, parent: Process, child: Process) -> int:
        """Give ``child`` all of ``parent`` to share until one writes; returns how many pages.

        Both sides lose W; the child's entries start as not accessed (copy_present_ptes,
        copy_huge_pmd).  The parent's translations are flushed once, at the end (dup_mmap).
        """
        pages = 0
        for vma in parent.vmas:
            child.vmas.append(vma)
            if not self.files or self.files.to_copy(vma, self._mapped(parent.root, vma)):
                pages += self._copy_entries(parent, child, vma)
        if self.pager:
            self.pager.copied(parent, child)
        self._shootdown.flush(parent)
        return pages

    def _copy_entries(self, parent: Process, child: Process, vma: Vma) -> int:
        pages = 0
        for gva, slot, level in self._mapped(parent.root, vma):
            shift = self._tables.shift_of(level)
            if self.huge and self.huge.has(slot):
                block = replace(vma, start=gva, end=gva + HUGE_SIZE)
                if not self.huge.prepare_copy(parent, child, gva):
                    pages += self._copy_entries(parent, child, block)
                    continue
            entry = self._tables.read(slot)
            if entry & WRITABLE:
                entry &= ~WRITABLE
                self._tables.write(slot, entry)
            frame = self._tables.frame_of(entry, level)
            flags = self._tables.flags_of(entry, level) & ~ACCESSED
            self._frames.share(frame, shift - PAGE_SHIFT)  # so that it stays while a table is made
            try:
                self._tables.map(child.root, gva, frame, shift, flags)
            except OutOfMemory:
                self._frames.release(frame, shift - PAGE_SHIFT)
                raise
            pages += 1 << shift - vma.shift
        return pages

    # -- page faults --------------------------------------------------------------------

    def demand(self, process: Process, vma: Vma, gva: int, *, write: bool) -> int:
        """Map a page of a file, or a fresh zeroed one as for anonymous memory; its slot.

        A page first touched by a write is born dirty.  (Linux maps its one zero page for a
        first touch that reads; here it gets a page of its own.)
        """
        if self.files and (file := self.files.asked(process, vma, gva)):
            return self.files.fault(process, vma, file, gva, write=write)
        if self.huge and (page := self.huge.find(process, vma, gva)) is not None:
            return self.install(process, vma, gva, page, HUGE_SHIFT, write=write)
        if vma.shift > PAGE_SHIFT:
            self._retract(process, vma, gva)
        frame = self._frames.alloc(vma.shift - PAGE_SHIFT)
        return self.install(process, vma, gva, frame, vma.shift, write=write)

    def install(
        self, process: Process, vma: Vma, gva: int, frame: int, shift: int, *, write: bool
    ) -> int:
        """Map a page of 2**shift bytes at ``gva`` or around it, with what was there; its slot."""
        gva &= -1 << shift
        if self.pager:
            self.pager.fill(process, gva, frame)
        flags = self.flags(vma) | (DIRTY if write else 0)
        slot = self._tables.map(process.root, gva, frame, shift, flags)
        self._tap(DemandFault(process.name, gva, frame, shift))
        self._mapped_anew(process, vma, gva, frame, shift)
        return slot

    def flags(self, vma: Vma) -> int:
        """What an entry says of a page that was just used: vm_page_prot, young."""
        flags = USER | ACCESSED | (WRITABLE if vma.write else 0)
        return flags | (0 if vma.execute or self._tables.format.entry_bytes == 4 else NX)

    def populate(self, process: Process, vma: Vma) -> None:
        """Give every page of a new mapping as `demand` does; unless told, table by table."""
        gva, flags = vma.start, self.flags(vma) | (DIRTY if vma.write else 0)
        while gva < vma.end:
            if self.pager:
                self.pager.faulted()
            slot = self.demand(process, vma, gva, write=vma.write)
            shift = HUGE_SHIFT if self.huge and self.huge.has(slot) else vma.shift
            gva = (gva & -1 << shift) + (1 << shift)
            if shift != PAGE_SHIFT or self._tap is not silent:
                continue
            frames = self._ahead.fill_rest(slot, vma.end - gva >> PAGE_SHIFT, flags)
            if self.pager:
                self.pager.populated(process, gva, frames)
            gva += len(frames) << PAGE_SHIFT
            if not self.pager:
                gva += self._ahead.fill_tables(process.root, gva, vma.end, flags)

    def _mapped_anew(self, process: Process, vma: Vma, gva: int, frame: int, shift: int) -> None:
        if self.pager and vma.shift == PAGE_SHIFT:
            self.pager.mapped(process, gva, frame, shift - PAGE_SHIFT)

    def map_collapsed(
        self, process: Process, vma: Vma, gva: int, page: int, *, filled: int
    ) -> None:
        """Map a huge page where small ones were; ``filled`` of its pages were not there."""
        flags = self.flags(vma) | DIRTY  # mk_huge_pmd(), maybe_pmd_mkwrite(pmd_mkdirty())
        self._tables.map(process.root, gva, page, HUGE_SHIFT, flags)
        self._tap(PagesCollapsed(process.name, gva, page, filled))
        self._mapped_anew(process, vma, gva, page, HUGE_SHIFT)

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

        It is copied while others have it too; the last one has it to itself again.  Of a huge
        page 4 KiB are copied (do_huge_pmd_wp_page).  False if the entry allows the write already.
        """
        found = self._tables.find(process.root, gva)
        entry = self._tables.read(found[0]) if found else 0
        if found is None or entry & WRITABLE:
            return False
        slot, level = found
        if self.files and self.files.written(process, vma, gva, slot, entry):
            return True
        old, shift = self._tables.frame_of(entry, level), self._tables.shift_of(level)
        entry |= WRITABLE | ACCESSED | DIRTY
        if not self._frames.shared(old, shift - PAGE_SHIFT):  # wp_page_reuse
            self._tables.write(slot, entry)
            self._tap(PageReused(process.name, gva, old, shift))
            self._mapped_anew(process, vma, gva & -1 << shift, old, shift)
            return True
        if self.huge and shift > vma.shift:
            self.huge.split(process, gva)
            return self.write_protected(process, vma, gva)
        new = self._frames.alloc(vma.shift - PAGE_SHIFT)
        self.copy_page(old, new, vma.shift)
        self._tables.write(slot, 0)
        self._shootdown.flush_pages(process, [gva], vma.shift)  # ptep_clear_flush
        self._tables.write(slot, entry ^ old ^ new)
        self._frames.release(old, vma.shift - PAGE_SHIFT)
        self._tap(PageCopied(process.name, gva, old, new, vma.shift))
        self._mapped_anew(process, vma, gva, new, vma.shift)
        return True

    def copy_page(self, old: int, new: int, shift: int) -> None:
        """Copy through the direct map, 4 KiB at a time (REP MOVS)."""
        for offset in range(0, 1 << shift, PAGE_SIZE):
            data = self._smp.cpu.load(self._tables.virtual(old + offset), PAGE_SIZE)
            self._smp.cpu.store(self._tables.virtual(new + offset), data, PAGE_SIZE)

    # -- mappings -----------------------------------------------------------------------

    def unmap(self, process: Process, vma: Vma) -> None:
        """Clear every entry of a mapping and flush; only then its pages go (mmu_gather)."""
        self.discard(process, vma, vma.start, vma.end)
        if self.huge:
            self._free_tables(process, vma)

    def discard(self, process: Process, vma: Vma, start: int, end: int) -> None:
        """The same for some of a mapping, which stays: the next touch finds zeroes, or the file."""
        part = replace(vma, start=start, end=end)
        self.split_at(process, start, end)
        self._forget(process.root, part)
        gone = []
        for gva, slot, level in list(self._mapped(process.root, part)):
            gone.append((gva, slot, self._tables.read(slot), level))
            self._tables.write(slot, 0)
        self._shootdown.flush_pages(process, [gva for gva, *_ in gone], vma.shift)
        for _gva, slot, entry, level in gone:
            self._gone(vma, slot, entry, level)

    def split_at(self, process: Process, *edges: int) -> None:
        """No page that is huge by itself reaches over any of these addresses from now on."""
        for gva in edges if self.huge else ():
            assert self.huge is not None  # noqa: S101  see above
            self.huge.split_at(process, gva)

    def _free_tables(self, process: Process, vma: Vma) -> None:
        """Free tables of small pages that no mapping needs any more (free_pgtables()).

        Where huge pages cannot come they stay, for whatever is mapped there next.
        """
        others = [one for one in process.vmas if one is not vma]
        for base in huge_blocks(vma):
            if not any(one.start < base + HUGE_SIZE and base < one.end for one in others):
                self._retract(process, replace(vma, shift=HUGE_SHIFT), base)

    def protect(self, process: Process, vma: Vma) -> None:
        """Give every entry of a mapping the rights that the mapping has now.

        A page that is shared stays without W: a write is to copy it (change_pte_range), or to
        make the page of a file dirty.
        """
        changed = []
        for gva, slot, level in self._mapped(process.root, vma):
            entry = self._tables.read(slot) & ~WRITABLE
            order = self._tables.shift_of(level) - PAGE_SHIFT
            own = not self._frames.shared(self._tables.frame_of(entry, level), order)
            self._tables.write(slot, entry | (WRITABLE if vma.write and own else 0))
            changed.append(gva)
        self._shootdown.flush_pages(process, changed, vma.shift)

    def _mapped(self, root: int, vma: Vma) -> Iterator[tuple[int, int, int]]:
        """Each page of a mapping that has an entry: its address, the entry's slot and level."""
        gva = vma.start
        while gva < vma.end:
            found = self._tables.find(root, gva)
            if found:
                yield gva, *found
            gva += 1 << (self._tables.shift_of(found[1]) if found else vma.shift)
