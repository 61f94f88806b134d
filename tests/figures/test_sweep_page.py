"""A sweep as tables, charts and a page: the same numbers everywhere, nothing from outside."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from kvmlab import workloads
from kvmlab.figures.curves import Curve, Curves
from kvmlab.figures.plots import bars, lines, scale
from kvmlab.figures.sweep import caption, charts, labels, sentences, sweep_page, table, varying
from kvmlab.kvm.policy import POLICIES
from kvmlab.machine import DESIGNS
from kvmlab.study.costs import GRADED, model_named
from kvmlab.study.grid import Axes
from kvmlab.study.results import results
from kvmlab.study.sweep import sweep
from kvmlab.text import LANGUAGES, speaking

PRICES = (GRADED, model_named("dram"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def outcome():
    axes = Axes(mmus=("native", "shadow", "ept"), guest_pages=("4K", "2M", "4M"))
    return sweep([workloads.shipped("ls").head(2000)], axes, jobs=1)


@pytest.fixture(scope="module")
def array(outcome):
    return results(outcome, PRICES)


def test_a_table_has_the_axes_that_differ_and_the_caption_those_that_do_not(array):
    assert varying(array) == ["mmu", "guest_page_bytes", "cost_model"]
    found = table(array, PRICES)
    assert found.columns[:3] == ["Design", "Guest page", "Costs"]
    assert len(found.rows) == len(array) == 2 * 6
    told = caption(array, PRICES)
    assert "Host page 4K" in told
    assert "A reference is one page-table-entry read" in told
    assert "“graded”" in told
    assert "“dram”" in told
    assert "Agile" not in told


def test_charts_show_what_was_counted(array):
    cycles, references, exits, misses, sizes = charts(array)
    assert cycles.totals == array["cycles"].tolist()
    once = array[array["cost_model"] == "graded"]
    assert references.totals == once["references"].tolist()
    assert exits.totals == once["exits"].tolist()
    assert misses.totals == once["tlb_misses"].tolist()
    assert sizes.totals == once["table_bytes"].tolist()
    assert len(set(cycles.bars)) == len(cycles.bars) == len(array)  # every bar has its own name


def test_each_row_can_be_told_from_the_others_by_its_label():
    trace = workloads.shipped("ls").head(50)
    axes = Axes(
        mmus=[mmu for mmu in DESIGNS if not mmu.startswith("l2")],
        policies=[one.name for one in POLICIES],
        host_levels=(4, 5),
        tlbs=("tiny", "zen4"),
        walk_caches=("off", "on"),
    )
    array = results(sweep([trace], axes, jobs=1))
    assert len(set(labels(array))) == len(array)
    assert "Agile paging uses no paging-structure caches here" in caption(array, [GRADED])


def test_the_sentence_names_the_fewest_and_the_most_cycles(array):
    graded, _dram = sentences(array)
    rows = array[array["cost_model"] == "graded"]
    assert f"({rows['cycles'].min():,})" in graded
    assert f"({rows['cycles'].max():,})" in graded
    assert "native paging, guest 2M takes the fewest" in graded


class Page(HTMLParser):
    """What a page is made of, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.attributes, self.cells = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.loaded += [value for name, value in attrs if name in ("src", "href", "data", "action")]


def test_the_page_stands_alone_under_the_strictest_policy(array, outcome):
    text = sweep_page(array, outcome, PRICES)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    page = Page(text)
    assert page.loaded == []
    assert {"script", "link", "img", "iframe"} & set(page.tags) == set()
    assert "style" not in page.attributes  # the policy would drop it
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_every_chart_of_the_page_has_its_table_its_unit_and_the_convention(array, outcome):
    text = sweep_page(array, outcome, PRICES)
    sections = text.split('<section class="plot">')[1:]
    assert len(sections) == 1 + 5
    for section, chart in zip(sections[1:], charts(array), strict=True):
        assert section.count("<svg") == section.count("<table") == 1
        drawn = section[section.index("<svg") : section.index("</svg>")]
        assert f">{chart.axis}<" in drawn
        assert "A reference is one page-table-entry read" in section
        for total in chart.totals:
            assert f">{total:,}<" in drawn
            assert f">{total:,}</td>" in section


def test_the_page_tells_what_was_left_out_and_why(array, outcome):
    told = sweep_page(array, outcome, PRICES)
    assert "Left out: 3 cells, the first of which is ls, native" in told
    assert "maps pages of 4K, 2M, 1G" in told


def test_a_name_is_no_markup():
    trace = workloads.shipped("ls").head(50)
    named = type(trace)("<b>&", trace.kinds, trace.addresses, trace.sizes)
    other = type(trace)("plain", trace.kinds, trace.addresses, trace.sizes)
    outcome = sweep([named, other], Axes(mmus=("native",)), jobs=1)
    text = sweep_page(results(outcome), outcome, [GRADED])
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_the_page_of_a_sweep_that_failed_has_the_reasons():
    axes = Axes(mmus=("l2-ept",), guest_pages=("1G",), host_pages=("1G",))
    outcome = sweep([workloads.shipped("ls").head(50)], axes, jobs=1)
    array = results(outcome)
    assert len(array) == 0
    assert "Failed: ls, l2-ept" in sweep_page(array, outcome, [GRADED])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_speaks_every_language(array, outcome, language):
    with speaking(language):
        text = sweep_page(array, outcome, PRICES)
    assert f'<html lang="{language}">' in text


def drawing(svg):
    return ET.fromstring(svg)  # noqa: S314  made by ourselves


@pytest.mark.parametrize("axis", range(5))
def test_bars_are_as_long_as_their_numbers(array, axis):
    chart = charts(array)[axis]
    drawn = drawing(bars(chart)).findall(f"{SVG}g")
    wide = [sum(float(one.get("width")) for one in bar.findall(f"{SVG}rect")) for bar in drawn]
    longest = max(chart.totals)
    unit = wide[chart.totals.index(longest)] / longest
    assert wide == pytest.approx([unit * total for total in chart.totals], rel=1e-4, abs=0.01)


@pytest.mark.parametrize(
    "highest, top, step",
    [(0, 1, 0.2), (1, 1, 0.2), (4.2, 5, 1), (491_460, 500_000, 100_000), (1001, 1500, 500)],
)
def test_an_axis_ends_just_above_its_highest_value_in_round_steps(highest, top, step):
    axis = scale(highest, 0, 100)
    assert (axis.top, axis.step) == pytest.approx((top, step))
    assert axis.ticks[-1] == pytest.approx(axis.top)


def test_lines_pass_through_their_points_each_with_marks_of_its_own():
    curves = Curves(
        "t",
        "pages",
        "ratio",
        [0, 5, 10],
        [Curve("H: shadow", "shadow", [1, 2, 3]), Curve("H: EPT", "host", [2, 2, 2])],
    )
    drawn = drawing(lines(curves, (4, 6, "they cross")))
    points = [(float(one.get("cx")), float(one.get("cy"))) for one in drawn.findall(f"{SVG}circle")]
    assert len(points) == len(drawn.findall(f"{SVG}rect[@class='host']")) == 3
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), rel=1e-4)  # a straight line
    assert y0 > y1 > y2  # upward
    names = [one.text for one in drawn.findall(f"{SVG}text")]
    assert {"pages", "ratio", "H: shadow", "H: EPT", "they cross"} <= set(names)


def test_the_rows_are_plain_numbers_and_units_are_in_their_names(array):
    for name in array.dtype.names:
        kind = array.dtype[name].kind
        assert kind in "Ui" or name == "slowdown_ratio"
    assert {
        "tlb_misses",
        "references_guest",
        "references_ept",
        "references_shadow",
        "exits",
        "table_bytes",
        "guest_page_bytes",
        "cycles",
    } <= set(array.dtype.names)
    assert np.array_equal(array["cycles"], array["cycles_walks"] + array["cycles_exits"])
    assert json.dumps(array["cycles"].tolist())
