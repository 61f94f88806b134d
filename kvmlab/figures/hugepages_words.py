"""Huge pages in words and numbers: a summary, what goes wrong, tables, the chart of requests."""

from collections.abc import Sequence

from kvmlab.figures.balloon import kib
from kvmlab.figures.hugepages import NUMBERS, UNKNOWN, leaf_text
from kvmlab.figures.hugepages_asks import leaf_name, why
from kvmlab.figures.modes import Chart, Party, Series, number
from kvmlab.figures.scene import Table
from kvmlab.hardware.tlb import ArrayShape, Geometry
from kvmlab.study.hugepages import PAIRS
from kvmlab.study.hugepages_beginning import Known
from kvmlab.study.hugepages_moments import Leaves, Moment
from kvmlab.study.hugepages_served import TIMED, Served
from kvmlab.text import say

_SHIFTS = (12, 21, 30)
_LARGE_ORDER = 9
PARTS = (
    *(("data", "quiet"), ("guest", "guest"), ("ept", "host"), ("cached", "silicon")),
    ("exits", "shadow"),
)
LATENCIES: Sequence[tuple[str, Party]] = (("p50", "quiet"), ("p90", "guest"), ("p99", "host"))


def summary(moment: Moment, *, looked: bool = True) -> str:
    """What is used, what it costs the host, and what maps it; not EPT before that is looked at."""
    at = moment.at
    return say(
        "huge.summary",
        touched=kib(moment.touched),
        rss=kib(moment.rss),
        hugetlb=kib(moment.hugetlb),
        guest=_leaves(moment.guest[0]),
        ept=_leaves(moment.ept[at]) if looked else UNKNOWN,
        host=_leaves(moment.host[at]),
    )


def _leaves(leaves: Leaves) -> str:
    """As in the drawing, but a word for nothing."""
    return leaf_text(leaves) if leaves.small or leaves.large else say("huge.none")


def diagnoses(moment: Moment, beginning: Known) -> list[str]:
    """What is worth a word: why a leaf is small, what is wasted, what a 2M request finds."""
    reason = why(moment, moment.at, beginning)
    waste = moment.backed - moment.touched
    found = {
        reason: reason in ("incongruent", "logging", "split", "fragmented", "small"),
        "waste": bool(moment.touched) and waste > moment.touched and waste >= 1 << 21,
        "request": not sum(moment.blocks[_LARGE_ORDER:]),
        "fork": moment.snapshot and beginning.guest == "2M",
        "hugetlb": bool(moment.hugetlb),
        "one_side": bool(moment.guest[0].small and moment.ept[moment.at].large),
        "cow": beginning.guest == "thp" and any(one.small for one in moment.guest),
    }
    values = {"waste": kib(waste), "touched": kib(moment.touched)}
    return [say(f"huge.mistake.{name}", **values) for name, seen in found.items() if seen]


def numbers_table(first: Moment, now: Moment) -> Table:
    """Before, now, and by how much it changed; KiB."""
    rows = []
    for name, party in NUMBERS[:-1]:
        was, is_now = getattr(first, name), getattr(now, name)
        change = f"{is_now - was >> 10:+,}" if is_now != was else "0"
        rows.append([f"{say(f'huge.box.{name}')} ({party})", kib(was), kib(is_now), change])
    columns = [say(f"huge.numbers.{name}") for name in ("name", "before", "now", "change")]
    return Table(say("huge.numbers.caption"), columns, rows)


def buddy_table(first: Moment, now: Moment) -> Table:
    """The host's free blocks by order, and for whom they are large enough."""
    rows = [
        [
            str(order),
            number(4 << order),
            str(first.blocks[order]),
            str(count),
            say(f"huge.buddy.{'fits' if order >= _LARGE_ORDER else 'small'}"),
        ]
        for order, count in enumerate(now.blocks)
    ]
    columns = [say(f"huge.buddy.{name}") for name in ("order", "size", "before", "now", "request")]
    return Table(say("huge.buddy.caption"), columns, rows)


def reach_table(geometry: Geometry) -> Table:
    """How much memory a TLB's entries for each size of pages cover."""
    rows = []
    for shift in _SHIFTS:
        first, second = (_entries(part, shift) for part in (geometry.data, geometry.second))
        most = max(first, second)
        rows.append([leaf_name(shift), number(first), number(second), number(most << shift >> 10)])
    columns = [say(f"huge.reach.{name}") for name in ("page", "first", "second", "reach")]
    return Table(say("huge.reach.caption", geometry=geometry.name), columns, rows)


def _entries(arrays: Sequence[ArrayShape], shift: int) -> int:
    return sum(one.entries for one in arrays if shift in one.shifts)


def served_chart(usual: Sequence[Served], mine: Served) -> Chart:
    """Cycles of a request for each pair of pages, and for what the learner has."""
    rows = [*usual, mine]
    bars = [
        say("huge.chart.bar", guest=guest, host=say(f"huge.page.{host}")) for guest, host in PAIRS
    ]
    series = [
        Series(say(f"huge.chart.{name}"), party, [getattr(one, name) for one in rows])  # type: ignore[arg-type]
        for name, party in PARTS
        if any(getattr(one, name) for one in rows)
    ]
    bars.append(say("huge.chart.mine"))
    return Chart(say("huge.chart.title"), say("huge.chart.axis"), bars, series)


def latency_chart(usual: Sequence[Served], mine: Served) -> Chart:
    """Cycles of one request: a bar ends at p99, its pieces end at p50 and p90."""
    ends = [(0, *one.latencies) for one in (*usual, mine)]
    series = [
        Series(say(f"huge.latency.{name}"), party, [end[at + 1] - end[at] for end in ends])
        for at, (name, party) in enumerate(LATENCIES)
    ]
    bars = served_chart(usual, mine).bars
    return Chart(say("huge.latency.title"), say("huge.latency.axis"), bars, series)


def latency_reasons(rows: Sequence[Served]) -> list[str]:
    """Why p90 and p99 are one number, where they are and a walk is the reason."""
    return [say("huge.latency.equal")] if any(one.saturated for one in rows) else []


def latency_table(chart: Chart, rows: Sequence[Served]) -> Table:
    """The three percentiles themselves."""
    lines = [
        [name, *map(number, row.latencies)] for name, row in zip(chart.bars, rows, strict=True)
    ]
    columns = [say("huge.chart.pages"), "p50", "p90", "p99"]
    return Table(say("huge.latency.caption", requests=number(TIMED)), columns, lines)


def served_table(chart: Chart, rows: Sequence[Served]) -> Table:
    """The same numbers, with misses and references."""
    lines = [
        [
            name,
            *(number(series.values[at]) for series in chart.series),
            number(rows[at].cycles),
            number(rows[at].misses),
            number(rows[at].tally.all_references),
        ]
        for at, name in enumerate(chart.bars)
    ]
    heads = [series.name for series in chart.series]
    more = [say(f"huge.chart.{name}") for name in ("total", "misses", "references")]
    columns = [say("huge.chart.pages"), *heads, *more]
    return Table(say("huge.chart.caption"), columns, lines)
