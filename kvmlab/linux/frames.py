"""What the kernel knows of each frame: its one role, and where it is mapped (struct page).

The descriptors are columns of NumPy arrays that grow with the highest frame ever used, so a host
of 1 TiB costs nothing until it is used, and a batch of pages is one array operation.
"""

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int64]
"""Frame numbers; of a huge page, its first frame."""


def runs(numbers: Pages) -> Iterator[tuple[int, int]]:
    """Numbers in any order, each counted once, as (first, count) of neighbours."""
    ordered = numbers if (np.diff(numbers) > 0).all() else np.unique(numbers)
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    firsts = np.append(0, breaks) if len(ordered) else breaks
    lengths = np.diff(np.append(firsts, len(ordered)))
    yield from zip(ordered[firsts].tolist(), lengths.tolist(), strict=True)


class Role(IntEnum):
    """What a frame is used for; it is exactly one of these."""

    FREE = 0
    KERNEL = 1  # the kernel's own data
    TABLE = 2  # a page table of a process or of the kernel
    SECONDARY = 3  # a table of a hypervisor (SecPageTables)
    ANON = 4
    SHMEM = 5  # tmpfs and shared memory: in the page cache, but swapped like anonymous memory
    FILE = 6  # page cache of a file
    BUFFERS = 7  # page cache of a block device
    KSM = 8  # one copy for many mappings
    HUGETLB = 9
    BALLOON = 10


SWAP_BACKED = (Role.ANON, Role.SHMEM, Role.KSM)
NOWHERE = 255  # on no LRU list
_COLUMNS = ("role", "order", "lru", "referenced", "dirty", "stamp", "mapping", "index")
_FIRST = 1024


class Frames:
    """The descriptors of all frames, by frame number."""

    def __init__(self) -> None:
        self.role: NDArray[np.uint8] = np.zeros(_FIRST, np.uint8)
        self.order: NDArray[np.uint8] = np.zeros(_FIRST, np.uint8)  # of a head: a page of 2**order
        self.lru: NDArray[np.uint8] = np.full(_FIRST, NOWHERE, np.uint8)
        self.referenced: NDArray[np.bool_] = np.zeros(_FIRST, np.bool_)  # PG_referenced
        self.dirty: NDArray[np.bool_] = np.zeros(_FIRST, np.bool_)  # PG_dirty, of page cache
        self.stamp: NDArray[np.int64] = np.zeros(_FIRST, np.int64)  # its place on the LRU list
        self.mapping: NDArray[np.int32] = np.zeros(_FIRST, np.int32)  # whose, see memory.py
        self.index: NDArray[np.int64] = np.zeros(_FIRST, np.int64)  # which page of that one

    def take(self, pfn: int, order: int, role: Role) -> None:
        """A block leaves the free lists for ``role``."""
        end = pfn + (1 << order)
        if end > len(self.role):
            self._grow(end)
        self.role[pfn:end] = role
        self.order[pfn] = order
        self.referenced[pfn] = self.dirty[pfn] = False

    def take_pages(self, pages: Pages, role: Role) -> None:
        """Single frames leave the free lists for ``role``."""
        end = int(pages.max()) + 1
        if end > len(self.role):
            self._grow(end)
        self.role[pages], self.order[pages] = role, 0
        self.referenced[pages] = self.dirty[pages] = False

    def release(self, pfn: int, order: int) -> None:
        """A block goes back to the free lists."""
        self.role[pfn : pfn + (1 << order)] = Role.FREE
        self.order[pfn : pfn + (1 << order)] = 0

    def split(self, head: int) -> Pages:
        """A huge page becomes pages of one frame each, with what was known of it; these."""
        pieces = np.arange(head, head + (1 << int(self.order[head])), dtype=np.int64)
        self.order[pieces] = 0
        for column in (self.referenced, self.dirty, self.mapping):
            column[pieces] = column[head]
        self.index[pieces] = self.index[head] + np.arange(len(pieces))
        self.lru[pieces] = NOWHERE
        return pieces

    def join(self, head: int, order: int) -> None:
        """Frames of their own become one huge page."""
        self.order[head : head + (1 << order)] = 0
        self.order[head] = order

    def counts(self) -> dict[Role, int]:
        """How many frames have each role; of the free ones the allocator knows."""
        found = np.bincount(self.role, minlength=len(Role))
        return {role: int(found[role]) for role in Role if role is not Role.FREE}

    def with_role(self, role: Role) -> Pages:
        """Every frame of a role, in order."""
        return np.flatnonzero(self.role == role)

    def sizes(self, pages: Pages) -> NDArray[np.int64]:
        """How many frames each page has."""
        return np.left_shift(1, self.order[pages], dtype=np.int64)

    def _grow(self, end: int) -> None:
        old = len(self.role)
        size = max(end, 2 * old)
        for name in _COLUMNS:
            column = getattr(self, name)
            wider = np.full(size, NOWHERE if name == "lru" else 0, column.dtype)
            wider[:old] = column
            setattr(self, name, wider)
