"""Charts as SVG for pages without a script: stacked bars, and lines over a parameter.

A colour never stands alone: a bar's party has its letter in it where it fits and in the legend, a
line has its name at its end, its own marks, and its own dashes.
"""

from collections.abc import Sequence
from html import escape
from math import floor, log10
from typing import NamedTuple

from kvmlab.figures.curves import Curve, Curves
from kvmlab.figures.modes import Chart, Series, number
from kvmlab.figures.svg import drawing, element, text

WIDTH = 900
PITCH, THICK = 24, 16  # from bar to bar, and of one bar
LETTER = 7  # a wide estimate of one character of 12 px; a Chinese one is two
NAMES = 380  # the most that names of bars may take
TOTAL = 88  # right of a bar, for its number
LEGEND = 32
FOOT = 48  # below the plot: numbers of the axis, its title
HEIGHT = 320  # of a plot of lines


class Scale(NamedTuple):
    """Values from 0 to ``top`` on pixels from ``start`` to ``end``, with a mark at each step."""

    top: float
    step: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of ``value``."""
        return self.start + (self.end - self.start) * value / self.top

    @property
    def ticks(self) -> list[float]:
        """The marked values."""
        return [self.step * place for place in range(round(self.top / self.step) + 1)]


def scale(highest: float, start: float, end: float, ticks: int = 5) -> Scale:
    """An axis from 0 to at least ``highest``, in steps of 1, 2 or 5 times a power of ten."""
    rough = (highest or 1) / ticks
    power = 10.0 ** floor(log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough * (1 - 1e-9))
    steps = max(1, -int(-(highest or 1) / step // 1))
    return Scale(steps * step, step, start, end)


def bars(chart: Chart) -> str:
    """Stacked bars, one below the other, with a legend above and the axis below."""
    names = min(NAMES, 8 + max([0, *(_wide(name) for name in chart.bars)]))
    axis = scale(max([0, *chart.totals]), names, WIDTH - TOTAL)
    foot = LEGEND + PITCH * len(chart.bars)
    shown = [one for one in chart.series if any(one.values)]
    rows = [_bar(chart, shown, row, axis) for row in range(len(chart.bars))]
    base = element("path", class_="base", d=f"M{names} {LEGEND}V{foot}")
    parts = [_legend(shown), *_columns(axis, LEGEND, foot), *rows, base]
    title = text(chart.axis, (axis.start + axis.end) / 2, foot + 40, class_="axis middle")
    return drawing(WIDTH, foot + FOOT, chart.title, *parts, title)


def _bar(chart: Chart, shown: Sequence[Series], row: int, axis: Scale) -> str:
    top, total = LEGEND + PITCH * row + (PITCH - THICK) / 2, chart.totals[row]
    name = chart.bars[row]
    parts = [text(_fitting(name, axis.start - 8), axis.start - 8, top + 12, class_="end")]
    done = 0
    for one in shown:
        start, end = axis.at(done), axis.at(done + one.values[row])
        done += one.values[row]
        if end > start:
            place = {"x": start, "y": top, "width": end - start, "height": THICK}
            parts.append(element("rect", class_=one.party, **place))
        if end - start >= 2 * LETTER and _letter(one.name):
            middle = (start + end) / 2
            parts.append(_on(one, middle, top + 12))
    parts.append(text(number(total), axis.at(total) + 6, top + 12))
    said = ", ".join(f"{one.name} {number(one.values[row])}" for one in shown)
    told = f"{name}: {number(total)} {chart.axis}" + (f" ({said})" if said else "")
    return element("g", element("title", escape(told)), *parts)


def _letter(name: str) -> str:
    """The party's letter, with which the names of series begin: ``H: EPT``."""
    return name[0] if name[1:2] in (":", "\uff1a") else ""


def _on(series: Series, x: float, y: float) -> str:
    return text(_letter(series.name), x, y, class_=f"letter on-{series.party}")


def _legend(shown: Sequence[Series]) -> str:
    parts, x = [], 0
    for one in shown:
        parts.append(element("rect", class_=one.party, x=x, y=4, width=THICK, height=THICK))
        if _letter(one.name):
            parts.append(_on(one, x + THICK / 2, 16))
        parts.append(text(one.name, x + THICK + 6, 16))
        x += THICK + 6 + _wide(one.name) + 24
    return "".join(parts)


def _columns(axis: Scale, top: float, foot: float) -> list[str]:
    """Upright rules with their numbers below."""
    return [
        element("path", class_="rule", d=f"M{axis.at(tick):.1f} {top}V{foot}")
        + text(_short(tick), axis.at(tick), foot + 18, class_="axis middle")
        for tick in axis.ticks
    ]


def lines(curves: Curves, mark: tuple[float, float, str] | None = None) -> str:
    """One line for each curve, its points marked; ``mark`` is a stretch of x and what it is."""
    names = 16 + max([0, *(_wide(one.name) for one in curves.curves)])
    foot, left = LEGEND + HEIGHT, 64
    across = scale(max([0, *curves.xs]), left, WIDTH - names)
    up = scale(max([0, *(max(one.values) for one in curves.curves)]), foot, LEGEND)
    parts = _columns(across, LEGEND, foot) + _rows(up, across)
    if mark:
        parts.append(_mark(mark, across, foot))
    base = f"M{left} {LEGEND}V{foot}H{across.end}"
    parts.append(element("path", class_="base", d=base, fill="none"))
    parts += [_line(one, place, curves.xs, across, up) for place, one in enumerate(curves.curves)]
    parts += _ends(curves.curves, across.at(curves.xs[-1]) + 12, up)
    parts.append(text(curves.y_axis, 0, 16, class_="axis"))
    middle = (across.start + across.end) / 2
    parts.append(text(curves.x_axis, middle, foot + 40, class_="axis middle"))
    return drawing(WIDTH, foot + FOOT, curves.title, *parts)


def _rows(up: Scale, across: Scale) -> list[str]:
    """Level rules with their numbers at the left."""
    return [
        element("path", class_="rule", d=f"M{across.start} {up.at(tick):.1f}H{across.end}")
        + text(_short(tick), across.start - 8, up.at(tick) + 4, class_="axis end")
        for tick in up.ticks
    ]


def _mark(mark: tuple[float, float, str], across: Scale, foot: float) -> str:
    start, end, words = mark
    x = across.at(start)
    wide = max(3.0, across.at(end) - x)
    band = element("rect", class_="mark", x=x, y=LEGEND, width=wide, height=foot - LEGEND)
    right = x + wide / 2 > (across.start + across.end) / 2
    at = x - 6 if right else x + wide + 6
    return band + text(words, at, foot - 10, class_="end" if right else None)


def _line(curve: Curve, place: int, xs: Sequence[float], across: Scale, up: Scale) -> str:
    points = [(across.at(x), up.at(y)) for x, y in zip(xs, curve.values, strict=True)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = (None, "8 4", "2 4")[place % 3]
    line = element("path", class_=f"line {curve.party}", d=path, stroke_dasharray=dashes)
    return line + "".join(_point(place, x, y, curve.party) for x, y in points)


def _point(place: int, x: float, y: float, party: str) -> str:
    """A disc, a square or a triangle."""
    if place % 3 == 0:
        return element("circle", class_=party, cx=x, cy=y, r=4)
    if place % 3 == 1:
        return element("rect", class_=party, x=x - 3.5, y=y - 3.5, width=7, height=7)
    corners = f"{x:.1f},{y - 4.5:.1f} {x - 4.5:.1f},{y + 4:.1f} {x + 4.5:.1f},{y + 4:.1f}"
    return element("polygon", class_=party, points=corners)


def _ends(curves: Sequence[Curve], x: float, up: Scale) -> list[str]:
    """The name of each line where it ends, moved down where two would meet."""
    parts, lowest = [], 0.0
    for one in sorted(curves, key=lambda curve: -curve.values[-1]):
        lowest = max(up.at(one.values[-1]) + 4, lowest + 16)
        parts.append(text(one.name, x, lowest))
    return parts


def _short(value: float) -> str:
    """A number of an axis: no more digits than it has."""
    return number(round(value)) if float(value).is_integer() else f"{value:g}"


def _wide(words: str) -> int:
    return sum(LETTER if ord(sign) < 0x2E80 else 2 * LETTER for sign in words)


def _fitting(words: str, room: float) -> str:
    """``words``, or as many as there is room for; all of them are in the bar's title."""
    if _wide(words) <= room:
        return words
    kept = words
    while _wide(kept) + LETTER > room:
        kept = kept[:-1]
    return kept + "…"
