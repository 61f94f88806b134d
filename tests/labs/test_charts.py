"""The chart adapter: marks are made once, updated in place, and never disagree with the figure."""

import subprocess
import sys

import pytest

from kvmlab.figures.modes import Chart, Series
from kvmlab.labs.charts import ROOM, Bars, columns, head, reach, ticks

# bqplot's scales warn of their own traits when they are first imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)


def chart(*totals, name="bar"):
    series = [Series("G: one", "guest", [1] * len(totals)), Series("H: two", "host", list(totals))]
    return Chart("Title", "things", [f"{name} {n}" for n in range(len(totals))], series)


def test_numbers_and_names_reach_the_marks():
    bars = Bars(chart(10, 20))
    assert bars._bars.y.tolist() == [[1, 1], [10, 20]]
    assert bars._totals.text.tolist() == ["11", "21"]
    assert bars._names.tick_labels == {"0": "bar 0", "1": "bar 1"}
    assert bars._ruler.label == "things"


@pytest.mark.parametrize("totals", [(7,), (7, 8, 9), (1, 2)])
def test_another_chart_is_shown_by_the_same_marks(totals):
    bars = Bars(chart(10, 20))
    marks = list(bars._figure.marks)
    bars.show(chart(*totals, name="other"))
    assert bars._figure.marks == marks
    assert bars._totals.x.tolist() == [total + 1 for total in totals]
    assert bars._totals.y.tolist() == bars._bars.x.tolist() == list(range(len(totals)))
    assert list(bars._names.tick_labels.values()) == [f"other {n}" for n in range(len(totals))]


def test_a_total_is_never_where_there_is_no_bar():
    """The browser would draw it at "NaN" and say so on its console."""
    bars = Bars(chart(1, 2, 3))
    places = []
    bars._bars.observe(lambda change: places.append(bars._totals.y.tolist()), names="x")
    bars.show(chart(1))
    assert places == [[0]]


def test_the_axis_has_whole_numbers_and_room_for_the_longest_total():
    bars = Bars(chart(99))
    assert bars._ruler.tick_values.tolist() == [0, 20, 40, 60, 80, 100]
    assert bars._counts.max == pytest.approx(120)
    bars.show(Chart("", "", ["none"], [Series("", "host", [0])]))
    assert bars._counts.max == 1


@pytest.mark.parametrize(
    "longest, expected",
    [(0, [0, 1]), (1, [0, 1]), (3, [0, 1, 2, 3]), (416, [0, 100, 200, 300, 400])],
)
def test_ticks(longest, expected):
    assert ticks(longest) == expected


@pytest.mark.parametrize("total", [5, 110, 2_534, 10_304, 2_546_380, 6_367_910, 13_436_425_563])
def test_the_longest_total_has_its_room_in_the_narrowest_chart(total):
    least = ROOM - 16  # pixels; a digit of the 12 px labels takes 6.7
    assert least * (1 - total / reach(total)) > 6 + 6.7 * len(f"{total:,}")


@pytest.mark.parametrize("longest", [7, 23, 1_234, 99_999, 5_000_000])
def test_there_are_few_ticks_and_they_reach_far(longest):
    found = ticks(longest)
    assert 2 <= len(found) <= 6
    assert longest / 2 <= found[-1] <= longest


@pytest.mark.parametrize("longest", [110, 10_304, 6_367_972, 63_000_000])
def test_the_numbers_of_an_axis_do_not_touch_in_the_narrowest_chart(longest):
    step = ticks(longest)[1]
    pixels = (ROOM - 16) * step / reach(longest)  # from one tick to the next
    assert pixels > 6.7 * len(f"{longest:,}") + 6


def test_the_legend_names_series_that_are_seen_and_escapes_them():
    series = [Series("a < b", "guest", [1]), Series("unseen", "host", [0])]
    told = head(Chart("T & T", "", ["bar"], series))
    assert "a &lt; b" in told
    assert "T &amp; T" in told
    assert "unseen" not in told


def test_importing_the_adapter_does_not_load_bqplot():
    code = "import sys, kvmlab.labs.charts; sys.exit('bqplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_charts_with_long_names_need_wider_columns_and_never_more_than_the_page():
    narrow, wide = columns([chart(1, name="EPT")]), columns([chart(1), chart(1, name="x" * 30)])
    pixels = [int(one.partition("(min(100%, ")[2].partition("px")[0]) for one in (narrow, wide)]
    assert pixels == [7 * 5 + 16 + ROOM, 7 * 32 + 16 + ROOM]
