"""One access, recorded: the page is touched once, then walked again with a cold TLB."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_size, size_text
from kvmlab.base.errors import BadAddress, BadChoice, SegmentationFault
from kvmlab.hardware.formats import FORMATS
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.machine.designs import guest_format

SMALL, LARGE = ("64M", "256M"), ("2G", "8G")
"""Guest and host memory: enough for pages of up to 4M, or of 1G."""

GUESTS = MappingProxyType({one.levels: one for one in FORMATS.values() if one.table == "guest"})
"""The kinds of guest tables by how many levels they have."""


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
class Before:
    """Records from before the walk: of the page's first touch, and of all that came earlier."""

    touch: list[object]
    earlier: list[object]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a machine did: the records of the walk of ``gva``, and those before it.

    The machine is as the walk left it, so it can be asked what its tables are and where
    ``gva`` leads.  ``before`` is None where the walk was the first attempt.
    """

    machine: Machine
    gva: int
    records: list[object]
    before: Before | None = None


def usual_address(levels: int) -> int:
    """An address of user space, for a guest of so many levels: no two of its parts are equal."""
    return 0x7F12_3456_7AB8 if GUESTS[levels].long_mode else 0xB712_3AB8


def address_bits(levels: int) -> int:
    """How many bits the tables of a guest of so many levels translate, the offset included."""
    return PAGE_SHIFT + sum(GUESTS[levels].index_bits)


def guest_levels(mmu: str) -> list[int]:
    """How many levels the tables of a guest may have under ``mmu``."""
    return [levels for levels in GUESTS if _fits(levels, mmu)]


def _fits(levels: int, mmu: str) -> bool:
    try:
        guest_format(levels, mmu)
    except BadChoice:
        return False
    return True


def page_sizes(levels: int) -> list[str]:
    """The pages that a guest of so many levels can map, smallest first: ``4K``, ``2M``, ..."""
    return [size_text(1 << shift) for shift in GUESTS[levels].page_shifts]


def first_access(request: Request) -> Recorded:
    """Build a machine, map the page, touch it, and walk it again cold.

    A page that may only be read is first touched by a read.  If the first touch faults for good,
    the records are those of that attempt.  Raises what `Machine` and the guest's mmap refuse,
    and `BadAddress` for an address that is wider than the guest's.
    """
    records: list[object] = []
    machine = _build(request, records)
    _check(machine, request.gva)
    _map(machine, request)
    machine.cpu.flush_tlb()
    start = len(records)
    first = replace(request, kind=Kind.READ) if request.mapping == "read" else request
    if not _arrives(machine, first):
        return Recorded(machine, request.gva, records[start:])
    touched = len(records)
    machine.cpu.flush_tlb()
    cold = len(records)
    _arrives(machine, request)
    before = Before(records[start:touched], records[:start])
    return Recorded(machine, request.gva, records[cold:], before)


def cold_access(machine: Machine, request: Request) -> Recorded:
    """The same on a machine of the learner's own, as it stands: its current process, its tables."""
    _check(machine, request.gva)
    _arrives(machine, request)  # so that a page that waits for its first touch is there
    machine.cpu.flush_tlb()
    with _recording(machine) as records:
        _arrives(machine, request)
    return Recorded(machine, request.gva, records)


def _build(request: Request, records: list[object]) -> Machine:
    guest = GUESTS.get(request.guest_levels)
    narrow = guest is not None and not guest.long_mode
    if narrow and request.host_page == "1G":
        raise BadChoice(
            f"pages of 1G cannot back a guest of {request.guest_levels} levels: "
            "it has less memory than that; choose 4K or 2M"
        )
    large = not narrow and "1G" in (request.guest_page, request.host_page)
    guest_memory, host_memory = LARGE if large else SMALL
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


def _check(machine: Machine, gva: int) -> None:
    """Refuse what no 32-bit register holds; a wide guest answers any address, if by a #GP."""
    fmt = machine.guest.tables.format
    bits = address_bits(fmt.levels)
    if not fmt.long_mode and gva >> bits:
        raise BadAddress(f"address {gva:#x} does not fit in the {bits} bits of {fmt.name} paging")


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
