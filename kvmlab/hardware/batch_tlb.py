"""A two-level TLB for a million lookups: the arrays of a `Geometry` as cascades (`batch_lru`).

What it answers is what `tlb.Tlb` answers to the same lookups, each miss followed by a fill.  The
translations must stand: their page sizes do not change, and A and D bits are set already (a fault
neither fills nor touches, and a first write walks again, so those are for the scalar path).
Paging-structure caches and the nested TLB are not here: what they save is counted by the scalar
path, which serves every miss of a replay (study/batches.py).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_pages import Bools, Bytes, Ints
from kvmlab.hardware.tlb import UNIFIED, ArrayShape, Geometry

MISS, L1, L2 = range(3)
"""Where a lookup found its page."""

SPACES = 1 << 12
"""How many address spaces may be told apart."""

_CHUNK = 1 << 17  # of lookups
_SECOND = 1 << 16  # lookups that the second level waits for: its 1536 tags cost each batch
_SIZE_BITS, _SPACE_BITS = 45, 48  # in a tag: above the page number its size, then its space
_SIZES = (12, 21, 22, 30)


class BatchTlb:
    """A TLB of this geometry, empty at first."""

    def __init__(self, geometry: Geometry = UNIFIED) -> None:
        self.geometry = geometry
        self._data = [_Array(shape) for shape in geometry.data]
        self._fetch = [_Array(shape) for shape in geometry.fetch] or self._data
        self._second = [_Array(shape) for shape in geometry.second]

    def lookups(
        self,
        addresses: NDArray[np.uint64],
        shifts: Bytes | int = 12,
        fetch: Bools | bool = False,
        spaces: Ints | int = 0,
    ) -> Bytes:
        """Look up addresses in order, each filled after a miss: `MISS`, `L1` or `L2` of each.

        ``shifts`` are the sizes of the pages, ``fetch`` says which lookups are fetches and
        ``spaces`` (below `SPACES`) whose they are: PCID, VPID and EPT root as one number.
        """
        gva = np.ascontiguousarray(addresses).view(np.int64)
        where = np.full(len(gva), L1, np.uint8)
        waiting: list[Ints] = []
        for start in range(0, len(gva), _CHUNK):
            part = slice(start, start + _CHUNK)
            tags = _tags(gva[part], _part(shifts, part), _part(spaces, part))
            missed = self._first(tags, _part(shifts, part), _part(fetch, part))
            missed += start
            waiting.append(missed)
            last = start + _CHUNK >= len(gva)
            if last or sum(map(len, waiting)) >= _SECOND:
                some = np.concatenate(waiting)
                size, space = _pick(shifts, some), _pick(spaces, some)
                tags = _tags(gva.take(some), size, space)
                where[some] = np.where(self._missed(self._second, tags, size), MISS, L2)
                waiting = []
        return where

    def arrays(self) -> list[LruArray]:
        """The cascade of each array once, in the order of `tlb.Tlb.arrays`."""
        fetch = [] if self._fetch is self._data else self._fetch
        return [one.tags for one in (*self._data, *fetch, *self._second)]

    def _first(self, tags: Ints, shifts: Bytes | int, fetch: Bools | bool) -> Ints:
        """Which lookups miss the first level."""
        if self._fetch is self._data or isinstance(fetch, bool):
            side = self._fetch if fetch is True else self._data
            return np.flatnonzero(self._missed(side, tags, shifts))
        missed = []
        for side, of_side in ((self._data, ~fetch), (self._fetch, fetch)):
            some = np.flatnonzero(of_side)
            found = self._missed(side, tags.take(some), _pick(shifts, some))
            missed.append(some.take(np.flatnonzero(found)))
        return np.sort(np.concatenate(missed))

    @staticmethod
    def _missed(arrays: "list[_Array]", tags: Ints, shifts: Bytes | int) -> Bools:
        """Which of ``tags`` none of ``arrays`` holds; each page size has one array."""
        missed = np.ones(len(tags), np.bool_)
        left: tuple[int, ...] = _SIZES
        for array in arrays:
            sizes = [size for size in left if size in array.shape.shifts]
            left = tuple(size for size in left if size not in sizes)
            if isinstance(shifts, int):
                if shifts in sizes:
                    return np.equal(array.tags.feed(tags), array.shape.ways)
            elif sizes:
                some = np.flatnonzero(np.isin(shifts, sizes))
                missed[some] = array.tags.feed(tags.take(some)) == array.shape.ways
        return missed


class _Array:
    def __init__(self, shape: ArrayShape) -> None:
        self.shape, self.tags = shape, LruArray(shape.sets, shape.ways)


def _tags(gva: Ints, shifts: Bytes | int, spaces: Ints | int) -> Ints:
    """Page number, page size and address space in one number; the low bits choose the set."""
    sizes = np.asarray(shifts, np.int64)
    tags: Ints = gva >> sizes
    tags &= (1 << _SIZE_BITS) - 1
    code = (sizes - 12) // 9  # 12, 21 and 30 as 0, 1 and 2; 22 is 1 too, and never meets 21
    if code.any():
        tags |= code << _SIZE_BITS
    if not isinstance(spaces, int) or spaces:
        tags |= np.asarray(spaces, np.int64) << _SPACE_BITS
    return tags


def _part(values: Any, part: slice) -> Any:  # noqa: ANN401  an array of any type, or one value
    return values if isinstance(values, int) else values[part]


def _pick(values: Any, some: Ints) -> Any:  # noqa: ANN401
    return values if isinstance(values, int) else values.take(some)
