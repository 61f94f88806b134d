"""The buddy allocator: free frames in blocks of powers of two, split and merged.

Linux, mm/page_alloc.c.  Linux keeps blocks up to order 10 and gathers gigantic pages from
neighbouring blocks; here a block may have order 18, so that a 1 GiB page is one block.
"""

from kvmlab.base.errors import BadSize, OutOfMemory

MAX_ORDER = 18


class Buddy:
    """Free frames of ``[first, first + count)``, lowest addresses handed out first at the start."""

    def __init__(self, first: int, count: int) -> None:
        if count <= 0:
            raise BadSize(f"{count} frames from frame {first:#x} on leave nothing to hand out")
        self._blocks: list[dict[int, None]] = [{} for _ in range(MAX_ORDER + 1)]
        self.total = self.free_frames = 0
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
            self._blocks[order][start] = None
        self.total += count
        self.free_frames += count

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
        while size > order:  # give the upper halves back
            size -= 1
            self._blocks[size][pfn + (1 << size)] = None
        self.free_frames -= 1 << order
        return pfn

    def free(self, pfn: int, order: int = 0) -> None:
        """Give a block back; it merges with its buddy as long as that is free too."""
        self.free_frames += 1 << order
        while order < MAX_ORDER and pfn ^ 1 << order in self._blocks[order]:
            del self._blocks[order][pfn ^ 1 << order]
            pfn &= ~(1 << order)
            order += 1
        self._blocks[order][pfn] = None

    def free_blocks(self) -> tuple[int, ...]:
        """How many free blocks there are of each order, as in /proc/buddyinfo."""
        return tuple(len(blocks) for blocks in self._blocks)
