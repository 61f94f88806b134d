"""What the kernel knows of each frame: its one role, and where it is mapped (struct page).

The descriptors are columns of NumPy arrays that grow with the highest frame ever used, so a host
of 1 TiB costs nothing until it is used, and a batch of pages is one array operation.  Columns that
most kernels have no use for take no memory before something is written to them.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
Pages = NDArray[np.int64]
"""Frame numbers; of a huge page, its first frame."""


def runs(numbers: Pages) -> Iterator[tuple[int, int]]:
    """Numbers in any order, each counted once, as (first, count) of neighbours."""
    steps = numbers[1:] - numbers[:-1]
    if (steps <= 0).any():
        numbers = np.unique(numbers)
        steps = numbers[1:] - numbers[:-1]
    start = 0
    for last in [*np.flatnonzero(steps != 1).tolist(), len(numbers) - 1] if len(numbers) else []:
        yield int(numbers[start]), last + 1 - start
        start = last + 1


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
_FIRST, _SECTION = 1024, 1 << 15  # frames; a section is 128 MiB, SECTION_SIZE_BITS


def _unused(size: int, dtype: type[T] | np.dtype[T]) -> NDArray[T]:
    """So many zeroes, to be read only, in no memory."""
    return np.broadcast_to(np.zeros((), dtype), size)


class Frames:
    """The descriptors of all frames, by frame number, of which none is beyond ``end``.

    `order`, `referenced` and `dirty` are written by `put`.
    """

    def __init__(self, end: int) -> None:
        self._end = end
        self._swap_backed = np.isin(np.arange(len(Role)), SWAP_BACKED)
        self.role: NDArray[np.uint8] = np.zeros(_FIRST, np.uint8)
        self.order: NDArray[np.uint8] = _unused(_FIRST, np.uint8)  # of a head: a page of 2**order
        self.lru: NDArray[np.uint8] = np.full(_FIRST, NOWHERE, np.uint8)
        self.referenced: NDArray[np.bool_] = _unused(_FIRST, np.bool_)  # PG_referenced
        self.dirty: NDArray[np.bool_] = _unused(_FIRST, np.bool_)  # PG_dirty, of page cache
        self.stamp: NDArray[np.uint32] = np.zeros(_FIRST, np.uint32)  # its place on the LRU list
        self.mapping: NDArray[np.int32] = np.zeros(_FIRST, np.int32)  # whose, see memory.py
        self.index: NDArray[np.int64] = np.zeros(_FIRST, np.int64)  # which page of that one

    def take(self, pfn: int, order: int, role: Role) -> None:
        """A block leaves the free lists for ``role``."""
        end = pfn + (1 << order)
        if end > len(self.role):
            self._grow(end)
        self.role[pfn:end] = role
        self._fresh(pfn, order)

    def take_pages(self, pages: Pages, role: Role) -> None:
        """Single frames leave the free lists for ``role``."""
        if not len(pages):
            return
        end = int(pages.max()) + 1
        if end > len(self.role):
            self._grow(end)
        self.role[pages] = role
        self._fresh(pages, 0)

    def _fresh(self, where: int | Pages, order: int) -> None:
        self.put("order", where, order)
        self.put("referenced", where, value=False)
        self.put("dirty", where, value=False)

    def put(self, column: str, where: int | slice | Pages, value: int | NDArray[np.bool_]) -> None:
        """Write to one of the columns that most kernels never use."""
        held: NDArray[np.uint8 | np.bool_] = getattr(self, column)
        if not held.flags.writeable:
            if not (value.any() if isinstance(value, np.ndarray) else value):
                return
            held = held.copy()
            setattr(self, column, held)
        held[where] = value

    def release(self, pfn: int, order: int) -> None:
        """A block goes back to the free lists."""
        self.role[pfn : pfn + (1 << order)] = Role.FREE
        self.put("order", slice(pfn, pfn + (1 << order)), 0)

    def split(self, head: int) -> Pages:
        """A huge page becomes pages of one frame each, with what was known of it; these."""
        pieces = np.arange(head, head + (1 << int(self.order[head])), dtype=np.int64)
        self.put("order", pieces, 0)
        self.put("referenced", pieces, self.referenced[head])
        self.put("dirty", pieces, self.dirty[head])
        self.mapping[pieces] = self.mapping[head]
        self.index[pieces] = self.index[head] + np.arange(len(pieces))
        self.lru[pieces] = NOWHERE
        return pieces

    def join(self, head: int, order: int) -> None:
        """Frames of their own become one huge page."""
        self.put("order", slice(head, head + (1 << order)), 0)
        self.put("order", head, order)

    def counts(self) -> dict[Role, int]:
        """How many frames have each role; of the free ones the allocator knows."""
        found = np.bincount(self.role, minlength=len(Role))
        return {role: int(found[role]) for role in Role if role is not Role.FREE}

    def with_role(self, role: Role) -> Pages:
        """Every frame of a role, in order."""
        return np.flatnonzero(self.role == role)

    def swap_backed(self, pages: Pages) -> NDArray[np.bool_]:
        """Which pages go to swap, rather than to a file."""
        return self._swap_backed[self.role[pages]]

    def total(self, pages: Pages) -> int:
        """How many frames pages have together."""
        if not self.order.flags.writeable:
            return len(pages)  # nothing larger was ever taken
        return int(self.sizes(pages).sum())

    def sizes(self, pages: Pages) -> NDArray[np.int64]:
        """How many frames each page has."""
        return np.left_shift(1, self.order[pages], dtype=np.int64)

    def _grow(self, end: int) -> None:
        old = len(self.role)
        step = min(old, max(_SECTION, old >> 3))
        size = max(end, min(old + step, self._end))
        for name in _COLUMNS:
            column = getattr(self, name)
            if not column.flags.writeable:
                setattr(self, name, _unused(size, column.dtype))
                continue
            wider = np.full(size, NOWHERE if name == "lru" else 0, column.dtype)
            wider[:old] = column
            setattr(self, name, wider)
