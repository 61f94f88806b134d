"""Curves over time or over a parameter: numbers for a chart, and the table that says the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvmlab.figures.modes import Party, number
from kvmlab.figures.scene import Table

MOST_POINTS = 400
"""A chart is never sent more points than it has pixels to show them."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its name, its colour, one value for each x, and its letter at the end."""

    name: str
    party: Party
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Curves:
    """Lines over common ``xs``; both axis titles say their unit."""

    title: str
    x_axis: str
    y_axis: str
    xs: Sequence[float]
    curves: Sequence[Curve]
    caption: str = ""

    def thinned(self) -> "Curves":
        """The same with at most `MOST_POINTS` x, every highest and lowest value among them."""
        if len(self.xs) <= MOST_POINTS or not self.curves:
            return self
        kept = _telling(np.array([one.values for one in self.curves], dtype=float))
        lines = [Curve(one.name, one.party, _taken(one.values, kept)) for one in self.curves]
        return Curves(
            self.title, self.x_axis, self.y_axis, _taken(self.xs, kept), lines, self.caption
        )

    def table(self, rows: int = 24) -> Table:
        """The numbers at up to ``rows`` places, the first and the last among them."""
        places = sorted(
            {int(at) for at in np.linspace(0, len(self.xs) - 1, rows)} if self.xs else ()
        )
        lines = [
            [_text(self.xs[at]), *(_text(one.values[at]) for one in self.curves)] for at in places
        ]
        columns = [self.x_axis, *(one.name for one in self.curves)]
        caption = f"{self.title} ({self.y_axis}). {self.caption}".strip()
        return Table(caption, columns, lines)


def _telling(values: np.ndarray) -> list[int]:
    """Places that keep the shape: of each stretch the first, and every curve's extremes."""
    stretches = np.array_split(
        np.arange(values.shape[1]), MOST_POINTS // (1 + 2 * len(values)) or 1
    )
    kept: set[int] = {0, values.shape[1] - 1}
    for stretch in stretches:
        part = values[:, stretch]
        extremes = np.concatenate([part.argmin(axis=1), part.argmax(axis=1)])
        kept.update(int(stretch[at]) for at in extremes)
    return sorted(kept)


def _taken(values: Sequence[float], places: Sequence[int]) -> list[float]:
    return [values[at] for at in places]


def _text(value: float) -> str:
    return number(int(value)) if float(value).is_integer() else f"{value:,.2f}"
