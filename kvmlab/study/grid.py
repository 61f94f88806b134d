"""The cells of a sweep: every combination of the values asked for that there can be.

An axis that a design does not have is not multiplied: a kernel on the metal has neither host
pages nor EPT, and only shadow MMUs have a policy.  A combination that cannot be (a page of 2M and
a guest of two levels, say) is skipped, and the reason is kept; a value that no design takes is
refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from kvmlab.base.addresses import PAGE_SIZE, parse_size, size_text
from kvmlab.base.errors import BadChoice, BadSize, TraceError
from kvmlab.hardware.geometries import (
    geometry_key,
    geometry_named,
    walk_caches_key,
    with_walk_caches,
)
from kvmlab.hardware.tlb import Geometry
from kvmlab.kvm.policy import NAIVE, policy_named
from kvmlab.machine.designs import (
    DESIGNS,
    MMUS,
    check_guest,
    ept_levels,
    guest_format,
    host_shift,
)
from kvmlab.study.access import GUESTS, page_sizes
from kvmlab.study.replay import accesses, guest_memory_for
from kvmlab.workloads.trace import Trace

SHADOWING = ("shadow", "l2-shadow")
"""The designs that have a shadow policy (kvm/policy.py)."""

ONE_LAYER = ("native", "shadow")
"""The designs that have no EPT, so no levels of it."""
_USER_END_32 = 0xC000_0000  # of a guest of 2 or 3 levels (guest/kernel.py)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a trace under one design of one shape.  "" and 0 stand for what it does not have."""

    trace: str
    mmu: str
    policy: str
    guest_levels: int
    host_levels: int
    guest_page: str
    host_page: str
    tlb: str  # as `geometry_named` takes it
    walk_caches: str  # as `with_walk_caches` takes it

    @property
    def geometry(self) -> Geometry:
        """The TLB and the walk caches of the processor."""
        return with_walk_caches(geometry_named(self.tlb), self.walk_caches)

    def __str__(self) -> str:
        """The cell in one line, what it does not have left out."""
        levels = f"{self.guest_levels}{_on(self.host_levels)} levels"
        pages = f"{self.guest_page}{_on(self.host_page)}"
        design = f"{self.mmu} ({self.policy})" if self.policy else self.mmu
        return f"{self.trace}, {design}, {levels}, {pages}, {self.tlb}, caches {self.walk_caches}"

    def to_json(self) -> dict[str, Any]:
        """The cell as plain data."""
        return asdict(self)


def _on(host: int | str) -> str:
    return f" on {host}" if host else ""


@dataclass(frozen=True, slots=True)
class Axes:
    """The values that each axis takes; a value that no design takes is refused at once.

    Raises `BadChoice` and `BadSize`.
    """

    mmus: Sequence[str] = MMUS
    policies: Sequence[str] = (NAIVE.name,)
    guest_levels: Sequence[int] = (4,)
    host_levels: Sequence[int] = (4,)
    guest_pages: Sequence[str | int] = ("4K",)
    host_pages: Sequence[str | int] = ("4K",)
    tlbs: Sequence[str] = ("unified",)
    walk_caches: Sequence[str] = ("own",)

    def __post_init__(self) -> None:
        """Look at every value once."""
        for name in self.mmus:
            if name not in DESIGNS:
                raise BadChoice(f"design {name!r} is unknown; choose from {', '.join(DESIGNS)}")
        for name in self.policies:
            policy_named(name)
        for levels in self.guest_levels:
            guest_format(levels, "native")
        for levels in self.host_levels:
            ept_levels(levels)
        for page in self.host_pages:
            host_shift(page)
        known = sorted({parse_size(one) for levels in GUESTS for one in page_sizes(levels)})
        for page in self.guest_pages:
            if parse_size(page) not in known:
                names = ", ".join(map(size_text, known))
                raise BadSize(f"{page} is no page of a guest; choose from {names}")
        _ = self.geometries  # raises for what it cannot read

    @property
    def geometries(self) -> list[tuple[str, str]]:
        """TLB and walk caches, each pair that differs from all before it."""
        made = [
            with_walk_caches(geometry_named(tlb), caches)
            for tlb, caches in product(self.tlbs, self.walk_caches)
        ]
        return list(dict.fromkeys((geometry_key(one), walk_caches_key(one)) for one in made))

    def cells(self, trace: str) -> Iterator[Cell]:
        """Every combination for ``trace``, each once, those that cannot be among them."""
        shapes = product(self.guest_levels, self.host_levels, self.guest_pages, self.host_pages)
        every = (
            Cell(
                trace,
                mmu,
                policy if mmu in SHADOWING else "",
                guest_levels,
                0 if mmu in ONE_LAYER else host_levels,
                size_text(parse_size(guest_page)),
                "" if mmu == "native" else size_text(parse_size(host_page)),
                *geometry,
            )
            for guest_levels, host_levels, guest_page, host_page in shapes
            for geometry in self.geometries
            for mmu in self.mmus
            for policy in self.policies
        )
        return iter(dict.fromkeys(every))


@dataclass(frozen=True, slots=True)
class Grid:
    """What a sweep runs, in order, and what it leaves out, each with the reason."""

    cells: dict[Cell, int]  # bytes of memory that the guest has in each
    skipped: list[tuple[Cell, str]]


def grid(traces: Sequence[Trace], axes: Axes) -> Grid:
    """All cells of ``axes`` on every trace.

    Raises `BadChoice` where two traces have one name, or where nothing is left to run, and
    `TraceError` for a trace without records.
    """
    names = [trace.name for trace in traces]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadChoice(f"two traces are called {twice!r}; give each its own name")
    found = Grid({}, [])
    for trace in traces:
        if not len(trace):
            raise TraceError(f"trace {trace.name!r} has no records to replay")
        memory = _Memory(trace)
        for cell in axes.cells(trace.name):
            reason = _why_not(cell, memory)
            if reason is None:
                found.cells[cell] = memory.needed(cell)
            else:
                found.skipped.append((cell, reason))
    if not found.cells:
        why = f"; {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise BadChoice(f"no combination of these values can be run{why}")
    return found


class _Memory:
    """How much memory a guest needs for a trace, by the page that it maps."""

    def __init__(self, trace: Trace) -> None:
        self.last = int((trace.addresses + trace.sizes - 1).max())  # byte that is accessed
        self._what = accesses(trace)
        self._by_page: dict[str, int] = {}

    def needed(self, cell: Cell) -> int:
        """Bytes, a multiple of the pages on both sides."""
        if cell.guest_page not in self._by_page:
            self._by_page[cell.guest_page] = guest_memory_for(self._what, cell.guest_page)
        grain = parse_size(cell.host_page) if cell.host_page else PAGE_SIZE
        return max(self._by_page[cell.guest_page], grain)  # both powers of two


def _why_not(cell: Cell, memory: _Memory) -> str | None:
    """Why there cannot be such a machine, or no such program on it; None if there can."""
    levels = cell.guest_levels
    try:
        fmt = guest_format(levels, cell.mmu)
    except BadChoice as error:
        return str(error)
    pages = page_sizes(levels)
    if cell.guest_page not in pages:
        return f"a guest of {levels} levels maps pages of {', '.join(pages)}"
    if not fmt.long_mode and memory.last >= _USER_END_32:
        return f"the trace uses {memory.last:#x}; user addresses end at {_USER_END_32:#x} there"
    if not fmt.long_mode and cell.host_page == "1G":
        return f"a guest of {levels} levels has less memory than a page of 1G"
    try:
        check_guest(memory.needed(cell), fmt, host_shift(cell.host_page or PAGE_SIZE))
    except BadSize as error:
        return str(error)
    return None
