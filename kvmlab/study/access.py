"""One access, recorded: the page is touched once, then walked again with a cold TLB."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_size, size_text
from kvmlab.base.errors import BadAddress, BadChoice, SegmentationFault
from kvmlab.guest.kernel import user_end
from kvmlab.hardware.formats import FORMATS
from kvmlab.hardware.geometries import with_walk_caches
from kvmlab.hardware.records import Kind
from kvmlab.hardware.tlb import UNIFIED
from kvmlab.machine import Machine
from kvmlab.machine.designs import guest_format

SMALL, LARGE = ("64M", "256M"), ("2G", "8G")
"""Guest and host memory: enough for pages of up to 4M, or of 1G."""

GUESTS = MappingProxyType({one.levels: one for one in FORMATS.values() if one.table == "guest"})
"""The kinds of guest tables by how many levels they have."""


CACHES = MappingProxyType(
    {"none": "off", "upper": "2:32,3:4,4:4,5:2", "nested": "nested:16", "both": "on"}
)
"""What a CPU may have besides its TLB (paging-structure caches, a nested TLB), as
`with_walk_caches` writes it."""

BEFORE = ("nothing", "neighbour", "page")
"""What was accessed since all caches were emptied: nothing, the page beside it, this page."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the learner asks for; the access is made with what ``before`` left in the caches."""

    gva: int
    mmu: str = "ept"
    guest_page: str = "4K"
    host_page: str = "4K"
    guest_levels: int = 4
    host_levels: int = 4
    kind: Kind = Kind.READ
    user: bool = True
    mapping: str = "all"  # "all", "read" or "none"
    caches: str = "none"  # a name of `CACHES`
    before: str = "nothing"  # one of `BEFORE`

    @property
    def first(self) -> "Request":
        """The first touch: a read, so that a write still finds the page clean."""
        return replace(self, kind=Kind.READ)

    @property
    def neighbour(self) -> int:
        """A page beside the one asked for, in the same table: it is mapped and touched too."""
        size = parse_size(self.guest_page)
        number = self.gva // size
        return (number - 1 if number % 2 else number + 1) * size


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


def is_large(request: Request) -> bool:
    """Whether pages of 1G are asked for, so that there must be memory for some."""
    return "1G" in (request.guest_page, request.host_page)


def is_mappable(request: Request) -> bool:
    """Whether a process may map the page: it lies in user space."""
    return request.gva < user_end(address_bits(request.guest_levels))


def first_access(request: Request) -> Recorded:
    """Build a machine, map the page, touch it, empty the caches, and access it again.

    The first touch is a read: a write then finds D clear.  If the first touch faults for good,
    the records are those of that attempt.  Raises what `Machine` and the guest's mmap refuse,
    and `BadAddress` for an address that is wider than the guest's.
    """
    records: list[object] = []
    machine = _build(request, records)
    _check(machine, request.gva)
    _map(machine, request)
    machine.cpu.flush_tlb()
    start = len(records)
    if not _arrives(machine, request.first):
        return Recorded(machine, request.gva, records[start:])
    touched = len(records)
    machine.cpu.flush_tlb()
    _warm(machine, request)
    cold = len(records)
    _arrives(machine, request)
    before = Before(records[start:touched], records[:start])
    return Recorded(machine, request.gva, records[cold:], before)


def cold_access(machine: Machine, request: Request) -> Recorded:
    """The same on a machine of the learner's own, as it stands: its current process, its tables."""
    _check(machine, request.gva)
    _arrives(machine, request)  # so that a page that waits for its first touch is there
    machine.cpu.flush_tlb()
    if request.before == "page":
        _arrives(machine, request)
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
    guest_memory, host_memory = LARGE if is_large(request) and not narrow else SMALL
    if request.caches not in CACHES or request.before not in BEFORE:
        raise BadChoice(
            f"caches are one of {', '.join(CACHES)}, and before is one of {', '.join(BEFORE)}"
        )
    return Machine(
        request.mmu,
        guest_memory=guest_memory,
        host_memory=host_memory,
        guest_levels=request.guest_levels,
        host_levels=request.host_levels,
        guest_page=request.guest_page,
        host_page=request.host_page,
        geometry=with_walk_caches(UNIFIED, CACHES[request.caches]),
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
    if not is_mappable(request):
        return
    if request.mapping != "none":
        size = parse_size(request.guest_page)
        rights = request.mapping == "all"
        start, page = request.gva // size * size, request.guest_page
        process.mmap(start, size, write=rights, execute=rights, page=page)
    process.mmap(request.neighbour, PAGE_SIZE)
    machine.guest.touch(request.neighbour, Kind.WRITE)


def _warm(machine: Machine, request: Request) -> None:
    """Access what is to have been accessed just before: of the kernel's half only the page."""
    if request.before == "page":
        _arrives(machine, request)
    elif request.before == "neighbour" and is_mappable(request):
        machine.guest.touch(request.neighbour, Kind.READ)


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
