"""Guest programs: what processes ask of their kernel and of memory, as streams of operations.

A program is a generator of operations, seeded where it is random, so that the very same one can
run on every design.  `Runner` performs operations on a machine; costs are folds over its tap.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvmlab.base.errors import BadChoice
from kvmlab.guest.process import Process
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine

PAGE = 4096
TEXT, DATA, HEAP = 0x40_0000, 0x60_0000, 0x1000_0000


@dataclass(frozen=True, slots=True)
class Mmap:
    """The process that runs gets a mapping; ``populate`` maps its pages before they are touched."""

    gva: int
    length: int
    write: bool = True
    execute: bool = False
    populate: bool = False


@dataclass(frozen=True, slots=True)
class Munmap:
    """The mapping that starts at ``gva`` goes."""

    gva: int


@dataclass(frozen=True, slots=True)
class Touch:
    """One access in user mode."""

    gva: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Syscall:
    """A system call that changes no memory."""


@dataclass(frozen=True, slots=True)
class Fork:
    """The process that runs gets a child of this name, and goes on."""

    child: str


@dataclass(frozen=True, slots=True)
class Exec:
    """The process that runs begins another program."""

    program: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Another process runs."""

    to: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The process that runs ends, and another runs."""

    to: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The process that runs collects a child that has ended."""


Operation = Mmap | Munmap | Touch | Syscall | Fork | Exec | Switch | Exit | Wait
Program = Iterable[Operation]


class Runner:
    """Performs operations on ``machine``; its first process, ``init``, runs from the start."""

    def __init__(self, machine: Machine) -> None:
        self._kernel = machine.guest
        self._processes: dict[str, Process] = {"init": self._kernel.spawn("init")}
        self._kernel.switch(self._processes["init"])

    def run(self, program: Program) -> int:
        """Perform every operation of ``program``; returns how many that were.

        Raises `BadChoice` for a process that does not exist, and what the kernel raises.
        """
        done = 0
        for operation in program:
            self._perform(operation)
            done += 1
        return done

    def _perform(self, operation: Operation) -> None:
        kernel = self._kernel
        match operation:
            case Touch(gva, kind):
                kernel.touch(gva, kind)
            case Syscall():
                kernel.syscall()
            case Mmap(gva, length, write, execute, populate):
                self._running().mmap(gva, length, write=write, execute=execute, populate=populate)
            case Munmap(gva):
                self._running().munmap(gva)
            case Switch(to):
                kernel.switch(self._named(to))
            case Fork(child):
                self._processes[child] = kernel.fork(child)
            case Exec(program):
                kernel.exec(program)
            case Exit(to):
                self._exit(self._named(to))
            case Wait():
                kernel.wait()

    def _exit(self, following: Process) -> None:
        """The next process is loaded once, by the scheduler; then the dead one is torn down."""
        process = self._running()
        self._processes = {k: one for k, one in self._processes.items() if one is not process}
        self._kernel.switch(following)
        self._kernel.exit(process)

    def _running(self) -> Process:
        assert self._kernel.current is not None  # noqa: S101  a Runner always has one running
        return self._kernel.current

    def _named(self, name: str) -> Process:
        if name not in self._processes:
            there = ", ".join(self._processes)
            raise BadChoice(f"no process {name!r} is alive; there are {there}")
        return self._processes[name]


# -- programs -------------------------------------------------------------------------------


def boot_storm(seed: int, commands: int, *, pages: int = 10, calls: int = 4) -> Iterator[Operation]:
    """A guest that boots: a shell starts ``commands`` short programs, one after the other.

    Each is a fork, an exec, and about ``pages`` pages touched for the first time with ``calls``
    system calls between two of them, one in four of which blocks, so that another process runs
    meanwhile.  Those are choices; what boots do in detail is published by nobody.
    """
    choose = random.Random(seed)
    yield from populate(HEAP, 16 * PAGE)
    for daemon in ("logger", "udev"):
        yield Fork(daemon)
    for number in range(commands):
        name = f"command-{number}"
        yield Fork(name)
        yield Touch(HEAP + choose.randrange(16) * PAGE, Kind.WRITE)  # the shell goes on: a copy
        yield Switch(name)
        yield Exec(name)
        yield from _command(choose, name, pages, calls)
        yield Exit("init")
        yield Wait()


def _command(choose: random.Random, name: str, pages: int, calls: int) -> Iterator[Operation]:
    """A short program: text that is fetched, data that is written, calls that may block."""
    text = choose.randint(1, pages)
    yield Mmap(TEXT, pages * PAGE, write=False, execute=True)
    yield Mmap(DATA, pages * PAGE)
    for number in range(pages):
        area, kind = (TEXT, Kind.FETCH) if number < text else (DATA, Kind.WRITE)
        yield Touch(area + number * PAGE, kind)
        for _ in range(calls):
            yield Syscall()
            if choose.random() < 0.25:
                yield Switch(choose.choice(("init", "logger", "udev")))
                yield Switch(name)


def populate(gva: int, length: int) -> Iterator[Operation]:
    """Map ``length`` bytes and write to each page of them, in order."""
    yield Mmap(gva, length)
    for page in range(gva, gva + length, PAGE):
        yield Touch(page, Kind.WRITE)


def random_access(seed: int, gva: int, length: int, count: int) -> Iterator[Operation]:
    """Write to ``count`` random words of a mapped area, as the GUPS benchmark does."""
    choose = random.Random(seed)
    for _ in range(count):
        yield Touch(gva + choose.randrange(length // 8) * 8, Kind.WRITE)


def remap(gva: int, pages: int, *, populate: bool) -> Iterator[Operation]:
    """Map, write to each page, and unmap: frames that the guest had before come back."""
    yield Mmap(gva, pages * PAGE, populate=populate)
    for page in range(pages):
        yield Touch(gva + page * PAGE, Kind.WRITE)
    yield Munmap(gva)
