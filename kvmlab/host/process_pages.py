"""What reclaim asks about the pages of a host process (linux/mapping.py)."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.host.page_table import ACCESSED, swap_entry
from kvmlab.host.parts import Parts
from kvmlab.host.records import HostSwappedOut
from kvmlab.linux.frames import Pages

if TYPE_CHECKING:
    from kvmlab.host.address_space import AddressSpace


class ProcessPages:
    """Answers for the anonymous pages of ``space``, through its page table and notifiers."""

    def __init__(self, space: "AddressSpace", parts: Parts) -> None:
        self._space, self._parts = space, parts

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """Whether each page was accessed through this table or through others' of it."""
        frames = self._parts.memory.frames
        hvas, orders = frames.index[pages] << PAGE_SHIFT, frames.order[pages]
        if orders.any():
            spans = zip(hvas.tolist(), orders.tolist(), strict=True)
            return np.array([self.age(hva, PAGE_SIZE << order) for hva, order in spans], np.int64)
        young = self._space.table.clear_accessed(hvas)
        asked = [self._elsewhere(hva, hva + PAGE_SIZE) for hva in hvas.tolist()]
        return (young | asked).astype(np.int64)

    def age(self, hva: int, size: int) -> bool:
        """Whether a range was accessed since last asked; its A bits are clear then."""
        young = False
        for leaf in self._space.table.between(hva, hva + size):
            if leaf.present and leaf.entry & ACCESSED:
                self._space.table.set(leaf.address, leaf.entry & ~ACCESSED)
                young = True
        return self._elsewhere(hva, hva + size) or young

    def _elsewhere(self, start: int, end: int) -> bool:
        """Whether it was through others' tables: all are asked."""
        return any([ask(start, end) for ask in self._space.agers])  # noqa: C419

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Pages of one frame go to their swap slots."""
        indexes = self._parts.memory.frames.index[pages].tolist()
        return np.array(
            [
                self.evict(index << PAGE_SHIFT, slot)
                for index, slot in zip(indexes, slots.tolist(), strict=True)
            ],
            np.bool_,
        )

    def evict(self, hva: int, slot: int) -> bool:
        """The entry of a small page names a swap slot from now on; False if it must stay."""
        leaf = self._space.table.find(hva)
        if leaf is None or not leaf.present or leaf.level > 1 or self.holds(hva, PAGE_SIZE):
            return False
        self._space.notify(hva, hva + PAGE_SIZE)
        self._space.table.set(leaf.address, swap_entry(slot))
        self._space.rss -= 1
        self._space.swap_entries += 1
        self._parts.tap(HostSwappedOut(hva, leaf.pfn << PAGE_SHIFT, slot))
        return True

    def write_back(self, pages: Pages) -> None:
        """Nothing: the memory of a process is of no file."""

    def split(self, page: int) -> Pages:
        """Split a huge page into frames of their own, unless a virtual CPU works with all of it."""
        hva = int(self._parts.memory.frames.index[page]) << PAGE_SHIFT
        leaf = self._space.table.find(hva)
        if leaf and leaf.shift > PAGE_SHIFT:
            if self.holds(hva, 1 << leaf.shift):
                return np.array([page], np.int64)
            self._space.split_entry(leaf)
        pieces, _users = self._parts.memory.huge.split_page(page)
        return pieces

    def holds(self, hva: int, size: int) -> bool:
        """Whether a virtual CPU that exited works with a page of this range."""
        held = self._space.held
        return held is not None and hva <= held < hva + size
