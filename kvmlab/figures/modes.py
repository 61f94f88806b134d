"""Three designs side by side: bars, a table and a sentence from the rows of a comparison.

Pure functions: `study.compare.Row` in; numbers, names and text out.  A bar's party is that of
whoever owns what is read or who is entered: the guest G, or the hypervisor H.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kvmlab.figures.scene import Table
from kvmlab.study.compare import Row
from kvmlab.study.counters import TABLES
from kvmlab.text import say

Party = Literal["guest", "host", "shadow"]
"""Which colour: the guest's, the hypervisor's, or its second shade for shadow tables."""

PARTY: dict[str, Party] = {"guest": "guest", "ept": "host", "shadow": "shadow"}


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
    return say(f"modes.design.{mmu}")


def reason_name(reason: str) -> str:
    """An exit reason in the words of the SDM; "" stands for no exit at all."""
    return say(f"modes.exit.{reason or 'none'}")


def references(rows: Sequence[Row]) -> Chart:
    """Page-table entries read under each design, by whose table it was."""
    reads = [row.total.references for row in rows]
    series = [
        Series(say(f"modes.table.{name}"), PARTY[name], [read[name] for read in reads])
        for name in TABLES
    ]
    bars = [say(f"modes.bar.{row.mmu}") for row in rows]
    return Chart(say("modes.references.title"), say("modes.references.axis"), bars, series)


def exits(rows: Sequence[Row]) -> Chart:
    """VM exits: one bar for each design and each reason that occurred under it, longest first."""
    bars: list[str] = []
    counts: list[int] = []
    for row in rows:
        reasons = row.total.exits or {"": 0}
        for reason, times in sorted(reasons.items(), key=lambda pair: -pair[1]):
            names = {"design": say(f"modes.bar.{row.mmu}"), "reason": reason_name(reason)}
            bars.append(say("modes.exits.bar", **names))
            counts.append(times)
    series = [Series(say("modes.exits.series"), "host", counts)]
    return Chart(say("modes.exits.title"), say("modes.exits.axis"), bars, series)


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
    yield say("modes.row.references"), [total.reads for total in totals]
    for name in TABLES:
        yield say(f"modes.row.references.{name}"), [total.references[name] for total in totals]
    yield say("modes.row.references.program"), [row.program.reads for row in rows]
    yield say("modes.row.references.kernel"), [row.kernel.reads for row in rows]
    yield say("modes.row.exits"), [total.leaves for total in totals]
    for reason in sorted({reason for total in totals for reason in total.exits}):
        name = say("modes.row.exits.reason", reason=reason_name(reason))
        yield name, [total.exits.get(reason, 0) for total in totals]
    if any(total.reflected or total.writes_trapped for total in totals):
        yield say("modes.row.reflected"), [total.reflected for total in totals]
        yield say("modes.row.trapped"), [total.writes_trapped for total in totals]
    for name in TABLES:
        yield say(f"modes.row.bytes.{name}"), [row.table_bytes.get(name, 0) for row in rows]
    yield say("modes.row.bytes.peak"), [row.shadow_bytes_peak for row in rows]


def caption(rows: Sequence[Row]) -> str:
    """What was run, how references are counted, and the shadow policy if one was at work."""
    parts = [_run(rows[0])] if rows else []
    parts.append(say("modes.convention"))
    if any(row.mmu == "shadow" for row in rows):
        parts.append(say("modes.policy"))
    return " ".join(parts)


def _run(row: Row) -> str:
    values = {"records": number(row.records), "accesses": number(row.accesses)}
    return say("modes.run", trace=row.trace, **values)


def sentence(rows: Sequence[Row]) -> str:
    """Which design costs more of what, in one sentence; what to do when there is no row."""
    if not rows:
        return say("modes.sentence.none")
    if len(rows) == 1:
        only = rows[0]
        return say(
            "modes.sentence.one",
            design=design(only.mmu),
            references=number(only.total.reads),
            exits=number(only.total.leaves),
        )
    return say(
        "modes.sentence",
        references=_ranked(rows, [row.total.reads for row in rows], "references"),
        exits=_ranked(rows, [row.total.leaves for row in rows], "exits"),
    )


def _ranked(rows: Sequence[Row], values: Sequence[int], what: str) -> str:
    """Who has the most and who the fewest of ``what``, or that all have the same."""
    most, least = max(values), min(values)
    if most == least:
        return say(f"modes.sentence.{what}.same", most=number(most))
    ratio = say("modes.sentence.ratio", ratio=f"{most / least:.1f}") if least else ""
    return say(
        f"modes.sentence.{what}",
        worst=_names(rows, values, most),
        best=_names(rows, values, least),
        most=number(most),
        least=number(least),
        ratio=ratio,
    )


def _names(rows: Sequence[Row], values: Sequence[int], value: int) -> str:
    """The designs that have this value."""
    found = [design(row.mmu) for row, own in zip(rows, values, strict=True) if own == value]
    return say("modes.and").join(found)
