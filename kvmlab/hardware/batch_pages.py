"""Which pages do a million accesses touch?  Answered without sorting them.

Everything that a batch saves rests on one fact: accesses are many and pages are few.  So the
first thing a batch does is to give each page a small number, its key, and from then on an access
is one index into arrays as long as there are pages.  Sorting would cost 50 to 100 ns an access;
direct addressing (the page number itself is the index) costs 1 to 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

CHUNK = 1 << 15
"""Accesses that are worked on at a time: their temporaries then stay in the cache."""

_WINDOW_BITS = 12  # pages of one window: 16 MiB of addresses
_MOST_WINDOWS = 1 << 24  # that a table is made for: all of a 48-bit address space
_DENSE = 1 << 16
_SORTED = 1 << 10  # fewer addresses than that are sorted sooner


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """0 to ``count`` in slices of ``size``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def signed(mask: int) -> int:
    """A 64-bit mask as NumPy's int64 holds it: an unsigned one would make floats of words."""
    return mask - (1 << 64) if mask >> 63 else mask


@dataclass(frozen=True, slots=True)
class Keys:
    """A key for each access, and the numbers that the keys stand for.

    ``of_access`` has the key of each access, ``used`` the keys that occur, ``numbers`` what
    each of those stands for, ``counts`` how often it occurs; keys are below ``size``.
    """

    of_access: Ints
    size: int
    used: Ints
    numbers: Ints
    counts: Ints


def page_keys(addresses: Ints, mask: int, ends: tuple[int, int] | None = None) -> Keys:
    """Keys for the pages of canonical ``addresses``; ``mask`` keeps a page number's own bits.

    ``ends`` are the lowest and the highest address, where somebody knows them.
    """
    if len(addresses) < _SORTED:
        return _sorted_keys(addresses, mask)
    low, high = _span(ends or (int(addresses.min()), int(addresses.max())), mask)
    keys = np.empty(len(addresses), np.int64)
    if high - low < max(_DENSE, 4 * len(addresses)):
        for part in chunks(len(addresses)):
            _page_numbers(addresses[part], mask, keys[part])
            np.subtract(keys[part], low, out=keys[part])
        return _counted(keys, high - low + 1, None, low)
    if (high >> _WINDOW_BITS) - (low >> _WINDOW_BITS) < _MOST_WINDOWS:
        windows = _window_keys(addresses, mask, low, high, keys)
        if len(windows) << _WINDOW_BITS < max(_DENSE, 16 * len(addresses)):
            return _counted(keys, (len(windows) << _WINDOW_BITS) + 1, windows, 0)
    return _sorted_keys(addresses, mask)


def occurrences(numbers: Ints, size: int, weights: Ints | None = None) -> Ints:
    """How often each number below ``size`` occurs, or the sum of its weights (below 2**53).

    NumPy counts numbers of the machine's own width: 32 bits in a browser.
    """
    found = np.bincount(numbers.astype(np.intp, copy=False), weights, minlength=size)
    return found.astype(np.int64, copy=False)


def holds(rows: Bools | Bytes) -> bool:
    """Whether it is so anywhere (a third of the time that `any` takes for a few rows)."""
    return bool(np.count_nonzero(rows))


def holds_all(rows: Bools) -> bool:
    """Whether it is so everywhere."""
    return bool(np.count_nonzero(rows) == len(rows))


def distinct(numbers: Ints) -> tuple[Ints, Ints]:
    """Each of ``numbers`` once, rising, and where in that list each of them is."""
    low, high = int(numbers.min()), int(numbers.max())
    if low == high:
        return np.array([low], np.int64), np.zeros(len(numbers), np.int64)
    if high - low >= max(4096, 8 * len(numbers)):
        return np.unique(numbers, return_inverse=True)
    offsets = numbers - low
    seen = np.zeros(high - low + 1, np.bool_)
    seen[offsets] = True
    found = np.flatnonzero(seen).astype(np.int64)
    place = np.empty(high - low + 1, np.int64)
    place[found] = np.arange(len(found))
    return found + low, place.take(offsets)


def _sorted_keys(addresses: Ints, mask: int) -> Keys:
    """Keys for a few addresses, or for such as lie all over the place."""
    numbers, inverse, counts = np.unique(
        addresses >> 12 & mask, return_inverse=True, return_counts=True
    )
    every = np.arange(len(numbers), dtype=np.int64)
    return Keys(inverse.astype(np.int64), len(numbers), every, numbers, counts)


def _page_numbers(addresses: Ints, mask: int, out: Ints) -> None:
    np.right_shift(addresses, 12, out=out)
    np.bitwise_and(out, mask, out=out)  # the high half would be negative


def _span(ends: tuple[int, int], mask: int) -> tuple[int, int]:
    """The lowest and the highest page number of addresses between these."""
    low, high = ends
    if low < 0 <= high:  # both halves
        return 0, mask
    return low >> 12 & mask, high >> 12 & mask


def _window_keys(addresses: Ints, mask: int, low: int, high: int, keys: Ints) -> Ints:
    """Number the windows as they are met; returns which they are.

    What turns a page number into its key is the same for all pages of a window, so one lookup
    and one addition do it.  The key 0 stays free: no window then has 0 for that difference.
    """
    first = low >> _WINDOW_BITS
    to_key = np.zeros((high >> _WINDOW_BITS) - first + 1, np.int64)  # 0: not met yet
    windows = np.zeros(0, np.int64)
    for part in chunks(len(addresses)):
        page = keys[part]
        _page_numbers(addresses[part], mask, page)
        window = page >> _WINDOW_BITS
        window -= first
        difference = to_key.take(window)
        if np.count_nonzero(difference) != len(difference):
            unknown = window.take(np.flatnonzero(difference == 0))
            place = np.arange(len(unknown), dtype=np.int64)
            to_key[unknown] = place  # of those that are alike the last place stays
            fresh = unknown.take(np.flatnonzero(to_key.take(unknown) == place)) + first
            number = np.arange(len(windows), len(windows) + len(fresh))
            to_key[fresh - first] = (number - fresh << _WINDOW_BITS) + 1
            windows = np.append(windows, fresh)
            difference = to_key.take(window)
        page += difference
    return windows


def _counted(keys: Ints, size: int, windows: Ints | None, low: int) -> Keys:
    counts = np.zeros(size, np.int64)
    for part in chunks(len(keys), max(CHUNK, 4 * size)):
        counts += occurrences(keys[part], size)
    used = np.flatnonzero(counts != 0).astype(np.int64)  # bytes are looked through faster
    if windows is None:
        numbers = used + low
    else:
        place = used - 1
        numbers = windows[place >> _WINDOW_BITS] << _WINDOW_BITS
        numbers |= place & (1 << _WINDOW_BITS) - 1
    return Keys(keys, size, used, numbers, counts[used])
