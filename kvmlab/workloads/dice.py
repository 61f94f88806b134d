"""Random numbers that are the same everywhere: SplitMix64, in integers only.

NumPy and Python promise for few of their random methods that another version draws the same; these
are arithmetic on 64-bit words (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014), and the n-th word needs no other before it.
"""

import numpy as np
from numpy.typing import NDArray

_STEP = 0x9E37_79B9_7F4A_7C15
_MASK = (1 << 64) - 1
_MIX = ((30, 0xBF58_476D_1CE4_E5B9), (27, 0x94D0_49BB_1331_11EB))


def words(seed: int, count: int, first: int = 0) -> NDArray[np.uint64]:
    """``count`` random 64-bit words of ``seed``, from number ``first`` on."""
    places = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    state = places * np.uint64(_STEP) + np.uint64(seed & _MASK)
    for shift, factor in _MIX:
        state = (state ^ state >> np.uint64(shift)) * np.uint64(factor)
    return state ^ state >> np.uint64(31)


def below(seed: int, count: int, limit: int, first: int = 0) -> NDArray[np.int64]:
    """``count`` random integers from 0 to ``limit`` - 1, which is at most 2**32.

    By multiplication of the upper half of a word: no bias that a trace could show.
    """
    upper = words(seed, count, first) >> np.uint64(32)
    return (upper * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def permutation(seed: int, count: int) -> NDArray[np.int64]:
    """The integers below ``count`` in random order."""
    return np.argsort(words(seed, count), kind="stable")


class Dice:
    """The same words one by one."""

    def __init__(self, seed: int) -> None:
        self._seed, self._next, self._held = seed, 0, words(seed, 0)

    def below(self, limit: int) -> int:
        """A random integer from 0 to ``limit`` - 1, which is at most 2**32."""
        at = self._next % 1024
        if at == 0:
            self._held = words(self._seed, 1024, self._next)
        self._next += 1
        return (int(self._held[at]) >> 32) * limit >> 32
