"""Counts, as a fold over the records that the machine taps out.

Nothing in the engine counts.  A `Counters` is a tap: it looks at each record once and adds to
one of two sides, the program (user mode) or the guest's kernel.  The side is that of the last
`TlbLookup`: the walk, the fault and the exit that follow belong to the access that caused them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvmlab.hardware.records import PageFault, Step, TlbLookup, VmExit
from kvmlab.kvm.records import Reflected, ShadowPageMade, ShadowPageZapped, WriteTrapped

TABLES = ("guest", "ept", "shadow")
"""Whose page tables a reference can read, in the order in which they are shown."""


@dataclass(slots=True)
class Tally:
    """What one side made the machine do."""

    lookups: dict[str, int] = field(default_factory=lambda: {"L1": 0, "L2": 0, "miss": 0})
    references: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    exits: dict[str, int] = field(default_factory=dict)
    page_faults: int = 0
    reflected: int = 0  # exits after which the hypervisor handed the guest its own #PF
    writes_trapped: int = 0  # exits for a store to a shadowed table: KVM's mmu_pte_write

    @property
    def reads(self) -> int:
        """References to all tables together."""
        return sum(self.references.values())

    @property
    def leaves(self) -> int:
        """VM exits for all reasons together."""
        return sum(self.exits.values())

    def __add__(self, other: "Tally") -> "Tally":
        """Both sides together."""
        return Tally(
            merged(self.lookups, other.lookups),
            merged(self.references, other.references),
            merged(self.exits, other.exits),
            self.page_faults + other.page_faults,
            self.reflected + other.reflected,
            self.writes_trapped + other.writes_trapped,
        )


def merged(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """The sum of two dictionaries of counts, keys in order of first appearance."""
    return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}


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
            Step: self._step,
            VmExit: self._exit,
            PageFault: self._page_fault,
            Reflected: self._reflected,
            WriteTrapped: self._write_trapped,
            ShadowPageMade: self._shadow_page_made,
            ShadowPageZapped: self._shadow_page_zapped,
        }

    def __call__(self, record: object) -> None:
        """Count one record; a type that nobody counts costs one failed dictionary lookup."""
        count = self._on.get(type(record))
        if count is not None:
            count(record)

    def clear(self) -> None:
        """Forget everything; records before the next `TlbLookup` belong to the kernel.

        Shadow pages are counted from here too: how many more there are than now.
        """
        self.program = Tally()
        self.kernel = Tally()
        self._side = self.kernel
        self.shadow_pages = self.shadow_pages_peak = 0

    @property
    def total(self) -> Tally:
        """Program and kernel together."""
        return self.program + self.kernel

    def _lookup(self, record: TlbLookup) -> None:
        self._side = side = self.program if record.user else self.kernel
        side.lookups[record.where] += 1

    def _step(self, record: Step) -> None:
        self._side.references[record.table] += 1

    def _exit(self, record: VmExit) -> None:
        exits, name = self._side.exits, record.reason.name
        exits[name] = exits.get(name, 0) + 1

    def _page_fault(self, _record: PageFault) -> None:
        self._side.page_faults += 1

    def _reflected(self, _record: Reflected) -> None:
        self._side.reflected += 1

    def _write_trapped(self, _record: WriteTrapped) -> None:
        self._side.writes_trapped += 1

    def _shadow_page_made(self, _record: ShadowPageMade) -> None:
        self.shadow_pages += 1
        self.shadow_pages_peak = max(self.shadow_pages_peak, self.shadow_pages)

    def _shadow_page_zapped(self, _record: ShadowPageZapped) -> None:
        self.shadow_pages -= 1
