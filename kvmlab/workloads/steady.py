"""A guest in its steady state: random accesses, and now and then work for its kernel.

How much of which is what a study turns: the size of the working set decides how often the TLB
misses, remapped pages and process switches how often a hypervisor that shadows is called.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import BadSize
from kvmlab.hardware.records import Kind
from kvmlab.workloads.programs import (
    HEAP,
    PAGE,
    Fork,
    Mmap,
    Munmap,
    Operation,
    Switch,
    Touch,
)

ROUND = 1000
"""Accesses of one round: remaps and switches are counted per thousand of them."""

WINDOW, SLOTS = 0x7000_0000_0000, 64
"""Where pages are remapped, and how many there are: every other page, each a mapping of its own."""

Step = Operation | NDArray[np.uint64]
"""An operation, or addresses that are written to one after the other."""

PROCESSES = ("init", "other")
MOST_PAGES = 1 << 15


@dataclass(frozen=True, slots=True)
class Steady:
    """Writes to random words of ``pages`` pages; the same seed is the same program.

    After the accesses of each round ``remaps`` pages are unmapped, mapped again and written
    to; their frames were used before.  Within a round two processes, each with a working set of
    its own, take turns ``switches`` times.  Raises `BadSize`.
    """

    pages: int = 1024
    remaps: int = 0
    switches: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name, least, most in (
            ("pages", 1, MOST_PAGES),
            ("remaps", 0, ROUND),
            ("switches", 0, ROUND),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise BadSize(f"{value} {name} are out of range; choose {least} to {most}")

    @property
    def processes(self) -> tuple[str, ...]:
        """Who runs; the first of them when a round begins."""
        return PROCESSES[: 2 if self.switches else 1]

    def prepare(self) -> Iterator[Operation]:
        """Every process maps its pages."""
        for name in self.processes[1:]:
            yield Fork(name)  # before anything is mapped, so that nothing is shared
        for name in reversed(self.processes):
            yield Switch(name)
            yield Mmap(HEAP, self.pages * PAGE, populate=True)
            for slot in range(SLOTS if self.remaps else 0):
                yield Mmap(_slot(slot), PAGE)
                yield Touch(_slot(slot), Kind.WRITE)

    def pass_over(self) -> Iterator[Step]:
        """Every process writes to each of its pages once."""
        for name in reversed(self.processes):
            yield Switch(name)
            yield np.uint64(HEAP) + np.arange(self.pages, dtype=np.uint64) * np.uint64(PAGE)

    def rounds(self) -> Iterator[list[Step]]:
        """One round after the other, without end."""
        choose = np.random.default_rng(self.seed)
        while True:
            words = choose.integers(0, self.pages * PAGE // 8, ROUND, dtype=np.uint64)
            yield [*self._accesses(np.uint64(HEAP) + words * np.uint64(8)), *self._remaps()]

    def _accesses(self, addresses: NDArray[np.uint64]) -> Iterator[Step]:
        """The accesses of a round, in turns; the first process is the last one too."""
        for turn, part in enumerate(np.array_split(addresses, self.switches + 1)):
            if turn:
                yield Switch(PROCESSES[turn % 2])
            if len(part):
                yield part
        if self.switches % 2:
            yield Switch(PROCESSES[0])

    def _remaps(self) -> Iterator[Step]:
        for number in range(self.remaps):
            gva = _slot(number % SLOTS)
            yield Munmap(gva)
            yield Mmap(gva, PAGE)
            yield Touch(gva, Kind.WRITE)


def _slot(number: int) -> int:
    return WINDOW + 2 * number * PAGE
