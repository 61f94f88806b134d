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
from kvmlab.text import say

STYLE = """<style>
.kvm-chart { --kvm-guest: #0072b2; --kvm-host: #d55e00; --kvm-shadow: #7f3700;
  --kvm-silicon: #009e73;
  --kvm-ink: var(--jp-ui-font-color1, #1f1f1f); --kvm-quiet: var(--jp-ui-font-color2, #5f5f5f) }
body:is([data-jp-theme-light="false"], .theme-dark, .vscode-dark) .kvm-chart {
  --kvm-guest: #56b4e9; --kvm-host: #ff8c3a; --kvm-shadow: #ffd0b0;
  --kvm-silicon: #33c79e }
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

HEIGHT = 296  # pixels: room for ten bars, and for what is above and below them

RIGHT = 48  # pixels at the right of all bars
LEFT = 248  # pixels for the names of bars with their totals, at 12 px a letter
LONGEST = 35  # letters of a name that have room there


def warmed() -> object:
    """A small part of a chart: what it takes to make a first one is then loaded, here and there.

    None where bqplot is not installed.
    """
    try:
        import bqplot
    except ImportError:
        return None
    return bqplot.LinearScale()


class Bars(widgets.VBox):
    """A chart of horizontal stacked bars, each named with its total.

    The marks are made once and updated in place.  New numbers are one message, for the scales fit
    themselves and the totals stand in the names.
    """

    def __init__(self, chart: Chart) -> None:
        """Draw ``chart``.  Raises ImportError where bqplot is not installed."""
        import bqplot

        scales = {"x": bqplot.OrdinalScale(reverse=True), "y": bqplot.LinearScale(min=0)}
        self._bars = bqplot.Bars(
            x=[""], y=[[0]], scales=scales, type="stacked", orientation="horizontal", padding=0.35
        )
        left = bqplot.Axis(scale=scales["x"], side="left", grid_lines="none")
        self._ruler = bqplot.Axis(
            scale=scales["y"],
            grid_lines="none",
            tick_format=".3~s",
            num_ticks=4,
            label_offset="32px",
        )
        figure = bqplot.Figure(
            marks=[self._bars],
            axes=[left, self._ruler],
            display_toolbar=False,
            padding_y=0,
            fig_margin={"top": 8, "bottom": 56, "left": LEFT, "right": RIGHT},
            layout=widgets.Layout(
                width="100%", min_width="300px", height=f"{HEIGHT}px", margin="0"
            ),
        )
        self._head = widgets.HTML()
        super().__init__([self._head, figure], layout=widgets.Layout(width="100%"))
        self.add_class("kvm-chart")
        self.show(chart)

    def show(self, chart: Chart) -> None:
        """Put the numbers of ``chart`` in place of the present ones."""
        self._head.value = head(chart)
        self._ruler.label = chart.axis
        with self._bars.hold_sync():
            self._bars.x = names(chart)
            self._bars.y = [series.values for series in chart.series]
            self._bars.colors = [colour(series.party) for series in chart.series]


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


class LinesPlace(widgets.VBox):
    """Where ``lines`` come when there are numbers; without bqplot a sentence stands there."""

    lines: Lines | None = None

    def show(self, curves: Curves) -> None:
        """Put ``curves`` there, in place of what is there now."""
        if self.lines:
            self.lines.show(curves)
            return
        try:
            self.lines = Lines(curves)
        except ImportError:
            self.children = [widgets.HTML(escape(say("modes.nochart")))]
        else:
            self.children = [self.lines]


def head(chart: Chart) -> str:
    """The title and the legend, as HTML: the same whatever the numbers."""
    return _head(chart.title, [(one.name, one.party) for one in chart.series])


def names(chart: Chart) -> list[str]:
    """What stands left of each bar: its name, cut where there is no room, and its total."""
    told = []
    for name, total in zip(chart.bars, chart.totals, strict=True):
        room = LONGEST - len(number(total)) - 2  # an em space
        cut = name
        while _letters(cut) > room:
            cut = f"{cut.rstrip('…')[:-1]}…"
        told.append(f"{cut}\u2003{number(total)}")
    return told


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


def _letters(name: str) -> int:
    """How many Latin letters would take as much room: a Chinese sign takes two."""
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in name)
