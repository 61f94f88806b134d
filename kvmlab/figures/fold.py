"""From the stream of records to what a picture of one walk needs.

Only what the records say is kept; nothing is computed about how a walk should go.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kvmlab.hardware.records import (
    AccessedDirty,
    Data,
    Fault,
    GeneralProtection,
    PageFault,
    Step,
    TlbFill,
    TlbLookup,
    Verdict,
    VmEntry,
    VmExit,
)

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
    references: list[Reference] = field(default_factory=list)
    marked: list[AccessedDirty] = field(default_factory=list)
    fill: TlbFill | None = None
    data: Data | None = None
    fault: Fault | None = None  # where the tables gave no answer
    end: PageFault | GeneralProtection | VmExit | None = None  # what came of that

    @property
    def counts(self) -> Counter[str]:
        """References by the table that was read: ``guest``, ``ept``, ``shadow``."""
        return Counter(one.step.table for one in self.references)

    @property
    def outcome(self) -> str:
        """``mapped``, or the kind of event that ended the attempt."""
        if isinstance(self.end, PageFault):
            return "page_fault"
        if isinstance(self.end, GeneralProtection):
            return "general_protection"
        if isinstance(self.end, VmExit):
            return self.end.reason.name.lower()
        return "mapped" if self.fill or self.data else "none"


def first_attempt(records: Iterable[object], top: int) -> Walk:
    """The first attempt in ``records``; what handlers did after it is left out.

    ``top`` is the level of the root of the tables that the walk of the data address begins in.
    """
    walk, row, exited = Walk(), top, False
    for record in records:
        match record:
            case TlbLookup() if walk.lookup:
                break
            case TlbLookup():
                walk.lookup = record
            case Step() if not walk.fault and not exited:
                walk.references.append(Reference(len(walk.references) + 1, row, record))
                row = _next_row(row, record)
            case Fault() if not walk.fault:
                walk.fault = record
            case VmExit():
                exited = True
                walk.end = walk.end or record
            case PageFault() | GeneralProtection():
                walk.end = record  # also when a hypervisor reflects the #PF that exited
            case AccessedDirty() if not exited:
                walk.marked.append(record)
            case TlbFill() if not exited:
                walk.fill = record
            case Data() if not exited:
                walk.data = record
            case VmEntry(injected=PageFault() as fault):
                walk.end = fault
    return walk


def _next_row(row: int, step: Step) -> int:
    if step.table == "ept":
        return row
    return DATA_ROW if step.verdict is Verdict.LEAF else step.level - 1


def exits(records: Iterable[object]) -> Counter[str]:
    """VM exits in ``records`` by reason: ``ept_violation``, ``exception``, ..."""
    return Counter(one.reason.name.lower() for one in records if isinstance(one, VmExit))


def page_faults(records: Iterable[object]) -> int:
    """How many #PFs were delivered to the guest in ``records``."""
    return sum(isinstance(record, PageFault) for record in records)
