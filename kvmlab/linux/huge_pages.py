"""Transparent huge pages of one kernel: who may have them, and what becomes of those cut up.

A huge page is 512 frames under one descriptor.  Entries of 2 MiB map it whole; once one of those
is cut into 512 small ones the page itself stays as it is, its pieces are counted one by one, and
it becomes frames of their own only when reclaim splits it.  Linux, mm/huge_memory.c;
Documentation/admin-guide/mm/transhuge.rst.  Left out: the huge zero page for read faults (the first
touch of a range gives it its own page) and compaction (a block is free, or reclaim frees one).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import BadChoice
from kvmlab.linux.frames import NOWHERE, Pages, Role
from kvmlab.linux.records import VmEvent

if TYPE_CHECKING:
    from kvmlab.linux.memory import Memory

ENABLED = ("always", "madvise", "never")
DEFRAG = ("always", "defer", "defer+madvise", "madvise", "never")
ORDER, PIECES = 9, 512  # HPAGE_PMD_ORDER, HPAGE_PMD_NR
HUGE_SHIFT, HUGE_SIZE = PAGE_SHIFT + ORDER, PAGE_SIZE << ORDER


class Region(Protocol):
    """A range of an address space: an area of a host process, a mapping of a guest's."""

    @property
    def start(self) -> int:
        """Its first byte."""

    @property
    def end(self) -> int:
        """What follows its last byte."""

    @property
    def shift(self) -> int:
        """It is made for pages of 2**shift bytes."""

    @property
    def huge(self) -> bool | None:
        """MADV_HUGEPAGE, MADV_NOHUGEPAGE, or no advice."""


def base_of_huge(address: int) -> int:
    """The first byte of the 2 MiB around an address."""
    return address & -HUGE_SIZE


def huge_fits(region: Region, address: int) -> bool:
    """Whether the aligned 2 MiB around an address lie wholly in a region of small pages."""
    base = base_of_huge(address)
    inside = region.start <= base and base + HUGE_SIZE <= region.end
    return inside and region.shift == PAGE_SHIFT


def huge_ranges(region: Region) -> range:
    """Every aligned 2 MiB that lies wholly in a region of small pages, by its first byte."""
    if region.shift != PAGE_SHIFT:
        return range(0)
    return range(base_of_huge(region.start + HUGE_SIZE - 1), base_of_huge(region.end), HUGE_SIZE)


def huge_blocks(region: Region) -> range:
    """Every aligned 2 MiB of which a region has at least some, by its first byte."""
    return range(base_of_huge(region.start), region.end, HUGE_SIZE)


@dataclass(slots=True)
class _Cut:
    """A huge page that small entries map: by how many each piece, and how many map all of it."""

    users: NDArray[np.int32]
    whole: int


class HugePages:
    """/sys/kernel/mm/transparent_hugepage of one kernel, and its huge pages that are cut up."""

    def __init__(self, memory: "Memory") -> None:
        self._memory = memory
        self._enabled = self._defrag = "madvise"
        self._cut: dict[int, _Cut] = {}  # by head
        self._deferred: dict[int, None] = {}  # heads that lost a piece (deferred_split_queue)
        memory.shrinkers.append(self.split_deferred)

    # -- who gets them ------------------------------------------------------------------------

    @property
    def enabled(self) -> str:
        """Who may have huge pages."""
        return self._enabled

    @enabled.setter
    def enabled(self, choice: str) -> None:
        if choice not in ENABLED:
            raise BadChoice(f"transparent huge pages are {', '.join(ENABLED)}, not {choice!r}")
        self._enabled = choice

    @property
    def defrag(self) -> str:
        """For whom a fault that finds no free block reclaims."""
        return self._defrag

    @defrag.setter
    def defrag(self, choice: str) -> None:
        if choice not in DEFRAG:
            raise BadChoice(f"defrag is {', '.join(DEFRAG)}, not {choice!r}")
        self._defrag = choice

    def wanted(self, region: Region) -> bool:
        """Whether a region may have huge pages (hugepage_vma_check())."""
        if region.huge is None:
            return self._enabled == "always"
        return region.huge and self._enabled != "never"

    def alloc(self, *, direct: bool, wake: bool = False) -> int:
        """The first frame of a huge page; raises `OutOfMemory`.

        ``direct`` makes one attempt at reclaim; else, if asked to, kswapd is woken for next time.
        """
        if direct:
            return self._memory.alloc(Role.ANON, ORDER, light=True)
        return self._memory.spare_block(Role.ANON, ORDER, wake=wake)

    def alloc_at_fault(self, region: Region) -> int:
        """The same with as much effort as `defrag` allows (vma_thp_gfp_mask())."""
        advised = bool(region.huge)
        direct = self._defrag == "always" or (advised and self._defrag.endswith("madvise"))
        return self.alloc(direct=direct, wake=self._defrag.startswith("defer"))

    # -- those that small entries map -----------------------------------------------------------

    def entry_cut(self, head: int, whole: int = 1) -> None:
        """One of the ``whole`` entries that map a huge page became 512 small ones."""
        if head not in self._cut:
            self._cut[head] = _Cut(np.full(PIECES, whole, np.int32), whole)
        self._cut[head].whole -= 1
        self._memory.tell(VmEvent("thp_split_pmd"))

    def is_piece(self, pfn: int) -> bool:
        """Whether a frame is part of a huge page that small entries map."""
        return pfn & -PIECES in self._cut

    def pieces_among(self, pfns: Pages) -> bool:
        """Whether any of many frames is such a part."""
        return bool(self._cut) and any(self.is_piece(pfn) for pfn in pfns.tolist())

    def mapped_pieces(self, head: int) -> int:
        """How many frames of a huge page are mapped."""
        return int(np.count_nonzero(self._cut[head].users)) if head in self._cut else PIECES

    def only_small(self) -> Pages:
        """The heads that no entry maps as a whole any more: they are no AnonHugePages."""
        return np.array([head for head, cut in self._cut.items() if not cut.whole], np.int64)

    def share(self, pfn: int, order: int) -> None:
        """One more entry maps a piece or, with the order of a huge page, all of it."""
        cut = self._cut[pfn & -PIECES]
        cut.users[_part(pfn, order)] += 1
        cut.whole += order == ORDER

    def shared(self, pfn: int, order: int) -> bool:
        """Whether more than one entry maps a piece, or any piece of the whole."""
        return bool((self._cut[pfn & -PIECES].users[_part(pfn, order)] > 1).any())

    def entry_gone(self, pfn: int, order: int = 0) -> int:
        """An entry of a piece, or of the whole, is gone; how many frames are free for that.

        The page is freed with its last piece; till then its frames wait for a deferred split.
        """
        head = pfn & -PIECES
        cut = self._cut[head]
        cut.users[_part(pfn, order)] -= 1
        cut.whole -= order == ORDER
        if not cut.users.any():
            del self._cut[head]
            self._deferred.pop(head, None)
            self._memory.free(head, ORDER)
            return PIECES
        if not cut.users.all() and head not in self._deferred:
            self._deferred[head] = None
            self._memory.tell(VmEvent("thp_deferred_split_page"))
        return 0

    # -- splitting the page itself ----------------------------------------------------------------

    def split_deferred(self) -> int:
        """The shrinker: split what has lost pieces; returns how many frames are free for that."""
        freed = 0
        for head in list(self._deferred):
            lost = PIECES - self.mapped_pieces(head)
            self.split_now(head)
            freed += 0 if head in self._cut else lost
        return freed

    def split_now(self, head: int) -> None:
        """Split a huge page; its pieces go where it was, on an LRU list or, if locked, on none.

        Its owner may refuse while it is in use: then it stays as it is.
        """
        memory = self._memory
        listed = memory.frames.lru[head] != NOWHERE
        memory.lists.remove(np.array([head]))
        pieces = memory.mappings[memory.frames.mapping[head]].split(head)
        if listed:
            memory.lists.add(pieces, memory.lru_of(Role.ANON))

    def split_page(self, head: int) -> tuple[Pages, NDArray[np.int32]]:
        """Make frames of their own of a huge page that is on no list, and that small entries map.

        Returns those that are mapped, and by how many entries each; the others are free
        (split_huge_page_to_list()).
        """
        users = self._cut.pop(head).users
        self._deferred.pop(head, None)
        pieces = self._memory.frames.split(head)
        for pfn in pieces[users == 0].tolist():
            self._memory.free(pfn)
        self._memory.tell(VmEvent("thp_split_page"))
        return pieces[users > 0], users[users > 0]


def _part(pfn: int, order: int) -> slice:
    """Which pieces of its huge page an entry of a page of 2**order frames maps."""
    piece = pfn & PIECES - 1
    return slice(piece, piece + (1 << order))
