"""The guest's page frames: handed out zeroed, counted while several mappings share them.

Linux, mm/page_alloc.c and the reference count of struct page.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_size
from kvmlab.base.errors import BadChoice, BadSize, OutOfMemory
from kvmlab.linux.buddy import Buddy
from kvmlab.linux.frames import Pages
from kvmlab.linux.huge_pages import HugePages

_FIRMWARE = 1 << 20  # the first MiB is the firmware's


class Manager(Protocol):
    """Who decides which frames are handed out, once it is attached (guest/reclaim.py)."""

    def alloc(self, order: int) -> int:
        """The first frame of a block."""

    def free(self, pfn: int, order: int) -> None:
        """Clear a block and take it back."""

    def take(self, count: int) -> Pages:
        """Up to ``count`` frames for a balloon."""

    def take_run(self, count: int) -> Pages:
        """As many of ``count`` frames for pages as are free without waking anybody."""

    def take_block(self, order: int) -> int:
        """A block for a driver, for which nothing is reclaimed; raises `OutOfMemory`."""

    def give_back(self, pfn: int, order: int) -> None:
        """Take a block back that holds zeroes."""


class Frames:
    """All frames of ``memory``, (start, length) of each range of RAM, but the firmware's.

    ``clear`` makes one frame all zero.
    """

    def __init__(self, memory: Sequence[tuple[int, int]], clear: Callable[[int], None]) -> None:
        self.buddy = _free_frames(memory)
        self._clear = clear
        self.managed = self.buddy.total  # without those that a balloon took: MemTotal
        self.oom_notifiers: list[Callable[[], int]] = []  # each returns how many frames it freed
        self._more_users: dict[int, int] = {}  # page -> how many mappings beyond the first
        self.tables = 0
        self.manager: Manager | None = None  # who makes room, if anybody does
        self.huge: HugePages | None = None  # and whose huge pages may be in pieces

    def reserve(self, size: int | str) -> None:
        """Keep bytes from everybody, as a kernel does at boot: MemTotal lacks them.

        A real one keeps its image, a descriptor for each page and what ``crashkernel=`` says
        (52,204 KiB in a Linux 6.1 of 1 GiB); ours has no image, and a list of free frames.
        Raises `BadSize`, and `BadChoice` once a `Reclaimer` is attached.
        """
        if self.manager:
            raise BadChoice("memory is reserved at boot: do so before a Reclaimer is attached")
        count = parse_size(size) >> PAGE_SHIFT
        self.buddy.reserve(count)
        self.managed -= count

    def alloc(self, order: int = 0) -> int:
        """The guest-physical address of a page of 2**order frames, all zero.

        Memory is zero when the machine starts, and `release` clears what comes back.  When there
        is none left, those who hold some back are asked for it (out_of_memory()).
        """
        if self.manager:
            return self.manager.alloc(order) << PAGE_SHIFT
        while True:
            try:
                return self.buddy.alloc(order) << PAGE_SHIFT
            except OutOfMemory:
                if not sum(notify() for notify in self.oom_notifiers):
                    raise

    def take(self, count: int) -> list[int]:
        """Up to ``count`` single frames for a balloon: nobody is made to give one up.

        Linux, balloon_page_alloc(): __GFP_NORETRY, __GFP_NOMEMALLOC, __GFP_NOWARN.
        """
        take = self.manager.take if self.manager else self.buddy.alloc_frames
        gpas: list[int] = (take(count) << PAGE_SHIFT).tolist()
        return gpas

    def take_run(self, count: int) -> Pages:
        """As many of ``count`` pages as `alloc` gives without waking anybody for them."""
        take = self.manager.take_run if self.manager else self.buddy.alloc_frames
        return take(count) << PAGE_SHIFT

    def take_tables(self, count: int, pages: int) -> Pages:
        """A row for each of so many new tables that map so many pages, in the order of faults.

        That is the first page, the table, the other pages.
        """
        self.tables += count
        return self.take_run(count * (pages + 1)).reshape(count, pages + 1)

    def take_block(self, order: int) -> int | None:
        """A block for a driver, on the same terms; None when there is none."""
        try:
            take = self.manager.take_block if self.manager else self.buddy.alloc
            return take(order) << PAGE_SHIFT
        except OutOfMemory:
            return None

    def give_back(self, gpas: Iterable[int], order: int = 0) -> None:
        """Take such blocks back; they hold zeroes, and nobody touches them."""
        free = self.manager.give_back if self.manager else self.buddy.free
        for gpa in gpas:
            free(gpa >> PAGE_SHIFT, order)

    def alloc_table(self, order: int = 0) -> int:
        """A page for 2**order page tables."""
        gpa = self.alloc(order)
        self.tables += 1 << order
        return gpa

    def free_table(self, gpa: int, order: int = 0) -> None:
        """Take page tables back."""
        self.release(gpa, order)
        self.tables -= 1 << order

    def share(self, gpa: int, order: int = 0) -> None:
        """One more mapping of a page of 2**order frames (folio_get)."""
        if pieces := self._in_pieces(gpa):
            pieces.share(gpa >> PAGE_SHIFT, order)
        else:
            self._more_users[gpa] = self._more_users.get(gpa, 0) + 1

    def mapcount(self, gpa: int) -> int:
        """How many users a small page has beyond the first: of page cache, its mappings."""
        return self._more_users.get(gpa, 0)

    def pages_with_more(self) -> Pages:
        """Every page that has more than one user."""
        return np.array(list(self._more_users), np.int64) >> PAGE_SHIFT

    def shared(self, gpa: int, order: int = 0) -> bool:
        """Whether more than one mapping has the page, or any part of it."""
        if pieces := self._in_pieces(gpa):
            return pieces.shared(gpa >> PAGE_SHIFT, order)
        return gpa in self._more_users

    def _in_pieces(self, gpa: int) -> HugePages | None:
        """Who counts the mappings of this page: it belongs to a huge one that was split up."""
        return self.huge if self.huge and self.huge.is_piece(gpa >> PAGE_SHIFT) else None

    def entry_split(self, gpa: int) -> None:
        """One of the entries that map a huge page became small ones."""
        if self.huge:
            self.huge.entry_cut(gpa >> PAGE_SHIFT, 1 + self._more_users.pop(gpa, 0))

    def page_split(self, pages: Pages, users: Iterable[int]) -> None:
        """The pieces of a huge page are pages of their own, with so many mappings each."""
        for pfn, count in zip(pages.tolist(), users, strict=True):
            if count > 1:
                self._more_users[pfn << PAGE_SHIFT] = count - 1

    def release(self, gpa: int, order: int) -> None:
        """One mapping less (folio_put); after the last, clear the page and give it back.

        Linux does so with init_on_free=1.  Its default is to clear when a page is handed out;
        then a demand fault would touch its new frame twice, and hide from the learner which
        touch made the hypervisor work.
        """
        if pieces := self._in_pieces(gpa):
            pieces.entry_gone(gpa >> PAGE_SHIFT, order)
            return
        if more := self._more_users.pop(gpa, 0):
            if more > 1:
                self._more_users[gpa] = more - 1
            return
        if self.manager:
            self.manager.free(gpa >> PAGE_SHIFT, order)
            return
        for one in range(gpa, gpa + (PAGE_SIZE << order), PAGE_SIZE):
            self._clear(one)
        self.buddy.free(gpa >> PAGE_SHIFT, order)


def _free_frames(memory: Sequence[tuple[int, int]]) -> Buddy:
    (start, length), *others = memory
    if length <= _FIRMWARE:
        raise BadSize(f"a guest with {length:#x} bytes has nothing beyond its first MiB")
    buddy = Buddy((start + _FIRMWARE) >> PAGE_SHIFT, (length - _FIRMWARE) >> PAGE_SHIFT)
    for first, more in others:
        buddy.add(first >> PAGE_SHIFT, more >> PAGE_SHIFT)
    return buddy
