"""Run a recorded program on a machine: its pages are mapped, its accesses are made, in order.

The trace knows addresses only.  The mappings (VMAs) a process would have had are taken from the
pages it touched: neighbours of equal rights are one mapping, writable if anything in it was
written, executable if anything was fetched.  Pages appear by demand fault, through the guest's
own kernel, so its page-table writes happen as they would.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_size
from kvmlab.base.errors import BadChoice
from kvmlab.guest.records import ContextSwitch
from kvmlab.hardware.batch_pages import page_keys
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.study.batches import Batches
from kvmlab.study.counters import Counters
from kvmlab.workloads.long_trace import LongTrace
from kvmlab.workloads.trace import Trace

STRIDE, LONGEST = 5_000, 640_000
"""Accesses before the first report of progress, and at most between two reports.

Agile paging has a tick of the host's timer every `STRIDE` accesses.
"""

PAUSE = 0.1
"""Seconds from one report to the next, about: a program that faults often has fewer accesses
in them, and whoever wants to stop it need not wait.  What is counted does not depend on it."""

PART = 2_000_000
"""Accesses of a long trace that are in memory at once."""

LEAST_GUEST_MEMORY = 64 << 20


@dataclass(frozen=True, slots=True)
class Area:
    """A mapping that the replayed process has: bytes from ``start``, and what they allow."""

    start: int
    length: int
    write: bool
    execute: bool


@dataclass(frozen=True, slots=True)
class Accesses:
    """What the program does, one entry an access; none crosses a 4 KiB page."""

    kinds: NDArray[np.uint8]
    addresses: NDArray[np.uint64]

    def __len__(self) -> int:
        """How many accesses."""
        return len(self.kinds)

    def parts(self) -> Iterator["Accesses"]:
        """All of them, at once."""
        yield self

    def touched(self, shift: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The pages of 1 << ``shift`` bytes, rising, and whether each was written or fetched."""
        keys = page_keys(self.addresses.view(np.int64) >> shift - PAGE_SHIFT, -1)
        done = np.zeros(keys.size << 3, np.bool_)  # by page and kind
        done[keys.of_access << 3 | self.kinds] = True
        order = np.argsort(keys.numbers)
        used = keys.used.take(order) << 3
        rights = done[used | Kind.WRITE] * np.uint8(Kind.WRITE)
        rights |= done[used | Kind.FETCH] * np.uint8(Kind.FETCH)
        return keys.numbers.take(order), rights


class LongAccesses:
    """What a program does whose trace does not fit in memory: the same, part by part."""

    def __init__(self, trace: LongTrace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        """How many accesses."""
        return self._trace.accesses

    def parts(self) -> Iterator[Accesses]:
        """`PART` of them at a time, and what is left in the end."""
        held: list[Accesses] = []
        for part in self._trace.parts():
            held.append(accesses(part))
            if sum(map(len, held)) >= PART:
                every = _joined(held)
                yield Accesses(every.kinds[:PART], every.addresses[:PART])
                held = [Accesses(every.kinds[PART:], every.addresses[PART:])]
        yield _joined(held)

    def touched(self, shift: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The pages of 1 << ``shift`` bytes, rising, and whether each was written or fetched."""
        pages = self._trace.pages.view(np.int64) >> shift - PAGE_SHIFT
        starts = np.flatnonzero(np.diff(pages, prepend=-1))
        kinds = np.bitwise_or.reduceat(self._trace.kinds, starts)
        return pages.take(starts), kinds & np.uint8(Kind.WRITE | Kind.FETCH)


def _joined(some: list[Accesses]) -> Accesses:
    return Accesses(
        np.concatenate([one.kinds for one in some]),
        np.concatenate([one.addresses for one in some]),
    )


def accesses(trace: Trace) -> Accesses:
    """The accesses of a trace: one a record, and one more for a record that crosses a page."""
    inside = trace.addresses & np.uint64(PAGE_SIZE - 1)
    crosses = np.flatnonzero(inside + trace.sizes > PAGE_SIZE)
    last = trace.addresses[crosses] + trace.sizes[crosses] - np.uint64(1)
    next_page = last & ~np.uint64(PAGE_SIZE - 1)
    return Accesses(
        np.insert(trace.kinds, crosses + 1, trace.kinds[crosses]),
        np.insert(trace.addresses, crosses + 1, next_page),
    )


def areas(what: Accesses | LongAccesses, page: int = PAGE_SIZE) -> list[Area]:
    """The mappings that let every access succeed, ascending, in pages of ``page`` bytes."""
    if not len(what):
        return []
    pages, rights = what.touched(page.bit_length() - 1)
    joins = (np.diff(pages) == 1) & (rights[1:] == rights[:-1])
    heads = np.flatnonzero(np.concatenate(([True], ~joins)))
    ends = np.append(heads[1:], len(pages))
    return [
        Area(int(pages[i]) * page, int(end - i) * page, *_may(int(rights[i])))
        for i, end in zip(heads, ends, strict=True)
    ]


def _may(rights: int) -> tuple[bool, bool]:
    return bool(rights & Kind.WRITE), bool(rights & Kind.FETCH)


def guest_memory_for(what: Accesses | LongAccesses, page: str | int) -> int:
    """Bytes of guest memory for a replay: twice the pages touched, for there are tables too."""
    return memory_for(sum(area.length for area in areas(what, parse_size(page))))


def memory_for(touched: int) -> int:
    """Bytes of guest memory for a program that touches so many: a power of two."""
    return max(LEAST_GUEST_MEMORY, 1 << (2 * touched - 1).bit_length())


def replay(
    machine: Machine, what: Accesses | LongAccesses, page: str | int = "4K"
) -> Generator[int, None, None]:
    """Make every access in a new process; yields how many are done, first 0 when it may run.

    At the first value the process is current and nothing of it has been touched: that is where
    to begin counting.  Stop by not asking for more.
    """
    turn = _Turn(Task(machine, what, page=page))
    turn.take()
    yield 0
    stride = STRIDE
    while turn.left:
        begun = time.monotonic()
        turn.run(stride)
        if machine.mmu != "agile":
            slow = time.monotonic() - begun > PAUSE
            stride = max(stride // 2, STRIDE) if slow else min(2 * stride, LONGEST)
        yield turn.done


@dataclass(frozen=True, slots=True)
class Task:
    """A process of `interleave`: the machine that it runs on, what it does, in which pages."""

    machine: Machine
    what: Accesses | LongAccesses
    name: str = "replayed"
    page: str | int = "4K"


def interleave(tasks: Sequence[Task], time_slice: int = 10 * STRIDE) -> Generator[int, None, None]:
    """Make the accesses of all tasks, in turns; yields how many are done, first 0 when all may run.

    Each turn is ``time_slice`` accesses of one task, in the order given, until none has any left.
    Tasks on one machine are processes of one kernel, which switches between them by loading CR3;
    machines on one `Server` share its memory, so that what one of them touches may be taken from
    another.  `ByProcess` tells whose the costs are.  Raises `BadChoice` for a time slice without
    accesses.
    """
    if time_slice < 1:
        raise BadChoice(f"a time slice of {time_slice} accesses never ends; write 1 or more")
    turns = [_Turn(task) for task in tasks]
    yield 0
    while left := [turn for turn in turns if turn.left]:
        for turn in left:
            turn.take()
            turn.run(time_slice)
            yield sum(one.done for one in turns)


class ByProcess:
    """A tap that keeps `Counters` for each process of a machine, by its name.

    What happens after a `ContextSwitch` is that process's, the next switch included; what happens
    before any of them is nobody's (``""``).
    """

    def __init__(self) -> None:
        self.of: dict[str, Counters] = {"": Counters()}
        self._now = self.of[""]

    def __call__(self, record: object) -> None:
        """Count one record."""
        if isinstance(record, ContextSwitch):
            self._now = self.of.setdefault(record.process, Counters())
        self._now(record)


class _Turn:
    """A process with mappings for all that it does, and how far it got."""

    def __init__(self, task: Task) -> None:
        self._machine, self._what, self.done = task.machine, task.what, 0
        self._process = task.machine.guest.spawn(task.name)
        size = parse_size(task.page)
        for area in areas(task.what, size):
            may = {"write": area.write, "execute": area.execute}
            self._process.mmap(area.start, area.length, **may, page=task.page)
        self._shift = size.bit_length() - 1
        self._parts = task.what.parts()
        self._begin_part()

    def _begin_part(self) -> None:
        part = next(self._parts)
        self._at, self._end = 0, len(part)
        self._batches = Batches(self._machine.cpu, part.kinds, part.addresses, self._shift)

    @property
    def left(self) -> int:
        """How many accesses are still to be made."""
        return len(self._what) - self.done

    def take(self) -> None:
        """Let the process run."""
        if self._machine.guest.current is not self._process:
            self._machine.guest.switch(self._process)

    def run(self, count: int) -> None:
        """Make the next ``count`` accesses, or all that are left."""
        stop = min(self.done + count, len(self._what))
        while self.done < stop:
            if self._at == self._end:
                self._begin_part()
            step = min(stop - self.done, self._end - self._at)
            self._batches.run(self._at, self._at + step)
            self._at, self.done = self._at + step, self.done + step
        self._machine.tick()
