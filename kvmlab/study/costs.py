"""What events cost in cycles: a table whose every number names its source, and can be edited.

Charged are references (page-table entries read on walks), hits of the paging-structure caches
and of the nested TLB, and VM exits; nothing else is: not the program's own instructions, hits of
the TLB, or what the guest's kernel does in its handlers.  So cycles of two designs may be
compared with each other, and with no stopwatch.

For a slowdown end to end (`CostTable.end_to_end`) the program's accesses have a price too,
``access``; what else its instructions do is as long under every design, and left out: slowdowns of
real programs, which compute between two accesses, are smaller.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.hardware.records import ExitReason
from kvmlab.study.counters import Tally

_MOST = 1 << 40  # cycles: minutes; more is a slip of the finger


@dataclass(frozen=True, slots=True)
class Cost:
    """One price in cycles, and where it comes from."""

    cycles: int
    source: str


_DMT = "latency model of the DMT (ASPLOS 2024) and SagePTE artifacts"
CACHED = Cost(1, f"paging-structure cache: {_DMT}")
L1 = Cost(4, f"entry in L1: {_DMT}")
L2 = Cost(14, f"entry in L2: {_DMT}")
LLC = Cost(54, f"entry in the last-level cache: {_DMT}")
DRAM = Cost(200, f"entry in memory: {_DMT}")

ACCESS = Cost(4, f"data in L1: {_DMT}")

_EXIT_AMD = Cost(
    1360, "AMD VMRUN to #VMEXIT and back, 1344 to 1376 cycles by the TSC (linux-kernel list, 2020)"
)
_EXIT_COURSE = Cost(
    23_008,
    "13,436,425,563 cycles in handlers of 583,999 exits while Linux booted under KVM that was "
    "nested itself (course log, 2021): an upper bound",
)
_MAP_ALDER = Cost(7_000, "pKVM maps one page, Alder Lake, about (issue of that project)")
_MAP_ARROW = Cost(16_000, "pKVM maps one page, Arrow Lake, about (issue of that project)")
_SWITCH_NESTED = Cost(16_002, "one world switch of nested KVM, Xeon 8475B (Janus, OSDI 2026)")
_SWITCH_PVM = Cost(2_681, "one world switch of PVM, Xeon 8475B (Janus, OSDI 2026)")


@dataclass(frozen=True, slots=True)
class CostTable:
    """A named model: rows by name, ``reference.1`` to ``.5`` by level, ``cached``, ``exit``.

    ``access`` is a translated access.  ``exit.REASON`` is for one reason; ``exit`` for those that
    have no row of their own.
    """

    name: str
    summary: str
    rows: Mapping[str, Cost]
    edited: Mapping[str, int] = field(default_factory=dict)

    def edit(self, row: str, cycles: int, source: str = "set by the user") -> "CostTable":
        """Replace one price; returns the new table.

        Raises `BadChoice` for a row that there cannot be, `BadSize` for a price that is none.
        """
        known = ["access", "cached", "exit", *(f"reference.{level}" for level in range(1, 6))]
        if row not in known and row not in [f"exit.{reason.name}" for reason in ExitReason]:
            raise BadChoice(
                f"there is no cost {row!r}; there are {', '.join(known)}, and exit.REASON with a "
                "reason such as EPT_VIOLATION"
            )
        if not 0 <= cycles <= _MOST:
            raise BadSize(f"{row} cannot cost {cycles} cycles; write 0 to {_MOST}")
        rows = {**self.rows, row: Cost(cycles, source)}
        return replace(self, rows=rows, edited={**self.edited, row: cycles})

    def exit(self, reason: str) -> Cost:
        """What one exit for ``reason`` costs."""
        return self.rows.get(f"exit.{reason}", self.rows["exit"])

    def references(self, levels: Mapping[tuple[str, int], int]) -> int:
        """Cycles of references, given how many were made to (table, level)."""
        return sum(
            n * self.rows[f"reference.{level}"].cycles for (_table, level), n in levels.items()
        )

    def cycles(self, tally: Tally) -> "Cycles":
        """What ``tally`` comes to."""
        tables: Counter[str] = Counter()
        for (table, level), number in tally.levels.items():
            tables[table] += self.references({(table, level): number})
        exits = {name: n * self.exit(name).cycles for name, n in tally.by_reason.items()}
        return Cycles(dict(tables), tally.cached * self.rows["cached"].cycles, exits)

    def end_to_end(self, accesses: int, tally: Tally) -> int:
        """Cycles of a run of so many accesses: theirs, and those of ``tally``.

        Over the same of the native run it is the slowdown.
        """
        return accesses * self.rows["access"].cycles + self.cycles(tally).total


@dataclass(frozen=True, slots=True)
class Cycles:
    """A sum of cycles and its parts."""

    references: dict[str, int]  # by the table that was read
    cached: int
    exits: dict[str, int]  # by reason

    @property
    def walks(self) -> int:
        """Cycles of walks: references and hits of the caches that shorten them."""
        return sum(self.references.values()) + self.cached

    @property
    def total(self) -> int:
        """Cycles of walks and exits."""
        return self.walks + sum(self.exits.values())


def _table(name: str, summary: str, levels: tuple[Cost, ...], **exits: Cost) -> CostTable:
    """``levels`` are prices from level 1 up, the last one for all above."""
    rows = {"access": ACCESS, "cached": CACHED}
    for level in range(1, 6):
        rows[f"reference.{level}"] = levels[min(level, len(levels)) - 1]
    rows |= {name.replace("_", ".", 1): cost for name, cost in exits.items()}
    return CostTable(name, summary, MappingProxyType(rows))


_GRADED = (LLC, L2, L1)
"""SagePTE's shares of the last host walk by level (GUPS 34.3, 7.8, 1.2 and 0.9 % from the leaf up):
the leaf costs most, upper levels vanish.  Which cache a level is in is our reading of them."""

GRADED = _table(
    "graded", "level 1 in the last-level cache, upper entries nearer", _GRADED, exit=_EXIT_AMD
)
MODELS = (
    GRADED,
    _table("l1", "every entry in L1", (L1,), exit=_EXIT_AMD),
    _table("dram", "every entry in memory", (DRAM,), exit=_EXIT_AMD),
    _table(
        "alder-lake",
        "as graded; an EPT violation maps a page as pKVM does",
        _GRADED,
        exit=_EXIT_AMD,
        exit_EPT_VIOLATION=_MAP_ALDER,
        exit_NPF=_MAP_ALDER,
    ),
    _table(
        "arrow-lake",
        "as alder-lake, on a later processor",
        _GRADED,
        exit=_EXIT_AMD,
        exit_EPT_VIOLATION=_MAP_ARROW,
        exit_NPF=_MAP_ARROW,
    ),
    _table("boot-log", "as graded; exits with all their handlers do", _GRADED, exit=_EXIT_COURSE),
    _table(
        "nested", "as graded; an exit is a world switch of nested KVM", _GRADED, exit=_SWITCH_NESTED
    ),
    _table("pvm", "as graded; an exit is a world switch of PVM", _GRADED, exit=_SWITCH_PVM),
)


def model_named(name: str) -> CostTable:
    """The model called ``name``; raises `BadChoice` that lists the names there are."""
    for one in MODELS:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in MODELS)
    raise BadChoice(f"there is no cost model {name!r}; choose one of {names}")
