"""Synthetic programs that keep their kernel busy: forks, mappings, a server under load.

They are streams of operations (see `programs`); the same parameters give the same operations on
every platform.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.hardware.records import Kind
from kvmlab.workloads.dice import Dice
from kvmlab.workloads.programs import (
    DATA,
    HEAP,
    TEXT,
    Exit,
    Fork,
    Mmap,
    Munmap,
    Operation,
    Switch,
    Syscall,
    Touch,
    Wait,
    populate,
)

BUFFERS = 0x7000_0000  # where a server maps what it needs for one request


@dataclass(frozen=True, slots=True)
class Scenario:
    """A program that can be run again for each design, and the pages that it needs at most."""

    name: str
    pages: int
    operations: Callable[[], Iterator[Operation]]

    def __len__(self) -> int:
        """How many operations it has."""
        return sum(1 for _ in self.operations())

    def head(self, count: int) -> "Scenario":
        """The first ``count`` operations, or all where there are fewer."""
        return Scenario(self.name, self.pages, lambda: islice(self.operations(), count))


def fork_storm(name: str, pages: int, forks: int, touched: int, seed: int) -> Scenario:
    """A shell that forks short-lived children: forkwait of Adams and Agesen, ASPLOS 2006.

    The shell has ``pages`` pages; each child writes to ``touched`` of them, so copies them, and
    ends; the shell collects it and writes to one itself.
    """

    def operations() -> Iterator[Operation]:
        dice = Dice(seed)
        yield from populate(HEAP, pages * PAGE_SIZE)
        for number in range(forks):
            child = f"child-{number}"
            yield Fork(child)
            yield Switch(child)
            for _ in range(touched):
                yield Touch(HEAP + dice.below(pages) * PAGE_SIZE, Kind.WRITE)
            yield Exit("init")
            yield Wait()
            yield Touch(HEAP + dice.below(pages) * PAGE_SIZE, Kind.WRITE)

    return Scenario(name, 2 * pages + touched, operations)


def mmap_storm(name: str, pages: int, rounds: int, seed: int) -> Scenario:
    """A program that maps, writes to every page and unmaps, again and again.

    Each mapping is of 1 to ``pages`` pages, at another place each time: under shadow paging the
    hypervisor follows every change; under EPT the frames are there already.
    """

    def operations() -> Iterator[Operation]:
        dice = Dice(seed)
        for _ in range(rounds):
            start = HEAP + dice.below(256) * (pages * PAGE_SIZE)
            length = 1 + dice.below(pages)
            yield from populate(start, length * PAGE_SIZE)
            yield Munmap(start)

    return Scenario(name, pages, operations)


def server(name: str, workers: int, requests: int, pages: int, seed: int) -> Scenario:
    """A server with a process a worker, over one heap that all had from their parent.

    A request wakes a worker: a system call to receive, code fetched, data read at random, some
    pages of it written (copied at the first time), one request in four with a buffer of its own
    that is mapped and unmapped, and a system call to answer.
    """
    text = 16

    def operations() -> Iterator[Operation]:
        dice = Dice(seed)
        yield Mmap(TEXT, text * PAGE_SIZE, write=False, execute=True)
        yield Mmap(DATA, PAGE_SIZE)
        yield from populate(HEAP, pages * PAGE_SIZE)
        for number in range(workers):
            yield Fork(f"worker-{number}")
        for _ in range(requests):
            yield Switch(f"worker-{dice.below(workers)}")
            yield from _request(dice, text, pages)

    return Scenario(name, (workers + 1) * (pages + text) + 64, operations)


def _request(dice: Dice, text: int, pages: int) -> Iterator[Operation]:
    yield Syscall()
    for _ in range(4):
        yield Touch(TEXT + dice.below(text) * PAGE_SIZE, Kind.FETCH)
    for _ in range(8):
        place = min(dice.below(pages), dice.below(pages))  # the front of the heap is hotter
        kind = Kind.WRITE if dice.below(4) == 0 else Kind.READ
        yield Touch(HEAP + place * PAGE_SIZE + dice.below(512) * 8, kind)
    if dice.below(4) == 0:
        length = 1 + dice.below(8)
        yield from populate(BUFFERS, length * PAGE_SIZE)
        yield Munmap(BUFFERS)
    yield Syscall()
