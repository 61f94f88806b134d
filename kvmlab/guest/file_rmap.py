"""Which entries map a page of a file: found by way of the mappings of that file.

Linux, mm/rmap.c: rmap_walk_file(), try_to_unmap(), folio_mkclean().  Every look at an entry and
every change is a load or a store of the guest's CPU; i_mmap is here a search of all mappings.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.guest.process import Process
from kvmlab.guest.tables import ACCESSED, DIRTY, WRITABLE

if TYPE_CHECKING:
    from kvmlab.guest.kernel import Kernel


class FileRmap:
    """What reclaim and writeback ask of the processes of ``kernel`` (linux/mapping.py)."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel

    def referenced(self, pfn: int, file: int, page: int) -> int:
        """How many entries that map the page were used; their A is clear then.

        The TLB is not flushed for that: x86's ptep_clear_flush_young() leaves it alone.
        """
        young = [one for one in self._entries(pfn, file, page) if one[3] & ACCESSED]
        for _process, _gva, slot, entry in young:
            self._kernel.tables.write(slot, entry & ~ACCESSED)
        return len(young)

    def unmap(self, pfn: int, file: int, page: int) -> bool:
        """Take the page out of every table, flushed; False if it has a user beside these.

        What was written through an entry needs no care here: the page is dirty since then.
        """
        found, gpa = list(self._entries(pfn, file, page)), pfn << PAGE_SHIFT
        if self._kernel.frames.mapcount(gpa) != len(found):
            return False
        for process, gva, slot, _entry in found:
            self._change(process, gva, slot, 0)
            self._kernel.frames.release(gpa, 0)
        return True

    def clean(self, pfn: int, file: int, page: int) -> None:
        """Take W and D from every entry that has them, and flush it."""
        with self._kernel.contexts.entered():
            for process, gva, slot, entry in list(self._entries(pfn, file, page)):
                if entry & (WRITABLE | DIRTY):
                    self._change(process, gva, slot, entry & ~(WRITABLE | DIRTY))

    def _change(self, process: Process, gva: int, slot: int, entry: int) -> None:
        self._kernel.tables.write(slot, entry)
        self._kernel.shootdown.flush_pages(process, [gva], PAGE_SHIFT)

    def _entries(self, pfn: int, file: int, page: int) -> Iterator[tuple[Process, int, int, int]]:
        """Each entry that maps a page of a file: whose, for which address, where, what it says."""
        tables = self._kernel.tables
        for process, gva in self._addresses(file, page) if self._mapped(pfn) else ():
            found = tables.find(process.root, gva)
            entry = tables.read(found[0]) if found else 0
            if found and tables.frame_of(entry, found[1]) == pfn << PAGE_SHIFT:
                yield process, gva, found[0], entry

    def _mapped(self, pfn: int) -> bool:
        """Whether anybody maps the page (folio_mapped())."""
        return self._kernel.frames.mapcount(pfn << PAGE_SHIFT) > 0

    def _addresses(self, file: int, page: int) -> Iterator[tuple[Process, int]]:
        """Where processes map a page of a file, if they do."""
        for process in self._kernel.processes:
            for vma in process.vmas:
                if vma.file and vma.file.number == file:
                    gva = vma.file.address_of(page)
                    if vma.start <= gva < vma.end:
                        yield process, gva
