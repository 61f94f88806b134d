"""A process that uses some of its memory over and over, and at times some other part."""

import random

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadSize
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.process import Vma


class WorkingSet:
    """``pages`` pages of a mapping of the current process, in use from page ``start`` on.

    Accesses are drawn from ``seed``, uniformly over the set.
    """

    def __init__(self, kernel: Kernel, vma: Vma, pages: int, seed: int = 0) -> None:
        self._kernel, self._vma = kernel, vma
        self._random = random.Random(seed)
        self.start, self.pages = 0, 0
        self.set(0, pages)

    def set(self, start: int, pages: int) -> None:
        """Move or resize it; raises `BadSize` beyond the mapping."""
        most = (self._vma.end - self._vma.start) // PAGE_SIZE
        if pages < 1 or start < 0 or start + pages > most:
            raise BadSize(f"pages {start} to {start + pages - 1} are not among the {most} mapped")
        self.start, self.pages = start, pages

    def run(self, accesses: int) -> None:
        """Store to that many pages of it, each time some value."""
        for _ in range(accesses):
            page = self.start + self._random.randrange(self.pages)
            value = self._random.getrandbits(32)
            self._kernel.store(self._vma.start + page * PAGE_SIZE, value)
