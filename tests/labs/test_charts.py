"""The chart adapter: marks are made once, updated in place, and never disagree with the figure."""

import subprocess
import sys

import pytest

from kvmlab.figures.modes import Chart, Series
from kvmlab.labs.charts import LEFT, LONGEST, Bars, head, names
from tests.wire import tapped

# bqplot's scales warn of their own traits when they are first imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)


def chart(*totals, name="bar"):
    series = [Series("G: one", "guest", [1] * len(totals)), Series("H: two", "host", list(totals))]
    return Chart("Title", "things", [f"{name} {n}" for n in range(len(totals))], series)


def test_numbers_and_names_with_totals_reach_the_marks():
    bars = Bars(chart(10, 20_000))
    assert bars._bars.y.tolist() == [[1, 1], [10, 20_000]]
    assert bars._bars.x.tolist() == ["bar 0\u200311", "bar 1\u200320,001"]
    assert bars._ruler.label == "things"


def test_the_ruler_tells_the_third_digit_of_a_count_of_hundreds():
    """With two digits a ruler from 0 to 291 in thirds says 0, 97, 190, 290 beside a bar of 291."""
    bars = Bars(chart(290))
    digits = int(bars._ruler.tick_format.strip(".~s"))  # d3-format: .N~s has N significant digits
    assert [float(f"{tick:.{digits}g}") for tick in (97, 194, 291)] == [97, 194, 291]


@pytest.mark.parametrize("totals", [(7,), (7, 8, 9), (1, 2)])
def test_another_chart_is_shown_by_the_same_mark_in_one_message(totals):
    bars = Bars(chart(10, 20))
    mark = bars._bars
    with tapped() as wire:
        bars.show(chart(*totals))
    assert bars._bars is mark
    assert [name for name, _, _ in wire.sent] == ["Bars"]
    assert mark.x.tolist() == [f"bar {n}\u2003{total + 1}" for n, total in enumerate(totals)]


@pytest.mark.parametrize("name", ["影子分页" * 9, "shadow on EPT (L2): EPT misconfig. " * 3])
def test_a_long_name_is_cut_and_its_total_is_whole(name):
    told = names(chart(13_436_425_563, name=name))[0]
    assert told.endswith("…\u200313,436,425,564")
    wide = sum(2 if ord(sign) > 0x2FFF else 1 for sign in told)
    assert wide <= LONGEST
    assert wide * 7 <= LEFT


def test_the_legend_names_all_series_and_escapes_them():
    series = [Series("a < b", "guest", [1]), Series("of none", "host", [0])]
    told = head(Chart("T & T", "", ["bar"], series))
    assert "a &lt; b" in told
    assert "T &amp; T" in told
    assert "of none" in told


def test_importing_the_adapter_does_not_load_bqplot():
    code = "import sys, kvmlab.labs.charts; sys.exit('bqplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
