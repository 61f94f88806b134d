"""Random choices that are the same on every Python, machine and run.

A draw is a name and a counter: each number is the BLAKE2 digest of both, so nothing depends on
an interpreter's generator or on hash seeds (pinned by tests/course/golden.json).
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """The sequence of choices called ``name``."""

    def __init__(self, name: str) -> None:
        self._name, self._count = name.encode(), 0

    def below(self, limit: int) -> int:
        """A whole number from 0 to ``limit`` - 1; the bias of the remainder is below 2**-80."""
        number = self._count.to_bytes(8, "little")
        self._count += 1
        digest = blake2b(self._name, digest_size=24, salt=number).digest()
        return int.from_bytes(digest, "little") % limit

    def between(self, first: int, last: int) -> int:
        """A whole number from ``first`` to ``last``, both included."""
        return first + self.below(last - first + 1)

    def chance(self, part: int, whole: int = 100) -> bool:
        """Yes in ``part`` of ``whole`` cases."""
        return self.below(whole) < part

    def choose(self, things: Sequence[T]) -> T:
        """One of ``things``."""
        return things[self.below(len(things))]

    def shuffled(self, things: Sequence[T]) -> list[T]:
        """``things`` in another order (Fisher and Yates)."""
        found = list(things)
        for last in range(len(found) - 1, 0, -1):
            other = self.below(last + 1)
            found[last], found[other] = found[other], found[last]
        return found

    def sample(self, things: Sequence[T], count: int) -> list[T]:
        """``count`` different ones of ``things``, in their order."""
        picked = sorted(self.shuffled(range(len(things)))[:count])
        return [things[number] for number in picked]
