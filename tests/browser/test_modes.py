"""`labs.modes()` in JupyterLab: what is toggled is redrawn, with the engine's numbers."""

from dataclasses import replace

import pytest

from kvmlab import workloads
from kvmlab.figures import modes as figures
from kvmlab.figures.costs import model_names
from kvmlab.machine import DESIGNS
from kvmlab.study.compare import compare
from kvmlab.study.costs import model_named
from kvmlab.text import say

RECORDS = 20_000
CELL = f"from kvmlab import labs\nlab = labs.modes(records={RECORDS})\nlab"
THEMES = ["Light", "Dark"]


@pytest.fixture(scope="module")
def rows():
    """What the engine counts, by design."""
    return {row.mmu: row for row in compare(workloads.shipped("sort").head(RECORDS))}


def totals(lab, chart):
    """The numbers written at the ends of the bars of a chart, top to bottom."""
    return lab.page.locator(".kvm-chart").nth(chart).locator("text.label").all_text_contents()


def widths(lab, chart):
    """How wide each piece of each bar of a chart is drawn, in pixels."""
    bars = lab.page.locator(".kvm-chart").nth(chart).locator("rect.bar")
    return [float(width) for width in bars.evaluate_all(WIDTHS)]


WIDTHS = "bars => bars.map(bar => bar.getAttribute('width'))"


def cells(lab):
    """The cells of the table twin by the name of their row."""
    lines = lab.page.locator(".kvm-modes tbody tr").all()
    return {line.locator("th").inner_text(): line.locator("td").all_inner_texts() for line in lines}


def show(lab, mmus):
    """Choose these designs, by mouse."""
    for mmu in ("native", "shadow", "ept"):
        name = say(f"design.{mmu}")
        lab.page.get_by_role("checkbox", name=name, exact=True).set_checked(mmu in mmus)


def drawn_like(lab, number, chart):
    """Whether the bars, and the numbers at their ends, are those of ``chart``."""
    pieces = [values[bar] for bar in range(len(chart.bars)) for values in columns(chart)]
    found = widths(lab, number)
    scale = sum(found) / max(sum(pieces), 1)
    return (
        totals(lab, number) == [f"{total:,}" for total in chart.totals]
        and len(found) == len(pieces)
        and all(abs(a - b * scale) < 1 for a, b in zip(found, pieces, strict=True))
    )


def columns(chart):
    return [series.values for series in chart.series]


@pytest.mark.parametrize("theme", THEMES)
def test_toggling_a_design_redraws_with_the_numbers_of_the_engine(open_notebook, rows, theme):
    lab = open_notebook(CELL, theme=theme)
    lab.run_all()
    for mmus in (("native", "shadow", "ept"), ("shadow", "ept"), ("shadow",), ("shadow", "ept")):
        chosen = [rows[mmu] for mmu in mmus]
        show(lab, mmus)
        for number, chart in enumerate((figures.references(chosen), figures.exits(chosen))):
            lab.until(lambda number=number, chart=chart: drawn_like(lab, number, chart))
        told = cells(lab)
        assert told["References"] == [f"{row.total.all_references:,}" for row in chosen]
        assert told["VM exits"] == [f"{row.total.all_exits:,}" for row in chosen]
        assert lab.seen(".kvm-modes [role=status]") == figures.sentence(chosen)
        lab.shot(f"modes-{theme.lower()}-{'-'.join(mmus)}", ".kvm-modes")


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_bars_stand_out_in_either_theme(open_notebook, theme):
    """WCAG AA: 4.5 for text, 3 for graphics."""
    lab = open_notebook(CELL, theme=theme)
    lab.run_all()
    lab.page.wait_for_selector(".kvm-chart rect.bar", state="attached")
    text = (".kvm-modes td", ".kvm-modes caption", ".kvm-chart-head strong")
    for selector in (*text, ".kvm-chart text.label", ".kvm-chart .tick text"):
        assert lab.contrast(selector) >= 4.5, selector
    for number in range(lab.page.locator(".kvm-chart rect.bar").count()):
        assert lab.contrast(f".kvm-chart rect.bar >> nth={number}") >= 3


def test_nothing_sticks_out_of_a_narrow_page(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(".kvm-chart rect.bar", state="attached")
    lab.page.set_viewport_size({"width": 860, "height": 1200})
    lab.until(lambda: lab.page.evaluate(INSIDE))
    lab.shot("modes-narrow")


INSIDE = """() => {
  const right = document.querySelector('.kvm-modes').getBoundingClientRect().right
  const all = [...document.querySelectorAll('.kvm-modes *')]
  return all.every(one => one.getBoundingClientRect().right <= right + 1)
}"""


def test_controls_have_names_and_a_bad_file_is_told(open_notebook, tmp_path):
    lab = open_notebook(CELL)
    lab.run_all()
    before = lab.seen(".kvm-modes [role=status]")
    lab.page.get_by_label("Trace", exact=True).select_option("a file of my own")
    lab.page.get_by_role("textbox", name="File", exact=True).fill(str(tmp_path / "absent"))
    lab.page.keyboard.press("Enter")
    lab.until(lambda: "cannot be opened" in lab.seen(".kvm-modes [role=alert]"))
    assert lab.seen(".kvm-modes [role=status]") == before
    lab.shot("modes-bad-file", ".kvm-modes")


def test_a_long_run_shows_progress_and_can_be_stopped(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    before = lab.seen(".kvm-modes [role=status]")
    lab.page.get_by_label("Records", exact=True).select_option("all")
    stop = lab.page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for()
    assert "of 1,025,292 accesses" in lab.seen(".kvm-modes")
    stop.click()
    lab.until(lambda: "Stopped" in lab.seen(".kvm-modes"))
    stop.wait_for(state="hidden")
    assert lab.seen(".kvm-modes [role=status]") == before


CHARTS_INSIDE = """() => {
  const lab = document.querySelector('.kvm-modes').getBoundingClientRect()
  const drawn = '.kvm-chart svg, .kvm-chart text, .kvm-chart rect.bar, .kvm-modes select'
  return lab.right <= 900 && [...document.querySelectorAll(drawn)].every(one => {
    const box = one.getBoundingClientRect()
    return box.left >= lab.left - 1 && box.right <= lab.right + 1
  })
}"""
"""The table may scroll sideways; no chart, none of its words and no list may stick out."""


@pytest.mark.parametrize("theme", THEMES)
def test_seven_designs_are_drawn_and_priced_anew_without_running(open_notebook, theme):
    rows = compare(workloads.shipped("sort").head(RECORDS), DESIGNS)
    lab = open_notebook(CELL, theme=theme)
    lab.run_all()
    for mmu in DESIGNS:
        lab.page.get_by_role("checkbox", name=say(f"design.{mmu}"), exact=True).check()
    for model in ("graded", "boot-log"):
        if model != "graded":
            lab.page.get_by_label("Cost model", exact=True).select_option(value_of(model))
        priced = [replace(row, prices=model_named(model)) for row in rows]
        charts = figures.references(priced), figures.exits(priced), figures.cycles(priced)
        for number, chart in enumerate(charts):
            lab.until(lambda number=number, chart=chart: drawn_like(lab, number, chart))
        told = cells(lab)
        assert told["Cycles of walks and exits"] == [f"{row.cycles.total:,}" for row in priced]
        assert model in lab.seen(".kvm-modes caption")
        lab.shot(f"modes-{theme.lower()}-seven-{model}")
    lab.page.set_viewport_size({"width": 900, "height": 2000})
    lab.until(lambda: lab.page.evaluate(CHARTS_INSIDE))
    lab.shot(f"modes-{theme.lower()}-seven-narrow")


def value_of(model):
    """What the list of models calls ``model``."""
    return next(name for name, value in model_names() if value == model)
