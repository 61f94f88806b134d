"""A sweep in tables, charts and a page: pure functions of its results (study/results.py)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvmlab.base.addresses import size_text
from kvmlab.figures.costs import costs_text
from kvmlab.figures.modes import OWNER, SERVED, Chart, Party, Series, design, number
from kvmlab.figures.page import Part, page
from kvmlab.figures.plots import bars
from kvmlab.figures.scene import Table
from kvmlab.study.costs import CostTable
from kvmlab.study.counters import DEEDS, TABLES
from kvmlab.study.grid import Cell
from kvmlab.study.results import SLOWDOWN, Results
from kvmlab.study.sweep import Outcome
from kvmlab.text import count, say

AXES = (
    "trace",
    "mmu",
    "policy",
    "guest_levels",
    "host_levels",
    "guest_page_bytes",
    "host_page_bytes",
    "tlb",
    "walk_caches",
    "cost_model",
)
TOLD = ("tlb_misses", "references", "exits", "table_bytes", "cycles", SLOWDOWN)
"""The quantities of the short table; the files have all of them."""

NOTHING = "–"


def varying(array: Results) -> list[str]:
    """The axes on which rows that have them differ; the design where none does."""
    return [name for name in AXES if len(_values(array, name)) > 1] or ["mmu"]


def _values(array: Results, axis: str) -> list[Any]:
    """The different values of an axis, in order, without those that say that there is none."""
    return [value for value in dict.fromkeys(array[axis].tolist()) if value]


def table(array: Results, prices: Sequence[CostTable]) -> Table:
    """One line a row of ``array``: the axes on which rows differ, and what came of it."""
    axes = varying(array)
    columns = [say(f"sweep.axis.{name}") for name in axes]
    columns += [say(f"sweep.column.{name}") for name in TOLD]
    lines = [
        [*(value_text(name, row[name]) for name in axes), *(_told(row[name]) for name in TOLD)]
        for row in array
    ]
    return Table(caption(array, prices), columns, lines)


def value_text(axis: str, value: Any) -> str:  # noqa: ANN401  a NumPy scalar of the axis's type
    """A value of an axis as it is written on the screen."""
    if not value:
        return NOTHING
    if axis == "mmu":
        return design(str(value))
    return size_text(int(value)) if axis.endswith("_bytes") else str(value)


def _told(value: Any) -> str:  # noqa: ANN401  a NumPy scalar
    if isinstance(value, np.integer):
        return number(int(value))
    return NOTHING if np.isnan(value) else f"{value:.3f}"


def caption(array: Results, prices: Sequence[CostTable]) -> str:
    """What all rows have in common, how references are counted, and what the cycles are."""
    differs = varying(array)
    same = [name for name in AXES if name not in differs and _values(array, name)]
    pairs = [
        say("sweep.same.one", axis=say(f"sweep.axis.{name}"), value=_common(array, name))
        for name in same
    ]
    parts = [say("sweep.same", what=", ".join(pairs))] if pairs else []
    parts += [say("modes.convention"), _priced(prices)]
    agile = (array["mmu"] == "agile") & (array["walk_caches"] != "off")
    return " ".join([*parts, say("sweep.agile")] if agile.any() else parts)


def _common(array: Results, axis: str) -> str:
    return value_text(axis, _values(array, axis)[0])


def _priced(prices: Sequence[CostTable]) -> str:
    """What cycles are, and what slowdowns are."""
    models = say("sweep.and").join(map(costs_text, prices))
    access = ", ".join(dict.fromkeys(number(one.rows["access"].cycles) for one in prices))
    return say("sweep.costs", costs=models, access=access)


def charts(array: Results) -> list[Chart]:
    """Cycles for every cost model, and what does not depend on one once for each cell."""
    once = array[array["cost_model"] == array["cost_model"][0]]
    owners = [(OWNER[name], say(f"modes.table.{name}"), name) for name in TABLES]
    deeds = [(SERVED[one], say(f"modes.deed.{one}"), f"exits_{one}") for one in DEEDS]
    references = [(party, name, f"references_{one}") for party, name, one in owners]
    sizes = [(party, name, f"{one}_table_bytes") for party, name, one in owners]
    cycles: list[tuple[Party, str, str]] = [
        ("quiet", say("modes.cycles.walks"), "cycles_walks"),
        ("host", say("modes.cycles.exits"), "cycles_exits"),
    ]
    misses: list[tuple[Party, str, str]] = [("quiet", say("sweep.column.tlb_misses"), "tlb_misses")]
    return [
        _chart(array, "cycles", cycles),
        _chart(once, "references", references),
        _chart(once, "exits", deeds),
        _chart(once, "tlb_misses", misses),
        _chart(once, "table_bytes", sizes),
    ]


def _chart(array: Results, name: str, series: Sequence[tuple[Party, str, str]]) -> Chart:
    stacked = [
        Series(words, party, [int(value) for value in array[field]])
        for party, words, field in series
    ]
    title, axis = say(f"sweep.chart.{name}"), say(f"sweep.unit.{name}")
    return Chart(title, axis, labels(array), stacked)


def labels(array: Results) -> list[str]:
    """A name for each row: its values on the axes on which rows differ."""
    axes = varying(array)
    return [", ".join(_labelled(name, row[name]) for name in axes if row[name]) for row in array]


def _labelled(axis: str, value: Any) -> str:  # noqa: ANN401  a NumPy scalar
    """A value that tells by itself what it is, or says it."""
    words = value_text(axis, value)
    return words if axis in ("trace", "mmu", "policy") else say(f"sweep.label.{axis}", value=words)


def sentences(array: Results) -> list[str]:
    """For each trace and cost model: which cell takes the fewest cycles, and which the most."""
    said = []
    for trace, model in dict.fromkeys(zip(array["trace"], array["cost_model"], strict=True)):
        rows = array[(array["trace"] == trace) & (array["cost_model"] == model)]
        names, cycles = labels(rows), rows["cycles"].tolist()
        low, high = cycles.index(min(cycles)), cycles.index(max(cycles))
        values = {"best": names[low], "fewest": number(cycles[low])}
        values |= {"worst": names[high], "most": number(cycles[high])}
        said.append(say("sweep.sentence", trace=trace, model=model, **values))
    return said


def left_out(outcome: Outcome) -> list[str]:
    """One line for each cell that failed, and one for each reason to leave cells out."""
    lines = [say("sweep.failed", cell=cell, reason=reason) for cell, reason in outcome.failed]
    skipped: dict[str, list[Cell]] = {}
    for cell, reason in outcome.skipped:
        skipped.setdefault(reason, []).append(cell)
    return lines + [
        count("sweep.skipped", len(cells), cell=cells[0], reason=reason)
        for reason, cells in skipped.items()
    ]


def sweep_page(array: Results, outcome: Outcome, prices: Sequence[CostTable]) -> str:
    """The page of a sweep; a sweep of which nothing succeeded has reasons only."""
    title = count("sweep.title", len(outcome.done))
    parts = []
    if len(array):
        cycles, *others = charts(array)
        convention = say("modes.convention")
        captions = [f"{convention} {_priced(prices)}", *(convention for _ in others)]
        parts = [Part(say("sweep.all"), "", table(array, prices))]
        parts += [
            Part(chart.title, bars(chart), _twin(chart, told))
            for chart, told in zip((cycles, *others), captions, strict=True)
        ]
    return page(title, [*sentences(array), *left_out(outcome)], parts)


def _twin(chart: Chart, convention: str) -> Table:
    """The numbers of a chart."""
    shown = [one for one in chart.series if any(one.values)] or chart.series[:1]
    columns = [say("sweep.column.cell"), *(one.name for one in shown), say("sweep.column.total")]
    lines = [
        [name, *(number(one.values[row]) for one in shown), number(chart.totals[row])]
        for row, name in enumerate(chart.bars)
    ]
    return Table(say("sweep.caption", unit=chart.axis, convention=convention), columns, lines)
