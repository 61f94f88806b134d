"""Synthetic traces: patterns of access that textbooks name, each by a formula and a seed.

They are data accesses of one process to one area from `HEAP` on; instructions are left out, for
they would be found in the TLB.  The same parameters give the same bytes on every platform.
"""

from decimal import Decimal, localcontext
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.hardware.records import Kind
from kvmlab.workloads.dice import below, permutation
from kvmlab.workloads.programs import HEAP
from kvmlab.workloads.trace import Trace

WORD = 8  # bytes of each access
_SCALE, _WHOLE = 10**12, 1 << 32  # of the weights of a Zipf distribution, and of their sum


def sequential(name: str, pages: int, count: int, writes: int, seed: int) -> Trace:
    """Every word of the area in order, over and over."""
    return strided(name, pages, count, WORD, writes, seed)


def strided(name: str, pages: int, count: int, stride: int, writes: int, seed: int) -> Trace:
    """A word every ``stride`` bytes, over and over; the area is a ring."""
    offsets = np.arange(count, dtype=np.int64) * stride % (pages * PAGE_SIZE)
    return _trace(name, offsets & ~(WORD - 1), _kinds(count, writes, seed))


def uniform(name: str, pages: int, count: int, writes: int, seed: int) -> Trace:
    """Words at random, all equally likely."""
    offsets = below(seed, count, pages * PAGE_SIZE // WORD) * WORD
    return _trace(name, offsets, _kinds(count, writes, seed))


def zipf(name: str, pages: int, count: int, skew: int, writes: int, seed: int) -> Trace:
    """Pages at random, the k-th most popular with a weight of 1 / k^s; a random word of each.

    ``skew`` is s in hundredths.  Popular pages lie anywhere in the area.
    """
    rank = np.searchsorted(_shares(pages, skew), below(seed, count, _WHOLE), side="right")
    page = permutation(seed + 1, pages).take(rank)
    offsets = page * PAGE_SIZE + below(seed + 2, count, PAGE_SIZE // WORD) * WORD
    return _trace(name, offsets, _kinds(count, writes, seed))


def chase(name: str, pages: int, count: int, seed: int) -> Trace:
    """A list with one node a page, in random order, followed round and round."""
    nodes = permutation(seed, pages) * PAGE_SIZE
    nodes += below(seed + 1, pages, PAGE_SIZE // WORD) * WORD
    return _trace(name, nodes.take(np.arange(count) % pages), _kinds(count, 0, seed))


def matmul(name: str, size: int, count: int) -> Trace:
    """C = A B of ``size`` x ``size`` doubles, row by column as it is written down.

    Of each element of C: two reads for each product, then the write.
    """
    number = np.arange(min(count, size * size * (2 * size + 1)), dtype=np.int64)
    element, step = np.divmod(number, 2 * size + 1)
    row, column = np.divmod(element, size)
    product, second = np.divmod(step, 2)
    offsets = row * size + product  # of A
    offsets = np.where(second == 1, size * size + product * size + column, offsets)
    last = step == 2 * size
    offsets = np.where(last, 2 * size * size + element, offsets)
    kinds = np.where(last, Kind.WRITE, Kind.READ).astype(np.uint8)
    return _trace(name, offsets * WORD, kinds)


def gups(name: str, pages: int, count: int, seed: int) -> Trace:
    """Words at random, each read and written: the RandomAccess benchmark of HPC Challenge."""
    return uniform(name, pages, count, 100, seed)


def _shares(pages: int, skew: int) -> NDArray[np.int64]:
    """How much of `_WHOLE` the first, the first two, ... ranks have; the last number is all of it.

    In whole numbers and decimals, so that no platform's logarithm can make a difference.
    """
    with localcontext(prec=24):
        power = Decimal(-skew) / 100
        exact = skew == 100
        weights = [
            _SCALE // rank if exact else int(_SCALE * Decimal(rank) ** power)
            for rank in range(1, pages + 1)
        ]
    reached = list(accumulate(weights))
    return np.array([one * _WHOLE // reached[-1] for one in reached], np.int64)


def _kinds(count: int, writes: int, seed: int) -> NDArray[np.uint8]:
    """So many per cent writes, at random; the rest reads."""
    drawn = below(seed + 3, count, 100) < writes
    return np.where(drawn, Kind.WRITE, Kind.READ).astype(np.uint8)


def _trace(name: str, offsets: NDArray[np.int64], kinds: NDArray[np.uint8]) -> Trace:
    sizes = np.full(len(offsets), WORD, np.uint16)
    return Trace(name, kinds, offsets.astype(np.uint64) + np.uint64(HEAP), sizes)
