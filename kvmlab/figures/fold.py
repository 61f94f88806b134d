"""From the stream of records to what a picture of one walk needs.

Only what the records say is kept; nothing is computed about how a walk should go.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kvmlab.hardware.records import (
    AccessedDirty,
    Data,
    GeneralProtection,
    NestedTlbLookup,
    PageFault,
    Step,
    TlbFill,
    TlbLookup,
    Verdict,
    VmEntry,
    VmExit,
    WalkCacheLookup,
)
from kvmlab.kvm.records import Reflected, SpteSet, WriteTrapped

DATA_ROW = 0
"""The row of the walk that finds the data itself; the other rows are the guest's levels."""


@dataclass(slots=True)
class Reference:
    """One entry read on the walk: its number, in order, and for which row it was read."""

    number: int
    row: int  # the guest's level that it serves, or `DATA_ROW`
    step: Step

    @property
    def key(self) -> str:
        """Its name in the scene: ``guest.L3``, ``shadow.L1``, ``ept.G2.L1``, ``ept.data.L1``."""
        if self.step.table != "ept":
            return f"{self.step.table}.L{self.step.level}"
        return f"ept.{f'G{self.row}' if self.row else 'data'}.L{self.step.level}"


@dataclass(slots=True)
class Walk:
    """One attempt at one access, sorted by what happened."""

    lookup: TlbLookup | None = None
    upper: WalkCacheLookup | None = None  # what the paging-structure caches said
    nested_tlb: dict[int, NestedTlbLookup] = field(default_factory=dict)  # what it said, by row
    references: list[Reference] = field(default_factory=list)
    marked: list[AccessedDirty] = field(default_factory=list)
    fill: TlbFill | None = None
    data: Data | None = None
    end: PageFault | GeneralProtection | VmExit | None = None  # what it came to, if not the data

    @property
    def culprit(self) -> Reference | None:
        """The entry that stopped the walk; None if the walk arrived, allowed or not."""
        last = self.references[-1] if self.references else None
        stops = (Verdict.ABSENT, Verdict.RESERVED)
        return last if last and last.step.verdict in stops else None

    @property
    def hit(self) -> bool:
        """Whether the TLB had the answer, so that nothing was walked."""
        return self.lookup is not None and self.lookup.where != "miss"

    @property
    def arrived(self) -> bool:
        """Whether the access went to its data."""
        return bool(self.fill or self.data or self.hit)

    @property
    def begun(self) -> int:
        """The level of the cached entry below which the walk began; 0 if it began at the root."""
        return self.upper.level if self.upper else 0

    @property
    def known(self) -> set[int]:
        """The rows whose GPA the nested TLB knew: no EPT was walked for them."""
        return {row for row, one in self.nested_tlb.items() if one.hit}

    @property
    def counts(self) -> Counter[str]:
        """References by the table that was read: ``guest``, ``ept``, ``shadow``."""
        return Counter(one.step.table for one in self.references)

    @property
    def levels(self) -> Counter[tuple[str, int]]:
        """References by table and level of the entry that was read."""
        return Counter((one.step.table, one.step.level) for one in self.references)

    @property
    def nested(self) -> set[int]:
        """The rows whose address was a GPA: EPT was walked for it, or the nested TLB asked."""
        return {one.row for one in self.references if one.step.table == "ept"} | self.known

    @property
    def outcome(self) -> str:
        """``mapped``, or the kind of event that ended the attempt."""
        if isinstance(self.end, PageFault):
            return "page_fault"
        if isinstance(self.end, GeneralProtection):
            return "general_protection"
        if isinstance(self.end, VmExit):
            return self.end.reason.name.lower()
        return "mapped" if self.arrived else "none"


def first_attempt(records: Iterable[object], top: int) -> Walk:
    """The first attempt in ``records``; what handlers did after it is left out.

    ``top`` is the level of the root of the tables that the walk of the data address begins in.
    """
    walk, row, exited = Walk(), top, False
    for record in records:
        if isinstance(record, TlbLookup):
            if walk.lookup:
                break  # a second attempt, or a handler's own access
            walk.lookup = record
        elif isinstance(record, VmExit | VmEntry | PageFault | GeneralProtection):
            exited = True
            _note_end(walk, record)
        elif isinstance(record, Step) and not exited:
            walk.references.append(Reference(len(walk.references) + 1, row, record))
            row = _next_row(row, record)
        elif not exited:
            row = _note_cached(walk, row, record)
            _note_result(walk, record)
    return walk


def _note_cached(walk: Walk, row: int, record: object) -> int:
    """Keep what a walk cache said; returns the row in which the walk goes on."""
    match record:
        case WalkCacheLookup():
            walk.upper = record
            return record.level - 1 if record.level else row
        case NestedTlbLookup():
            walk.nested_tlb[row] = record
    return row


def _note_end(walk: Walk, record: VmExit | VmEntry | PageFault | GeneralProtection) -> None:
    """Keep what the attempt came to: a #PF that a hypervisor hands on counts for its exit."""
    match record:
        case VmExit():
            walk.end = walk.end or record
        case PageFault() | GeneralProtection():
            walk.end = record
        case VmEntry(injected=PageFault() as fault):
            walk.end = fault


def _note_result(walk: Walk, record: object) -> None:
    match record:
        case AccessedDirty():
            walk.marked.append(record)
        case TlbFill():
            walk.fill = record
        case Data():
            walk.data = record


def _next_row(row: int, step: Step) -> int:
    if step.table == "ept":
        return row
    return DATA_ROW if step.verdict is Verdict.LEAF else step.level - 1


def exits(records: Iterable[object]) -> Counter[tuple[str, str]]:
    """VM exits in ``records`` by reason and by what KVM did about them.

    Reasons are ``ept_violation``, ``exception``, ...; deeds are ``reflected``, ``trapped``,
    ``filled`` or ``other``.
    """
    found: Counter[tuple[str, str]] = Counter()
    under_way = [["", "other"]]  # a nested guest's exit is served by a hypervisor that exits too
    for record in records:
        match record:
            case VmExit():
                under_way.append([record.reason.name.lower(), "other"])
            case Reflected():
                under_way[-1][1] = "reflected"
            case WriteTrapped():
                under_way[-1][1] = "trapped"
            case SpteSet() if under_way[-1][1] == "other":
                under_way[-1][1] = "filled"
            case VmEntry() if len(under_way) > 1:
                reason, deed = under_way.pop()
                found[reason, deed] += 1
    return found


def page_faults(records: Iterable[object]) -> int:
    """How many #PFs were delivered to the guest in ``records``."""
    return sum(isinstance(record, PageFault) for record in records)
