"""Faults on mapped files: a page of the page cache is mapped, or a copy of it.

Linux, mm/memory.c: do_read_fault(), do_cow_fault(), do_shared_fault(), do_wp_page(); mm/filemap.c:
filemap_map_pages().  A mapping is one more user of the page, beside the cache itself.  Left out:
readahead, so that each page that is not cached is read by a fault of its own, and the end of a
file, so that there is no SIGBUS.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.tap import Tap
from kvmlab.guest.frames import Frames
from kvmlab.guest.pager import Pager
from kvmlab.guest.process import FileRange, Process, Vma
from kvmlab.guest.records import FileFault, FilePageWritten, PageCopied
from kvmlab.guest.shootdown import Shootdown
from kvmlab.guest.tables import ACCESSED, DIRTY, PRESENT, WRITABLE, PageTables
from kvmlab.linux.page_cache import PageCache

if TYPE_CHECKING:
    from kvmlab.guest.memory import Memory

_AROUND = 16 * PAGE_SIZE  # fault_around_bytes


class FileFaults:
    """Serves them for the address spaces of ``memory``, from ``cache``."""

    def __init__(
        self,
        memory: "Memory",
        tables: PageTables,
        frames: Frames,
        shootdown: Shootdown,
        pager: Pager,
        cache: PageCache,
        tap: Tap,
    ) -> None:
        self._memory, self._tables, self._frames = memory, tables, frames
        self._shootdown, self._pager, self._cache, self._tap = shootdown, pager, cache, tap

    def asked(self, process: Process, vma: Vma, gva: int) -> FileRange | None:
        """The file of which a fault wants a page; None if it wants one of the process's own."""
        own = vma.file is None or self._pager.in_swap(process, gva)
        return None if own else vma.file

    def fault(self, process: Process, vma: Vma, file: FileRange, gva: int, *, write: bool) -> int:
        """Map the page at ``gva``, or for a write to a private mapping a copy; its slot.

        Raises `ProcessKilled` if that cost too much.
        """
        page = self._page(process, file, gva)
        if write and not file.shared:  # do_cow_fault
            new = self._copy(page)
            slot = self._tables.map(process.root, gva, new, PAGE_SHIFT, self._writable(vma))
            self._copied(process, gva, page, new)
            return slot
        flags = self._writable(vma) if write else self._memory.flags(vma) & ~WRITABLE
        slot = self._tables.map(process.root, gva, page, PAGE_SHIFT, flags)
        if write:
            self._let_write(process, gva, page)
        else:
            self._around(vma, file, gva, slot, flags)
        self._pager.end_if_doomed(process)
        return slot

    def _page(self, process: Process, file: FileRange, gva: int) -> int:
        """A page of the cache, which stays there while we are one of its users."""
        number = file.page_at(gva)
        pfn, major = self._cache.fault(file.number, number)
        page = pfn << PAGE_SHIFT
        self._frames.share(page)
        self._tap(FileFault(process.name, gva, page, file.number, number, major))
        return page

    def _writable(self, vma: Vma) -> int:
        return self._memory.flags(vma) | WRITABLE | DIRTY

    def _around(self, vma: Vma, file: FileRange, gva: int, slot: int, flags: int) -> None:
        """Map what is cached of the aligned 64 KiB around ``gva`` as well (do_fault_around()).

        Such entries are young, as on any x86 (arch_wants_old_prefaulted_pte()).
        """
        first = max(vma.start, gva & -_AROUND)
        for other in range(first, min(vma.end, (gva & -_AROUND) + _AROUND), PAGE_SIZE):
            pfn = self._cache.frame(file.number, file.page_at(other))
            place = slot + (other - gva >> PAGE_SHIFT) * self._tables.format.entry_bytes
            if pfn is None or self._tables.read(place):
                continue
            self._frames.share(pfn << PAGE_SHIFT)
            self._tables.write(place, pfn << PAGE_SHIFT | flags | PRESENT)

    # -- writes to pages that are mapped -----------------------------------------------------

    def written(self, process: Process, vma: Vma, gva: int, slot: int, entry: int) -> bool:
        """Serve a write to a page of the cache through an entry without W; False if it is none."""
        if vma.file is None:
            return False
        page = self._tables.frame_of(entry, 1)
        if not self._cache.holds(page >> PAGE_SHIFT):
            return False
        if vma.file.shared:  # wp_page_shared
            self._tables.write(slot, entry | WRITABLE | ACCESSED | DIRTY)
            self._let_write(process, gva, page)
            return True
        self._frames.share(page)  # so that it stays while a frame is found
        new = self._copy(page)
        self._tables.write(slot, 0)
        self._shootdown.flush_pages(process, [gva], PAGE_SHIFT)  # ptep_clear_flush
        self._tables.write(slot, new | self._writable(vma) | PRESENT)
        self._frames.release(page, 0)
        self._copied(process, gva, page, new)
        return True

    def _let_write(self, process: Process, gva: int, page: int) -> None:
        """The entry has W now (do_page_mkwrite(), fault_dirty_shared_page())."""
        self._cache.written(page >> PAGE_SHIFT)
        self._tap(FilePageWritten(process.name, gva, page))

    def _copy(self, page: int) -> int:
        """A copy of a page of which we are a user, and then no more."""
        new = self._frames.alloc()
        self._memory.copy_page(page, new, PAGE_SHIFT)
        self._frames.release(page, 0)
        return new

    def _copied(self, process: Process, gva: int, page: int, new: int) -> None:
        """A copy is mapped: anonymous memory from now on."""
        self._tap(PageCopied(process.name, gva, page, new, PAGE_SHIFT))
        self._pager.mapped(process, gva, new, 0)

    def left(self, page: int, entry: int) -> None:
        """A process unmaps a page itself: if it used a page of the cache, that counts as a use.

        It counts as read() does; what was written needs no care, as the page is dirty already.
        """
        if entry & ACCESSED and self._cache.holds(page >> PAGE_SHIFT):
            self._cache.used(page >> PAGE_SHIFT)

    # -- fork ---------------------------------------------------------------------------------

    def to_copy(self, vma: Vma, mapped: Iterable[tuple[int, int, int]]) -> bool:
        """Whether a child gets the entries of a mapping, (address, slot, level) each.

        Not where its faults will find the pages anyway: a mapping of a file, unless the parent
        has copied a page of it (vma_needs_copy()).
        """
        if vma.file is None:
            return True
        frames = (self._tables.frame_of(self._tables.read(slot), 1) for _, slot, _ in mapped)
        return not vma.file.shared and any(
            not self._cache.holds(frame >> PAGE_SHIFT) for frame in frames
        )
