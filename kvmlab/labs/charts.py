"""The one place that knows bqplot: stacked bars and lines, with a legend of our own.

bqplot is imported when a chart is first made, for it costs a learner 0.4 s and 34 MiB.  Its own
legend is not used (a label vanishes over a bar of its colour), nor its toolbar (it covers the
title).  A bqplot figure says nothing to a screen reader, so whoever shows a chart shows a table
with the same numbers next to it.
"""

from collections.abc import Sequence
from html import escape
from unicodedata import east_asian_width

import ipywidgets as widgets

from kvmlab.figures.curves import Curves
from kvmlab.figures.modes import Chart, Party, number

STYLE = """<style>
.kvm-chart { --kvm-guest: #0072b2; --kvm-host: #d55e00; --kvm-shadow: #7f3700;
  --kvm-ink: var(--jp-ui-font-color1, #1f1f1f); --kvm-quiet: var(--jp-ui-font-color2, #5f5f5f) }
body:is([data-jp-theme-light="false"], .theme-dark, .vscode-dark) .kvm-chart {
  --kvm-guest: #56b4e9; --kvm-host: #ff8c3a; --kvm-shadow: #ffd0b0 }
.kvm-chart-head { color: var(--kvm-ink); font-size: 14px; line-height: 20px }
.kvm-chart-head strong { display: block; font-weight: 600 }
.kvm-chart-head span { margin-right: 16px; white-space: nowrap }
.kvm-chart-head i { display: inline-block; width: 12px; height: 12px; margin-right: 6px;
  vertical-align: -1px }
.kvm-chart .bqplot text { fill: var(--kvm-ink) !important; font-size: 12px !important;
  font-variant-numeric: tabular-nums; font-weight: 400 !important }
.kvm-chart .bqplot .tick text { fill: var(--kvm-quiet) !important }
.kvm-chart .bqplot .domain { display: none }
</style>"""

ROW, AROUND = 32, 72
"""Pixels: the height of one bar with its gap, and of what is above and below all bars."""

GAP, RIGHT = 6, 16
"""Pixels: between a bar and its total, and at the right of all bars."""

TICKS = 5
ROOM = 260  # pixels: the least that bars and their totals have next to their names
LETTER = 7  # pixels: a wide estimate for the 12 px labels at the left


class Bars(widgets.VBox):
    """A chart of horizontal stacked bars, each with its total at its end.

    The marks are made once and updated in place.
    """

    def __init__(self, chart: Chart) -> None:
        """Draw ``chart``.  Raises ImportError where bqplot is not installed."""
        import bqplot

        self._places = bqplot.OrdinalScale(reverse=True)  # 0, 1, ...: the first bar on top
        self._counts = bqplot.LinearScale(min=0)
        self._bars = bqplot.Bars(
            x=[0],
            y=[[0]],
            scales={"x": self._places, "y": self._counts},
            type="stacked",
            orientation="horizontal",
            padding=0.35,
        )
        self._totals = bqplot.Label(
            x=[0],
            y=[0],
            text=[""],
            scales={"x": self._counts, "y": self._places},
            colors=["var(--kvm-ink)"],
            default_size=12,
            x_offset=GAP,
            align="start",
        )
        self._names = bqplot.Axis(scale=self._places, side="left", grid_lines="none")
        self._ruler = bqplot.Axis(
            scale=self._counts, grid_lines="none", tick_format=",.0f", label_offset="32px"
        )
        self._figure = bqplot.Figure(
            marks=[self._bars, self._totals],
            axes=[self._names, self._ruler],
            display_toolbar=False,
            padding_y=0,
            layout=widgets.Layout(width="100%", min_width="300px", margin="0"),
        )
        self._head = widgets.HTML()
        super().__init__([self._head, self._figure], layout=widgets.Layout(width="100%"))
        self.add_class("kvm-chart")
        self.show(chart)

    def show(self, chart: Chart) -> None:
        """Put the numbers of ``chart`` in place of the present ones."""
        self._head.value = head(chart)
        self._ruler.label = chart.axis
        longest = max(chart.totals, default=0)
        with self._ruler.hold_sync(), self._counts.hold_sync():
            self._ruler.tick_values = ticks(longest)
            self._counts.max = max(reach(longest), 1)
        with self._figure.hold_sync():
            self._figure.fig_margin = margins(chart)
            self._figure.layout.height = f"{ROW * len(chart.bars) + AROUND}px"
        places = list(range(len(chart.bars)))
        if len(places) < len(self._totals.y):  # a total never stands where there is no bar
            self._show_totals(chart, places)
        with self._bars.hold_sync():
            self._bars.x = places
            self._bars.y = [series.values for series in chart.series]
            self._bars.colors = [colour(series.party) for series in chart.series]
        self._names.tick_labels = dict(zip(map(str, places), chart.bars, strict=True))
        self._show_totals(chart, places)

    def _show_totals(self, chart: Chart, places: list[int]) -> None:
        with self._totals.hold_sync():
            self._totals.x = chart.totals
            self._totals.y = places
            self._totals.text = [number(total) for total in chart.totals]


class Lines(widgets.VBox):
    """Lines over one axis; new values are one message, for the scales fit themselves."""

    def __init__(self, curves: Curves) -> None:
        """Draw ``curves``.  Raises ImportError where bqplot is not installed."""
        import bqplot

        scales = {"x": bqplot.LinearScale(), "y": bqplot.LinearScale(min=0)}
        self._lines = bqplot.Lines(x=[0, 0], y=[[0, 0]], scales=scales, stroke_width=2)
        self._across = bqplot.Axis(scale=scales["x"], grid_lines="none", label_offset="32px")
        self._up = bqplot.Axis(scale=scales["y"], side="left", label_offset="56px")
        figure = bqplot.Figure(
            marks=[self._lines],
            axes=[self._across, self._up],
            display_toolbar=False,
            padding_y=0,
            fig_margin={"top": 8, "bottom": 56, "left": 80, "right": RIGHT},
            layout=widgets.Layout(width="100%", min_width="300px", height="240px", margin="0"),
        )
        self._head = widgets.HTML()
        super().__init__([self._head, figure], layout=widgets.Layout(width="100%"))
        self.add_class("kvm-chart")
        self.show(curves)

    def show(self, curves: Curves) -> None:
        """Put the values of ``curves`` in place of the present ones."""
        few = curves.thinned()
        twice = 2 if len(few.xs) == 1 else 1  # bqplot draws no line of one point
        self._head.value = _head(
            curves.title, [(one.name, one.party) for one in curves.curves], curves.caption
        )
        self._across.label, self._up.label = curves.x_axis, curves.y_axis
        with self._lines.hold_sync():
            self._lines.x = list(few.xs) * twice
            self._lines.y = [list(one.values) * twice for one in few.curves]
            self._lines.colors = [colour(one.party) for one in few.curves]


def head(chart: Chart) -> str:
    """The title and the legend, as HTML."""
    shown = [(series.name, series.party) for series in chart.series if any(series.values)]
    return _head(chart.title, shown)


def _head(title: str, legend: Sequence[tuple[str, Party]], caption: str = "") -> str:
    swatches = "".join(
        f'<span><i style="background: {colour(party)}"></i>{escape(name)}</span>'
        for name, party in legend
    )
    inside = f"<strong>{escape(title)}</strong>{swatches}"
    below = f"<div>{escape(caption)}</div>" if caption else ""
    return f'{STYLE}<div class="kvm-chart-head">{inside}{below}</div>'


def colour(party: str) -> str:
    """The CSS colour of a party; the style sheet has one for light and one for dark themes."""
    return f"var(--kvm-{party})"


def margins(chart: Chart) -> dict[str, int]:
    """Pixels around the bars: on the left as much as the longest name needs."""
    widest = max((_letters(name) for name in chart.bars), default=0)
    return {"top": 8, "bottom": 56, "left": int(LETTER * widest) + 16, "right": RIGHT}


def reach(longest: int) -> float:
    """Where the axis ends: beyond the longest bar its total has room, even with least `ROOM`."""
    share = (GAP + LETTER * len(number(longest))) / (ROOM - RIGHT)
    return longest * max(1.2, 1 / (1 - share))


def columns(charts: Sequence[Chart]) -> str:
    """The CSS of a grid in which ``charts`` stand side by side as far as all of them have room."""
    widest = max(margins(chart)["left"] for chart in charts)
    return f"repeat(auto-fit, minmax(min(100%, {widest + ROOM}px), 1fr))"


def _letters(name: str) -> int:
    """How many Latin letters would take as much room: a Chinese sign takes two."""
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in name)


def ticks(longest: int) -> list[int]:
    """Whole numbers at 1, 2 or 5 times a power of ten, from 0 to ``longest``: at most six.

    There are no more than the narrowest chart can write next to each other.
    """
    bar = (ROOM - RIGHT) * longest / max(reach(longest), 1)
    most = min(TICKS, max(int(bar / (LETTER * (2 + len(number(longest))))), 2))
    step = 1
    while longest > step * most:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(0, max(longest, 1) + 1, step))
