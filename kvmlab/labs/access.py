"""One access for the walk lab: the page is touched once, then walked again with a cold TLB."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kvmlab.base.addresses import PAGE_SIZE, parse_size
from kvmlab.base.errors import SegmentationFault
from kvmlab.figures.touch import Before
from kvmlab.figures.walk import Setting
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine

SMALL, LARGE = ("64M", "256M"), ("2G", "8G")
"""Guest and host memory: enough for pages of 4K and 2M, or of 1G."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the learner asks for."""

    gva: int
    mmu: str = "ept"
    guest_page: str = "4K"
    host_page: str = "4K"
    guest_levels: int = 4
    host_levels: int = 4
    kind: Kind = Kind.READ
    user: bool = True
    mapping: str = "all"  # "all", "read" or "none"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the machine did: what was walked, the records of the walk, and those before it."""

    setting: Setting
    records: list[object]
    before: Before | None = None


def first_access(request: Request) -> Recorded:
    """Build a machine, map the page, touch it, and walk it again cold.

    A page that may only be read is first touched by a read.  If the first touch faults for good,
    the records are those of that attempt.  Raises what `Machine` and the guest's mmap refuse.
    """
    records: list[object] = []
    machine = _build(request, records)
    _map(machine, request)
    machine.cpu.flush_tlb()
    start = len(records)
    first = replace(request, kind=Kind.READ) if request.mapping == "read" else request
    if not _arrives(machine, first):
        return Recorded(Setting.of(machine, request.gva), records[start:])
    touched = len(records)
    machine.cpu.flush_tlb()
    cold = len(records)
    _arrives(machine, request)
    before = Before(records[start:touched], records[:start])
    return Recorded(Setting.of(machine, request.gva), records[cold:], before)


def cold_access(machine: Machine, request: Request) -> Recorded:
    """The same on a machine of the learner's own, as it stands: its current process, its tables."""
    _arrives(machine, request)  # so that a page that waits for its first touch is there
    machine.cpu.flush_tlb()
    with _recording(machine) as records:
        _arrives(machine, request)
    return Recorded(Setting.of(machine, request.gva), records)


def _build(request: Request, records: list[object]) -> Machine:
    guest_memory, host_memory = LARGE if "1G" in (request.guest_page, request.host_page) else SMALL
    return Machine(
        request.mmu,
        guest_memory=guest_memory,
        host_memory=host_memory,
        guest_levels=request.guest_levels,
        host_levels=request.host_levels,
        guest_page=request.guest_page,
        host_page=request.host_page,
        tap=records.append,
    )


def _map(machine: Machine, request: Request) -> None:
    """A process with the page mapped, and a page next to it touched, so that tables are there.

    An address outside user space is left as it is: nobody can map there.
    """
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    if request.gva >= machine.guest.user_end:
        return
    size = parse_size(request.guest_page)
    number = request.gva // size
    if request.mapping != "none":
        rights = request.mapping == "all"
        page = request.guest_page
        process.mmap(number * size, size, write=rights, execute=rights, page=page)
    neighbour = (number - 1 if number % 2 else number + 1) * size  # in the same table
    process.mmap(neighbour, PAGE_SIZE)
    machine.guest.touch(neighbour, Kind.WRITE)


def _arrives(machine: Machine, request: Request) -> bool:
    """Make the access; whether the guest's kernel let it arrive."""
    try:
        if request.user:
            machine.guest.touch(request.gva, request.kind)
        else:
            machine.cpu.access(request.gva, request.kind)
    except SegmentationFault:
        return False
    return True


@contextmanager
def _recording(machine: Machine) -> Iterator[list[object]]:
    """What the CPU tells meanwhile; the machine's own tap hears it too."""
    records: list[object] = []
    tap = machine.cpu.tap

    def both(record: object) -> None:
        records.append(record)
        tap(record)

    machine.cpu.tap = both
    try:
        yield records
    finally:
        machine.cpu.tap = tap
