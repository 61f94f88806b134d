"""Designs side by side: bars, a table and a sentence from the rows of a comparison.

Pure functions: `study.compare.Row` in; numbers, names and text out.  A bar's party is that of
whoever owns what is read or who is entered: the guest G, or the hypervisor H.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from kvmlab.figures.costs import costs_text
from kvmlab.figures.scene import Table
from kvmlab.study.compare import Row
from kvmlab.study.counters import DEEDS, TABLES
from kvmlab.text import say

Party = Literal["guest", "host", "shadow", "silicon", "quiet"]
"""Which colour: the guest's, the hypervisor's, its second shade for shadow tables, hardware's, or
grey."""

MOST_BARS = 9

OWNER: Mapping[str, Party] = MappingProxyType({"guest": "guest", "ept": "host", "shadow": "shadow"})
"""The colour of the tables that a reference reads."""

SERVED: Mapping[str, Party] = MappingProxyType(
    {"reflected": "guest", "trapped": "shadow", "filled": "host", "other": "quiet"}
)
"""The colour of what was done about an exit: a #PF that is handed on is the guest's affair."""


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a stacked bar chart, with one value a bar."""

    name: str
    party: Party
    values: list[int]


@dataclass(frozen=True, slots=True)
class Chart:
    """Stacked bars: what the axis counts, the name of each bar, and the series."""

    title: str
    axis: str
    bars: list[str]
    series: list[Series]

    @property
    def totals(self) -> list[int]:
        """The length of each bar."""
        return [sum(values) for values in zip(*(s.values for s in self.series), strict=True)]


def number(value: int) -> str:
    """``value`` in groups of three digits, as everywhere on the screen."""
    return f"{value:,}"


def design(mmu: str) -> str:
    """The name of a design as it is written on the screen."""
    return say(f"design.{mmu}")


def reason_name(reason: str) -> str:
    """An exit reason in the words of the SDM."""
    return say(f"modes.exit.{reason}")


def references(rows: Sequence[Row]) -> Chart:
    """Page-table entries read under each design, by whose table it was."""
    reads = [row.total.references for row in rows]
    series = [
        Series(say(f"modes.table.{name}"), OWNER[name], [read[name] for read in reads])
        for name in TABLES
    ]
    bars = [design(row.mmu) for row in rows]
    return Chart(say("modes.references.title"), say("modes.references.axis"), bars, series)


def exits(rows: Sequence[Row]) -> Chart:
    """VM exits: a bar for each design and reason that occurred, by what was done about them.

    Of many bars only the longest are shown; the table has them all.
    """
    bars: list[str] = []
    counts: list[dict[str, int]] = []
    totals = [row.total for row in rows]
    told = sorted((n for total in totals for n in total.by_reason.values()), reverse=True)
    least = told[MOST_BARS] if len(told) > MOST_BARS else 0
    for row, total in zip(rows, totals, strict=True):
        for reason in [one for one, n in total.by_reason.items() if n > least] or [""]:
            bars.append(_exit_bar(row.mmu, reason))
            counts.append({deed: total.exits[reason, deed] for deed in DEEDS})
    series = [
        Series(say(f"modes.deed.{deed}"), SERVED[deed], [count[deed] for count in counts])
        for deed in DEEDS
    ]
    return Chart(say("modes.exits.title"), say("modes.exits.axis"), bars, series)


def _exit_bar(mmu: str, reason: str) -> str:
    """The name of a bar of exits; a design that had none ("") has a bar without a reason."""
    if not reason:
        return design(mmu)
    return say("modes.exits.bar", design=design(mmu), reason=reason_name(reason))


def cycles(rows: Sequence[Row]) -> Chart:
    """Cycles under each design: the walks are the CPU's work, the exits are the hypervisor's."""
    costs = [row.cycles for row in rows]
    series = [
        Series(say("modes.cycles.walks"), "quiet", [one.walks for one in costs]),
        Series(say("modes.cycles.exits"), "host", [one.total - one.walks for one in costs]),
    ]
    return Chart(
        say("modes.cycles.title"),
        say("modes.cycles.axis"),
        [design(row.mmu) for row in rows],
        series,
    )


def memory(rows: Sequence[Row]) -> Chart:
    """Bytes of page tables under each design when the program ended, by whose they are."""
    series = [
        Series(say(f"modes.table.{name}"), OWNER[name], [row.table_bytes[name] for row in rows])
        for name in TABLES
    ]
    bars = [design(row.mmu) for row in rows]
    return Chart(say("modes.memory.title"), say("modes.memory.axis"), bars, series)


CHARTS: Mapping[str, Callable[[Sequence[Row]], Chart]] = MappingProxyType(
    {"references": references, "exits": exits, "memory": memory, "cycles": cycles}
)
"""The charts of a comparison, by name."""


def table(rows: Sequence[Row]) -> Table:
    """The same numbers and more: one line a quantity, one column a design."""
    columns = [say("modes.column.quantity"), *(design(row.mmu) for row in rows)]
    lines = [[name, *map(number, values)] for name, values in _quantities(rows)]
    return Table(caption(rows), columns, lines)


def _quantities(rows: Sequence[Row]) -> Iterator[tuple[str, list[int]]]:
    """Each quantity's name and its value under every design."""
    totals = [row.total for row in rows]
    yield say("modes.row.accesses"), [row.accesses for row in rows]
    for where in ("L1", "L2", "miss"):
        yield say(f"modes.row.tlb.{where}"), [total.lookups[where] for total in totals]
    yield say("modes.row.faults"), [total.page_faults for total in totals]
    yield say("modes.row.references"), [total.all_references for total in totals]
    for name in TABLES:
        reads = [total.references[name] for total in totals]
        if any(reads):
            yield say(f"modes.row.references.{name}"), reads
    yield say("modes.row.references.program"), [row.program.all_references for row in rows]
    yield say("modes.row.references.kernel"), [row.kernel.all_references for row in rows]
    yield say("modes.row.exits"), [total.all_exits for total in totals]
    for reason in sorted({reason for total in totals for reason in total.by_reason}):
        name = say("modes.row.exits.reason", reason=reason_name(reason))
        yield name, [total.by_reason.get(reason, 0) for total in totals]
    for deed in DEEDS:
        served = [total.by_deed[deed] for total in totals]
        if any(served):
            yield say(f"modes.row.deed.{deed}"), served
    for name in TABLES:
        size = [row.table_bytes[name] for row in rows]
        if any(size):
            yield say(f"modes.row.bytes.{name}"), size
    peak = [row.shadow_bytes_peak for row in rows]
    if any(peak):
        yield say("modes.row.bytes.peak"), peak
    costs = [row.cycles for row in rows]
    yield say("modes.row.cycles.walks"), [one.walks for one in costs]
    yield say("modes.row.cycles.exits"), [one.total - one.walks for one in costs]
    yield say("modes.row.cycles"), [one.total for one in costs]


def caption(rows: Sequence[Row]) -> str:
    """What was run, how references are counted, and the shadow policy if one was at work."""
    parts = [_run(rows[0])] if rows else []
    parts.append(say("modes.convention"))
    parts += [say("modes.costs", costs=costs_text(rows[0].prices))] if rows else []
    policies = dict.fromkeys(row.policy for row in rows if row.mmu in ("shadow", "l2-shadow"))
    parts += [say(f"modes.policy.{name}") for name in policies]
    return " ".join(parts)


def _run(row: Row) -> str:
    values = {"records": number(row.records), "accesses": number(row.accesses)}
    key = "modes.run.calls" if row.calls else "modes.run"
    return say(key, trace=row.trace, **values)


def sentence(rows: Sequence[Row]) -> str:
    """Which design costs more of what, in one sentence; what to do when there is too little."""
    if not rows:
        return say("modes.sentence.none")
    names = [design(row.mmu) for row in rows]
    references = [row.total.all_references for row in rows]
    exits = [row.total.all_exits for row in rows]
    if len(rows) == 1:
        values = {"references": number(references[0]), "exits": number(exits[0])}
        line = say("modes.sentence.one", design=names[0], **values)
        return line[:1].upper() + line[1:]
    ranked = {
        "worst": _worst(names, references),
        "references": _ranking(names, references),
        "worst_exits": _worst(names, exits),
        "exits": _ranking(names, exits),
    }
    same = ranked["worst"] == ranked["worst_exits"]
    return say("modes.sentence.both" if same else "modes.sentence", **ranked)


def _worst(names: Sequence[str], values: Sequence[int]) -> str:
    """Who has the most: one design, or several that are equal."""
    most = [name for name, value in zip(names, values, strict=True) if value == max(values)]
    return say("modes.sentence.and").join(most)


def _ranking(names: Sequence[str], values: Sequence[int]) -> str:
    """Everybody with their number, the most first."""
    ranked = sorted(zip(names, values, strict=True), key=lambda pair: -pair[1])
    return ", ".join(
        say("modes.sentence.place", design=name, value=number(value)) for name, value in ranked
    )
