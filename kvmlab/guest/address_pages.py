"""What reclaim asks about the pages of a guest process: answered by its page tables.

Every look at an entry and every change is a load or a store of the guest's CPU, so a hypervisor
sees reclaim as it sees any work on page tables.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.guest.process import Process
from kvmlab.guest.tables import ACCESSED
from kvmlab.linux.frames import Pages

if TYPE_CHECKING:
    from kvmlab.guest.kernel import Kernel
    from kvmlab.guest.reclaim import Reclaimer


class AddressPages:
    """The small anonymous pages of one address space, as the OOM killer sees it too.

    ``swapped`` says by GVA which slots its pages are in; Linux keeps that in the entries.
    """

    def __init__(self, kernel: "Kernel", reclaimer: "Reclaimer", process: Process) -> None:
        self._kernel, self._reclaimer = kernel, reclaimer
        self.process, self.root = process, process.root
        self.name, self.oom_score_adj = process.name, 0
        self.swapped: dict[int, int] = {}
        self.number = reclaimer.memory.register(self)

    # -- reclaim (linux/mapping.py) -------------------------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """Whether the entry of each page has A; it is clear then.

        The TLB is not flushed for that: x86's ptep_clear_flush_young() leaves it alone.
        """
        return np.array([self._age(page) for page in pages.tolist()], np.int64)

    def _age(self, page: int) -> bool:
        slot, entry = self._entry(page)
        if not entry & ACCESSED:
            return False
        self._kernel.tables.write(slot, entry & ~ACCESSED)
        return True

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Pages go to swap; not those that another process has too."""
        pairs = zip(pages.tolist(), slots.tolist(), strict=True)
        return np.array([self._evict(page, slot) for page, slot in pairs], np.bool_)

    def _evict(self, page: int, swap_slot: int) -> bool:
        slot, entry = self._entry(page)
        if not entry or self._kernel.frames.shared(page << PAGE_SHIFT):
            return False
        gva = self._gva(page)
        self._kernel.tables.write(slot, 0)
        self._kernel.shootdown.flush_pages(self.process, [gva], PAGE_SHIFT)
        self.swapped[gva] = swap_slot
        return True

    def _entry(self, page: int) -> tuple[int, int]:
        """The address of the entry that maps a page, and the entry; 0 if none does."""
        tables, gva = self._kernel.tables, self._gva(page)
        found = tables.find(self.root, gva)
        if found is None or found[1] > 1:
            return 0, 0
        entry = tables.read(found[0])
        mine = tables.frame_of(entry, 1) == page << PAGE_SHIFT
        return found[0], entry if mine else 0

    def _gva(self, page: int) -> int:
        return int(self._reclaimer.memory.frames.index[page]) << PAGE_SHIFT

    def write_back(self, pages: Pages) -> None:
        """Nothing: anonymous memory is of no file."""

    def split(self, page: int) -> Pages:
        """Nothing to do: large pages are left alone by reclaim."""
        return np.array([page], np.int64)

    # -- the OOM killer (linux/oom.py) ----------------------------------------------------

    @property
    def rss(self) -> int:
        """Small pages that it has in memory."""
        return len(self._reclaimer.pages_of(self.number))

    @property
    def swap_entries(self) -> int:
        """Pages that are in swap."""
        return len(self.swapped)

    @property
    def table_pages(self) -> int:
        """Pages of its page tables."""
        return self._kernel.memory.tables_of(self.root)

    def kill(self) -> bool:
        """End the process; the one that runs ends when its fault has been served."""
        if self.process is self._kernel.current:
            self._reclaimer.doomed = self.root
            return False
        self._kernel.exit(self.process)
        return True
