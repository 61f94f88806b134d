"""What reclaim asks about the pages of a guest process: answered by its page tables.

Every look at an entry and every change is a load or a store of the guest's CPU, so a hypervisor
sees reclaim as it sees any work on page tables.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.guest.huge_pages import LEAF
from kvmlab.guest.process import Process
from kvmlab.guest.tables import ACCESSED, PRESENT
from kvmlab.linux.frames import Pages

if TYPE_CHECKING:
    from kvmlab.guest.kernel import Kernel
    from kvmlab.guest.reclaim import Reclaimer


class AddressPages:
    """The anonymous pages of one address space, as the OOM killer sees it too.

    ``swapped`` says by GVA which slots its pages are in; Linux keeps that in the entries.
    """

    def __init__(self, kernel: "Kernel", reclaimer: "Reclaimer", process: Process) -> None:
        self._kernel, self._reclaimer = kernel, reclaimer
        self.process, self.root = process, process.root
        self.name, self.oom_score_adj = process.name, 0
        self.swapped: dict[int, int] = {}
        self.ended = False  # a child may have its pages still
        self.number = reclaimer.memory.register(self)

    # -- reclaim (linux/mapping.py) -------------------------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """Whether an entry of each page has A; it is clear then.

        The TLB is not flushed for that: x86's ptep_clear_flush_young() leaves it alone.
        """
        return np.array([self._age(page) for page in pages.tolist()], np.int64)

    def _age(self, page: int) -> bool:
        young = [
            (slot, entry)
            for process in self._mappers()
            for slot, entry in self._entries(process, page)
            if entry & ACCESSED
        ]
        for slot, entry in young:
            self._kernel.tables.write(slot, entry & ~ACCESSED)
        return bool(young)

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Small pages go to swap; not those that another process has too."""
        pairs = zip(pages.tolist(), slots.tolist(), strict=True)
        return np.array([self._evict(page, slot) for page, slot in pairs], np.bool_)

    def _evict(self, page: int, swap_slot: int) -> bool:
        if self._kernel.frames.shared(page << PAGE_SHIFT):
            return False
        for process in self._mappers():
            for slot, _entry in self._entries(process, page):
                self._kernel.tables.write(slot, 0)
                self._kernel.shootdown.flush_pages(process, [self._gva(page)], PAGE_SHIFT)
                self._reclaimer.swapped_out(process, self._gva(page), swap_slot)
                return True
        return False

    def _mappers(self) -> list[Process]:
        """Who may map its pages: the process, or once that has ended whoever was its child."""
        return self._kernel.processes if self.ended else [self.process]

    def _entries(self, process: Process, page: int) -> list[tuple[int, int]]:
        """The entries of a process that map a page or pieces of it: slots, and what they say."""
        tables, gva = self._kernel.tables, self._gva(page)
        order = int(self._reclaimer.memory.frames.order[page])
        if order and (found := tables.table_at(process.root, gva, LEAF)):
            table, size = found[1], tables.format.entry_bytes
            return [
                (table + number * size, entry)
                for number, entry in enumerate(tables.read_all(table))
                if entry & PRESENT and tables.frame_of(entry, 1) == page + number << PAGE_SHIFT
            ]
        found = tables.find(process.root, gva)
        if found is None or tables.shift_of(found[1]) != PAGE_SHIFT + order:
            return []
        entry = tables.read(found[0])
        mine = tables.frame_of(entry, found[1]) == page << PAGE_SHIFT
        return [(found[0], entry)] if mine else []

    def _gva(self, page: int) -> int:
        return int(self._reclaimer.memory.frames.index[page]) << PAGE_SHIFT

    def write_back(self, pages: Pages) -> None:
        """Nothing: anonymous memory is of no file."""

    def split(self, page: int) -> Pages:
        """Make frames of their own of a huge page, whoever maps it (unmap_folio())."""
        gva, entries = self._gva(page), self._kernel.memory.huge
        for process in self._kernel.processes if entries else ():
            assert entries is not None  # noqa: S101  see above
            if entries.page_of(process, gva) == page << PAGE_SHIFT:
                entries.split(process, gva)
        pieces, users = self._reclaimer.huge.split_page(page)
        self._kernel.frames.page_split(pieces, users.tolist())
        return pieces

    # -- the OOM killer (linux/oom.py) ----------------------------------------------------

    @property
    def rss(self) -> int:
        """Pages that it has in memory, of those that may be swapped."""
        return 0 if self.ended else self._reclaimer.rss_of(self.number)

    @property
    def swap_entries(self) -> int:
        """Pages that are in swap."""
        return len(self.swapped)

    @property
    def table_pages(self) -> int:
        """Pages of its page tables."""
        return self._kernel.roots.tables_of(self.root)

    def kill(self) -> bool:
        """End the process; the one that runs ends when its fault has been served."""
        if self.process is self._kernel.current:
            self._reclaimer.doomed = self.root
            return False
        self._kernel.exit(self.process)
        return True
