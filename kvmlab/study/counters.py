"""Counts, as a fold over the records that the machine taps out.

Nothing in the engine counts.  A `Counters` is a tap: it looks at each record once and adds to
one of two sides, the program (user mode) or the guest's kernel.  The side is that of the last
`TlbLookup`: the walk, the fault and the exit that follow belong to the access that caused them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvmlab.hardware.records import (
    NestedTlbLookup,
    NestedTlbLookups,
    PageFault,
    Step,
    Steps,
    TlbLookup,
    TlbLookups,
    VmEntry,
    VmExit,
    WalkCacheLookup,
    WalkCacheLookups,
)
from kvmlab.kvm.records import (
    Reflected,
    ShadowPageMade,
    ShadowPageZapped,
    SpteSet,
    WriteTrapped,
)

TABLES = ("guest", "ept", "shadow")
"""Whose page tables a reference can read, in the order in which they are shown."""

DEEDS = ("reflected", "trapped", "filled", "other")
"""What the hypervisor did about an exit: it handed a #PF on to the guest, emulated a store to a
shadowed table, filled in a missing entry, or something else (a control register, say)."""


@dataclass(slots=True)
class Tally:
    """What one side made the machine do."""

    lookups: dict[str, int] = field(default_factory=lambda: {"L1": 0, "L2": 0, "miss": 0})
    references: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    exits: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reason, deed)
    page_faults: int = 0
    levels: Counter[tuple[str, int]] = field(default_factory=Counter)  # references, (table, level)
    cached: int = 0  # hits of paging-structure caches and of the nested TLB

    @property
    def all_references(self) -> int:
        """References to all tables together."""
        return sum(self.references.values())

    @property
    def all_exits(self) -> int:
        """VM exits for all reasons together."""
        return self.exits.total()

    @property
    def by_reason(self) -> dict[str, int]:
        """VM exits by the name of their reason, sorted by name."""
        reasons = sorted({reason for reason, _ in self.exits})
        return {
            name: sum(n for (reason, _), n in self.exits.items() if reason == name)
            for name in reasons
        }

    @property
    def by_deed(self) -> dict[str, int]:
        """VM exits by what the hypervisor did about them."""
        return {
            name: sum(n for (_, deed), n in self.exits.items() if deed == name) for name in DEEDS
        }

    def __add__(self, other: "Tally") -> "Tally":
        """Both sides together."""
        return Tally(
            {where: n + other.lookups[where] for where, n in self.lookups.items()},
            {table: n + other.references[table] for table, n in self.references.items()},
            self.exits + other.exits,
            self.page_faults + other.page_faults,
            self.levels + other.levels,
            self.cached + other.cached,
        )


@dataclass(slots=True)
class _Exit:
    """An exit that is being served: why, on whose account, and what was done about it."""

    reason: str
    side: Tally
    deed: str = "other"


class Counters:
    """A tap that tallies TLB lookups, references, VM exits and page faults, by side.

    A page fault is one that reached the guest's kernel; a #PF that the hypervisor kept for
    itself (a shadow entry was missing) is a VM exit and no page fault.
    """

    def __init__(self) -> None:
        """Start from zero."""
        self.clear()
        self._on: dict[type, Callable[[Any], None]] = {
            TlbLookup: self._lookup,
            TlbLookups: self._lookups,
            Steps: self._steps,
            WalkCacheLookup: self._walk_cache,
            WalkCacheLookups: self._walk_caches,
            NestedTlbLookup: self._nested_tlb,
            NestedTlbLookups: self._nested_tlbs,
            PageFault: self._page_fault,
            VmExit: self._exit,
            VmEntry: self._entry,
            Reflected: self._reflected,
            WriteTrapped: self._write_trapped,
            SpteSet: self._spte_set,
            ShadowPageMade: self._shadow_page_made,
            ShadowPageZapped: self._shadow_page_zapped,
        }

    def __call__(self, record: object) -> None:
        """Count one record; a type that nobody counts costs one failed dictionary lookup."""
        if type(record) is Step:  # nearly all of them
            side = self._side
            side.references[record.table] += 1
            side.levels[record.table, record.level] += 1
        elif (count := self._on.get(type(record))) is not None:
            count(record)

    def clear(self) -> None:
        """Forget everything; records before the next `TlbLookup` belong to the kernel.

        Shadow pages are counted from here too: how many more there are than now.
        """
        self.program = Tally()
        self.kernel = Tally()
        self._side = self.kernel
        self._under_way: list[_Exit] = []  # that of a nested guest is served by exits of L1
        self.shadow_pages = self.shadow_pages_peak = 0

    @property
    def total(self) -> Tally:
        """Program and kernel together."""
        return self.program + self.kernel

    def _lookup(self, record: TlbLookup) -> None:
        self._side = side = self.program if record.user else self.kernel
        side.lookups[record.where] += 1

    def _lookups(self, record: TlbLookups) -> None:
        side = self.program if record.user else self.kernel
        side.lookups[record.where] += record.count

    def _steps(self, record: Steps) -> None:
        self.program.references[record.table] += record.count
        self.program.levels[record.table, record.level] += record.count

    def _walk_cache(self, record: WalkCacheLookup) -> None:
        self._side.cached += record.level > 0

    def _nested_tlb(self, record: NestedTlbLookup) -> None:
        self._side.cached += record.hit

    def _walk_caches(self, record: WalkCacheLookups) -> None:
        self.program.cached += record.count if record.level else 0

    def _nested_tlbs(self, record: NestedTlbLookups) -> None:
        self.program.cached += record.count if record.hit else 0

    def _page_fault(self, _record: PageFault) -> None:
        self._side.page_faults += 1

    def _exit(self, record: VmExit) -> None:
        self._under_way.append(_Exit(record.reason.name, self._side))

    def _entry(self, _record: VmEntry) -> None:
        if self._under_way:
            done = self._under_way.pop()
            self._side = done.side
            self._side.exits[done.reason, done.deed] += 1

    def _did(self, deed: str) -> None:
        if self._under_way:
            self._under_way[-1].deed = deed

    def _reflected(self, _record: Reflected) -> None:
        self._did("reflected")

    def _write_trapped(self, _record: WriteTrapped) -> None:
        self._did("trapped")

    def _spte_set(self, _record: SpteSet) -> None:
        if self._under_way and self._under_way[-1].deed == "other":
            self._did("filled")

    def _shadow_page_made(self, _record: ShadowPageMade) -> None:
        self.shadow_pages += 1
        self.shadow_pages_peak = max(self.shadow_pages_peak, self.shadow_pages)

    def _shadow_page_zapped(self, _record: ShadowPageZapped) -> None:
        self.shadow_pages -= 1
