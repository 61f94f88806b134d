"""Transparent huge pages: 2 MiB at once where a whole range is free, and back to small pages.

Linux, mm/huge_memory.c; Documentation/admin-guide/mm/transhuge.rst.  The huge zero page for read
faults is left out: the first touch of a range gives it its own page.
"""

from typing import TYPE_CHECKING

import numpy as np

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.errors import BadChoice, OutOfMemory
from kvmlab.base.tap import Tap
from kvmlab.host.areas import Area, base_of_huge, huge_fits
from kvmlab.host.page_table import LARGE, PAGE
from kvmlab.linux.frames import NOWHERE, Pages, Role
from kvmlab.linux.memory import Memory
from kvmlab.linux.records import VmEvent

if TYPE_CHECKING:
    from kvmlab.host.address_space import AddressSpace

CHOICES = ("always", "madvise", "never")
ORDER, PIECES = 9, 512


class HugePages:
    """The huge pages of one host, those mapped by small entries, and those waiting for a split."""

    def __init__(self, memory: Memory, tap: Tap, enabled: str = "madvise") -> None:
        self._memory, self._tap = memory, tap
        self.enabled = enabled
        self._mapped: dict[int, int] = {}  # head -> pieces still mapped, one entry each
        self._deferred: dict[int, AddressSpace] = {}  # heads that lost a piece
        memory.shrinkers.append(self.split_deferred)

    @property
    def enabled(self) -> str:
        """/sys/kernel/mm/transparent_hugepage/enabled."""
        return self._enabled

    @enabled.setter
    def enabled(self, choice: str) -> None:
        if choice not in CHOICES:
            raise BadChoice(f"transparent huge pages are {', '.join(CHOICES)}, not {choice!r}")
        self._enabled = choice

    def wanted(self, area: Area) -> bool:
        """Whether an area may have huge pages (hugepage_vma_check())."""
        if area.huge is None:
            return self._enabled == "always"
        return area.huge and self._enabled != "never"

    def fault(self, space: "AddressSpace", area: Area, hva: int) -> bool:
        """Back the 2 MiB around ``hva`` with one page, if nothing is mapped there yet."""
        if not self.wanted(area) or not huge_fits(area, hva):
            return False
        base = base_of_huge(hva)
        address = space.table.prepare(base, 2)
        if space.table.entry(address):
            return False
        space.table.deposit(address)
        try:
            pfn = space.frame(ORDER, light=True)
        except OutOfMemory:
            space.table.withdraw(address)
            self._tap(VmEvent("thp_fault_fallback"))
            return False
        space.map_page(base, pfn, address, PAGE | LARGE)
        self._tap(VmEvent("thp_fault_alloc"))
        return True

    # -- huge pages that small entries map ------------------------------------------------

    def mapped_small(self, head: int) -> None:
        """The one entry of a huge page became 512."""
        self._mapped[head] = PIECES
        self._tap(VmEvent("thp_split_pmd"))

    def is_piece(self, pfn: int) -> bool:
        """Whether a frame is part of a huge page that small entries map."""
        return pfn & -PIECES in self._mapped

    def pieces_among(self, pfns: Pages) -> bool:
        """Whether any of many frames is such a part."""
        return bool(self._mapped) and any(self.is_piece(pfn) for pfn in pfns.tolist())

    def piece_gone(self, space: "AddressSpace", pfn: int) -> int:
        """An entry of a piece is gone; returns how many frames are free for that.

        The page is freed with its last piece; till then its frames wait for a deferred split.
        """
        head = pfn & -PIECES
        self._mapped[head] -= 1
        if self._mapped[head]:
            if head not in self._deferred:
                self._deferred[head] = space
                self._tap(VmEvent("thp_deferred_split_page"))
            return 0
        del self._mapped[head]
        self._deferred.pop(head, None)
        self._memory.free(head, ORDER)
        return PIECES

    def split_deferred(self) -> int:
        """The shrinker: split what has lost pieces; returns how many frames are free for that."""
        freed = 0
        for head, space in list(self._deferred.items()):
            freed += PIECES - self._mapped[head]
            self.split_now(space, head)
        return freed

    def split_now(self, space: "AddressSpace", head: int) -> None:
        """Split a huge page; its pieces go where it was, on an LRU list or, if locked, on none."""
        listed = self._memory.frames.lru[head] != NOWHERE
        self._memory.lists.remove(np.array([head]))
        pieces = self.split_page(space, head)
        if listed:
            self._memory.lists.add(pieces, self._memory.lru_of(Role.ANON))
        self._tap(VmEvent("thp_split_page"))

    def split_page(self, space: "AddressSpace", head: int) -> Pages:
        """Make frames of their own of a huge page that is on no list; the pieces still mapped.

        Those that no entry maps are free (split_huge_page_to_list()).
        """
        frames = self._memory.frames
        base = int(frames.index[head]) << PAGE_SHIFT
        leaf = space.table.find(base)
        if leaf and leaf.level == 2:
            space.split_entry(leaf)
        pieces = frames.split(head)
        kept = {
            one.pfn
            for one in space.table.between(base, base + (PIECES << PAGE_SHIFT))
            if one.present
        }
        mapped = np.array([int(pfn) in kept for pfn in pieces])
        del self._mapped[head]
        self._deferred.pop(head, None)
        for pfn in pieces[~mapped].tolist():
            self._memory.free(pfn)
        survivors: Pages = pieces[mapped]
        return survivors
