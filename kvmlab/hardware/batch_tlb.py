"""A two-level TLB for a million lookups: the arrays of a `Geometry` as cascades (`batch_lru`).

What it answers is what `tlb.Tlb` answers to the same lookups, each miss followed by a fill.  The
translations must stand: their page sizes do not change, and A and D bits are set already (a fault
neither fills nor touches, and a first write walks again, so those are for the scalar path).
Paging-structure caches and the nested TLB are not here: what they save is counted by the scalar
path, which serves every miss of a replay (study/batches.py).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_pages import Bools, Bytes, Ints, chunks
from kvmlab.hardware.tlb import UNIFIED, ArrayShape, Geometry

MISS, L1, L2 = range(3)
"""Where a lookup found its page."""

SPACES = 1 << 12
"""How many address spaces may be told apart."""

_PART = 1 << 19  # of lookups: what misses the first level of these goes on to the second
PAGE_NUMBER = (1 << 45) - 1
_SIZE_BITS, _SPACE_BITS = 45, 49  # in a tag: above the page number its size, then its space
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
        asked = _Asked(gva, shifts, fetch if self._fetch is not self._data else False, spaces)
        for part in chunks(len(gva), _PART):
            self._lookups(asked.part(part), where[part])
        return where

    def _lookups(self, asked: "_Asked", where: Bytes) -> None:
        """Write ``where`` these are found, which is in L1 so far."""
        if isinstance(asked.fetch, bool):
            missed = self._missed(self._fetch if asked.fetch else self._data, asked)
        else:
            data, fetches = np.flatnonzero(~asked.fetch), np.flatnonzero(asked.fetch)
            sides = (
                data.take(self._missed(self._data, asked.part(data))),
                fetches.take(self._missed(self._fetch, asked.part(fetches))),
            )
            missed = np.sort(np.concatenate(sides))
        level = np.full(len(missed), L2, np.uint8)
        level[self._missed(self._second, asked.part(missed))] = MISS
        where[missed] = level

    def arrays(self) -> list[LruArray]:
        """The cascade of each array once, in the order of `tlb.Tlb.arrays`."""
        fetch = [] if self._fetch is self._data else self._fetch
        return [one.tags for one in (*self._data, *fetch, *self._second)]

    @staticmethod
    def _missed(arrays: "list[_Array]", asked: "_Asked") -> Ints:
        """Which lookups none of ``arrays`` answers, rising; each page size has one array."""
        left: tuple[int, ...] = _SIZES
        missed: list[Ints] = []
        for array in arrays:
            sizes = [size for size in left if size in array.shape.shifts]
            left = tuple(size for size in left if size not in sizes)
            some = asked.of_sizes(sizes)
            if some is None:
                return array.missed(asked)
            if len(some):
                missed.append(some.take(array.missed(asked.part(some))))
        nowhere = asked.of_sizes(left)
        missed.append(np.arange(len(asked.gva)) if nowhere is None else nowhere)
        return np.sort(np.concatenate(missed), kind="stable")


@dataclass(slots=True)
class _Asked:
    """Some lookups: what each asks for, or all of them."""

    gva: Ints
    shifts: Bytes | int
    fetch: Bools | bool
    spaces: Ints | int

    def part(self, some: Ints | slice) -> "_Asked":
        """Those at ``some``."""
        return _Asked(
            _pick(self.gva, some),
            _pick(self.shifts, some),
            _pick(self.fetch, some),
            _pick(self.spaces, some),
        )

    def of_sizes(self, sizes: Collection[int]) -> Ints | None:
        """Which of them are to pages of these sizes; None: all."""
        if isinstance(self.shifts, int):
            return None if self.shifts in sizes else np.zeros(0, np.int64)
        return np.flatnonzero(np.isin(self.shifts, list(sizes)))

    def tags(self, part: slice) -> Ints:
        """Page number, page size and address space in one number; the low bits choose the set."""
        tags = page_tags(_pick(self.gva, part), _pick(self.shifts, part), low=0)
        if not isinstance(self.spaces, int) or self.spaces:
            tags |= _pick(self.spaces, part) << _SPACE_BITS
        return tags


class _Array:
    """One array of a TLB."""

    def __init__(self, shape: ArrayShape) -> None:
        self.shape, self.tags = shape, LruArray(shape.sets, shape.ways)

    def missed(self, asked: _Asked) -> Ints:
        """Look all of these up, and fill after each miss: which are not found, rising."""
        return self.tags.misses(len(asked.gva), asked.tags)


def page_tags(numbers: Ints, shifts: Bytes | Ints | int, low: int = 12) -> Ints:
    """The number and the size of the pages that 4 KiB pages lie in, as one number each.

    Its low bits are those of the page number, which choose a set.  ``numbers`` are counted in
    units of 1 << ``low`` bytes: page numbers, or addresses (0).
    """
    sizes = shifts if isinstance(shifts, int) else shifts.astype(np.int64)
    tags: Ints = numbers >> sizes - low
    tags &= PAGE_NUMBER
    size = _size(sizes)
    if not isinstance(size, int) or size:
        tags |= size
    return tags


def page_tag(number: int, shift: int) -> int:
    """As `page_tags` says it of the page with this number, counted in pages of its size."""
    return number & PAGE_NUMBER | (shift & 15 ^ 12) << _SIZE_BITS


def page_of(tag: int) -> tuple[int, int]:
    """The number and the shift of the page that a tag stands for."""
    size = tag >> _SIZE_BITS
    return tag & PAGE_NUMBER, next(shift for shift in _SIZES if shift & 15 ^ 12 == size)


def _size(shift: Any) -> Any:  # noqa: ANN401  one, or an array
    """A size as high bits: of 12, 21, 22 and 30 the low four bits differ; 4 KiB has none."""
    return (shift & 15 ^ 12) << _SIZE_BITS


def _pick(values: Any, some: Ints | slice) -> Any:  # noqa: ANN401  an array of any type, or one value
    if isinstance(values, int):
        return values
    return values[some] if isinstance(some, slice) else values.take(some)
