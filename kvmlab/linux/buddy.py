"""The buddy allocator: free frames in blocks of powers of two, split and merged.

Linux, mm/page_alloc.c.  Linux keeps blocks up to order 10 and gathers gigantic pages from
neighbouring blocks; here a block may have order 18, so that a 1 GiB page is one block.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import BadSize, OutOfMemory

MAX_ORDER = 18


class Buddy:
    """Free frames of ``[first, first + count)``, lowest addresses handed out first at the start."""

    def __init__(self, first: int, count: int) -> None:
        if count <= 0:
            raise BadSize(f"{count} frames from frame {first:#x} on leave nothing to hand out")
        # first frame -> whether the block was reported to a hypervisor (PageReported)
        self._blocks: list[dict[int, bool]] = [{} for _ in range(MAX_ORDER + 1)]
        self.total = self.free_frames = self.end = 0  # the end is that of the last range
        self.add(first, count)

    def add(self, first: int, count: int) -> None:
        """Put a range of frames under the allocator's care (memblock hands over at boot)."""
        blocks = []
        pfn, end = first, first + count
        while pfn < end:
            order = min(MAX_ORDER, (pfn & -pfn).bit_length() - 1 if pfn else MAX_ORDER)
            while pfn + (1 << order) > end:
                order -= 1
            blocks.append((pfn, order))
            pfn += 1 << order
        for start, order in reversed(blocks):  # a list is used from its end
            self._blocks[order][start] = False
        self.end = max(self.end, end)
        self.total += count
        self.free_frames += count

    def reserve(self, count: int) -> None:
        """Keep ``count`` frames from everybody for good: `total` lacks them (memblock_reserve()).

        Raises `BadSize` unless one at least stays free.
        """
        if not 0 <= count < self.free_frames:
            raise BadSize(
                f"{count} frames cannot be reserved; choose 0 to {self.free_frames - 1}, fewer "
                "than are free"
            )
        self.alloc_frames(count)
        self.total -= count

    def alloc(self, order: int = 0) -> int:
        """The first frame of a free block of 2**order frames; raises `OutOfMemory`."""
        for size in range(order, MAX_ORDER + 1):
            if self._blocks[size]:
                pfn = self._blocks[size].popitem()[0]
                break
        else:
            raise OutOfMemory(
                f"no block of {1 << order} free frames is left ({self.free_frames} frames are free)"
            )
        self._give_back(pfn + (1 << order), pfn + (1 << size))
        self.free_frames -= 1 << order
        return pfn

    def alloc_frames(self, count: int) -> NDArray[np.int64]:
        """``count`` single frames, or as many as there are: what so many `alloc` would give.

        Those take a block from its lower end up, and the smallest block first.
        """
        found = [np.empty(0, np.int64)]
        while self.free_frames and count:
            order = next(order for order, blocks in enumerate(self._blocks) if blocks)
            pfn = self._blocks[order].popitem()[0]
            taken = min(count, 1 << order)
            found.append(np.arange(pfn, pfn + taken))
            self._give_back(pfn + taken, pfn + (1 << order))
            self.free_frames -= taken
            count -= taken
        return np.concatenate(found)

    def _give_back(self, pfn: int, end: int) -> None:
        """Put the upper part of a block that was split back: one block of each order at most."""
        while pfn < end:
            order = (pfn & -pfn).bit_length() - 1
            self._blocks[order][pfn] = False
            pfn += 1 << order

    def free_run(self, first: int, count: int) -> None:
        """Give ``count`` neighbouring frames back, in blocks as large as they make up."""
        pfn, end = first, first + count
        while pfn < end:
            aligned = (pfn & -pfn).bit_length() - 1 if pfn else MAX_ORDER
            order = min(MAX_ORDER, aligned, (end - pfn).bit_length() - 1)
            self.free(pfn, order)
            pfn += 1 << order

    def free(self, pfn: int, order: int = 0) -> None:
        """Give a block back; it merges with its buddy as long as that is free too."""
        self.free_frames += 1 << order
        while order < MAX_ORDER and pfn ^ 1 << order in self._blocks[order]:
            del self._blocks[order][pfn ^ 1 << order]
            pfn &= ~(1 << order)
            order += 1
        self._blocks[order][pfn] = False

    def isolate_unreported(self, order: int) -> int | None:
        """Take out a whole free block of this order that no hypervisor was told of, if any."""
        blocks = self._blocks[order]
        pfn = next((one for one, reported in blocks.items() if not reported), None)
        if pfn is not None:
            del blocks[pfn]
            self.free_frames -= 1 << order
        return pfn

    def put_back_reported(self, pfn: int, order: int) -> None:
        """Free an isolated block; it counts as reported until it is split, merged or used.

        Linux, mm/page_reporting.c: page_reporting_drain().
        """
        self.free(pfn, order)
        if pfn in self._blocks[order]:
            self._blocks[order][pfn] = True

    def has(self, order: int) -> bool:
        """Whether a block of 2**order frames is free."""
        return any(self._blocks[order:])

    def free_ranges(self) -> Iterator[tuple[int, int]]:
        """Every free block, as its first frame and how many frames it has."""
        for order, blocks in enumerate(self._blocks):
            for pfn in blocks:
                yield pfn, 1 << order

    def free_blocks(self) -> tuple[int, ...]:
        """How many free blocks there are of each order, as in /proc/buddyinfo."""
        return tuple(len(blocks) for blocks in self._blocks)
