"""Curves are thinned without losing a peak, and tabled."""

import numpy as np

from kvmlab.figures.curves import MOST_POINTS, Curve, Curves


def curves(values):
    return Curves("Title", "s", "MiB", list(range(len(values))), [Curve("a", "guest", values)])


def test_a_long_run_keeps_its_ends_and_every_peak():
    values = np.zeros(100_000)
    values[[123, 54_321, 99_998]] = [7, -3, 9]
    few = curves(values).thinned()
    assert len(few.xs) <= MOST_POINTS
    assert {0, 123, 54_321, 99_998, 99_999} <= set(few.xs)
    assert all(few.curves[0].values[n] == values[x] for n, x in enumerate(few.xs))


def test_many_curves_are_thinned_together():
    lines = [Curve(str(n), "host", np.arange(5000.0) % (n + 2)) for n in range(6)]
    assert len(Curves("", "", "", range(5000), lines).thinned().xs) <= MOST_POINTS


def test_few_points_stay():
    few = curves([1, 2, 3])
    assert few.thinned() is few


def test_the_table_has_the_ends():
    table = curves([float(n) for n in range(1000)]).table(rows=3)
    assert table.rows == [["0", "0"], ["499", "499"], ["999", "999"]]
    assert table.columns == ["s", "a"]
