"""`labs.modes()` in JupyterLab: what is toggled is redrawn, with the engine's numbers."""

import re

import pytest

from kvmlab import workloads
from kvmlab.figures import crossing
from kvmlab.figures import modes as figures
from kvmlab.labs.charts import names
from kvmlab.study.compare import compare
from kvmlab.study.comparison import Comparison, usual_plan
from kvmlab.study.costs import model_named
from kvmlab.study.crossing import CALM
from kvmlab.text import say
from tests.browser.sight import assert_charts_are_told

RECORDS = 20_000
CELL = f"from kvmlab import labs\nlab = labs.modes(records={RECORDS})\nlab"
FACTS = ".kvmlab-desk [role=status]"
THEMES = ["Light", "Dark"]


@pytest.fixture(scope="module")
def rows():
    """What the engine counts, by design."""
    return {row.mmu: row for row in compare(workloads.shipped("sort").head(RECORDS))}


DRAWN = """chart => [
  [...chart.querySelectorAll('rect.bar')].map(bar => Number(bar.getAttribute('width'))),
  [...chart.querySelector('.axis').querySelectorAll('.tick text')].map(one => one.textContent)
]"""
"""How wide each piece of each bar is drawn, in pixels, and the names: of one moment."""


CELLS = """table => Object.fromEntries([...table.querySelectorAll('tbody tr')].map(row =>
  [row.querySelector('th').textContent, [...row.querySelectorAll('td')].map(one => one.textContent)]
))"""


def cells(lab):
    """The cells of the table twin by the name of their row."""
    return lab.page.locator(".kvm-modes-table").first.evaluate(CELLS)


def opened_lab(open_notebook, theme="Light", cell=CELL):
    """The lab of a learner who is not asked first."""
    lab = open_notebook(cell, theme=theme)
    lab.run_all()
    lab.page.wait_for_selector(".kvm-chart rect.bar", state="attached")
    lab.page.get_by_role("checkbox", name="Ask before telling", exact=True).uncheck()
    lab.until(lambda: not lab.page.locator(".kvm-asks").count())
    return lab


def show(lab, mmus):
    """Choose these designs, by mouse."""
    for mmu in ("native", "shadow", "ept"):
        name = say(f"design.{mmu}")
        lab.page.get_by_role("checkbox", name=name, exact=True).set_checked(mmu in mmus)


def drawn_like(lab, chart):
    """Whether the bars, and the totals in their names, are those of ``chart``."""
    pieces = [series.values[bar] for bar in range(len(chart.bars)) for series in chart.series]
    found, ticks = lab.page.locator(".kvm-chart").first.evaluate(DRAWN)
    scale = sum(found) / max(sum(pieces), 1)
    told = [re.sub(r"\s+", " ", one) for one in ticks]
    return (
        sorted(told) == sorted(re.sub(r"\s+", " ", one) for one in names(chart))
        and len(found) == len(pieces)
        and all(abs(a - b * scale) < 1 for a, b in zip(found, pieces, strict=True))
    )


@pytest.mark.parametrize("theme", THEMES)
def test_toggling_a_design_redraws_with_the_numbers_of_the_engine(open_notebook, rows, theme):
    lab = opened_lab(open_notebook, theme)
    for mmus in (("shadow", "ept"), ("shadow",), ("native", "shadow", "ept")):
        chosen = [rows[mmu] for mmu in mmus]
        show(lab, mmus)
        for name, chart in figures.CHARTS.items():
            lab.page.get_by_label("Chart", exact=True).select_option(say(f"modes.chart.{name}"))
            lab.until(lambda chart=chart, chosen=chosen: drawn_like(lab, chart(chosen)))
        told = {
            "References": [f"{row.total.all_references:,}" for row in chosen],
            "VM exits": [f"{row.total.all_exits:,}" for row in chosen],
        }  # which come a message after the chart
        lab.until(lambda told=told: told.items() <= cells(lab).items())
        lab.until(lambda chosen=chosen: figures.sentence(chosen) in lab.seen(FACTS))
    lab.until(lambda: lab.page.locator(".bqplot[aria-hidden=true]").count() == 2)
    assert_charts_are_told(lab, ".kvm-modes", figures.table(list(rows.values())))
    lab.axe()
    text = (".kvm-chart-head strong", ".kvm-chart text.axislabel", ".kvm-chart .tick text")
    for selector in text:
        assert lab.contrast(selector) >= 4.5, selector
    lab.shot(f"modes-{theme.lower()}", ".kvm-modes")


def test_the_first_traps_are_stepped_by_keyboard_and_asked_about(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    player = lab.page.locator(".kvmlab-player")
    player.wait_for()
    lab.until(lambda: "most VM exits" in lab.seen(".kvm-ask fieldset"))
    assert lab.seen(FACTS) == ""
    player.get_by_role("button", name="EPT", exact=True).press("Enter")
    lab.until(lambda: "EPT has" in lab.seen(".kvm-ask"))
    lab.page.keyboard.press("ArrowRight")
    lab.until(lambda: "What does KVM do?" in lab.seen(".kvm-ask fieldset"))
    player.get_by_role("button", name="hands the #PF on to the guest").press("Enter")
    lab.until(lambda: lab.seen(".kvm-sentence").startswith("Trap 1"))
    lab.shot("modes-trap", ".kvm-modes")
    lab.axe()
    for _ in range(6):
        lab.page.keyboard.press("ArrowRight")
        lab.page.get_by_role("button", name="Skip").press("Enter")
    lab.until(lambda: lab.seen(".kvm-sentence").startswith("Trap 7"))
    lab.shot("modes-traps", ".kvm-modes")
    lab.page.keyboard.press("ArrowLeft")
    lab.until(lambda: lab.seen(".kvm-sentence").startswith("Trap 6"))


def test_the_learner_finds_a_crossing_by_keyboard(open_notebook):
    lab = opened_lab(open_notebook)
    slider = lab.page.locator(".noUi-handle")
    assert slider.get_attribute("aria-label") == say("modes.control.calm")
    slider.focus()
    plan, run = usual_plan(), Comparison()
    tried = plan["tried"]
    for calm in CALM[CALM.index(plan["calm"]) + 1 :][:3]:
        lab.page.keyboard.press("ArrowRight")
        tried = [*tried, calm]
        cycles = run.cycles(tried, model_named(plan["costs"]))
        assert_charts_are_told(lab, ".kvm-modes", crossing.curves(cycles, tried).table())
    assert "changed between" in lab.seen(FACTS)
    lab.shot("modes-crossing", ".kvm-modes")


def test_nothing_sticks_out_of_a_narrow_page(open_notebook):
    lab = opened_lab(open_notebook)
    lab.page.set_viewport_size({"width": 900, "height": 2000})
    lab.until(lambda: lab.page.evaluate(OUTSIDE) == [])  # bqplot draws anew for the new width
    lab.shot("modes-narrow", ".kvm-modes")


OUTSIDE = """() => {
  const lab = document.querySelector('.kvm-modes').getBoundingClientRect()
  const drawn = '.kvm-chart svg, .kvm-chart text, .kvm-chart rect.bar, .kvm-modes select'
  return [...document.querySelectorAll(drawn)].filter(one => {
    const box = one.getBoundingClientRect()
    return box.width && (box.left < lab.left - 1 || box.right > Math.min(lab.right, 900) + 1)
  }).map(one => one.outerHTML.slice(0, 80))
}"""


SLOWLY = """import asyncio
from kvmlab.labs import modes_lab

async def slowly(job):
    for _ in job:
        await asyncio.sleep(1)

modes_lab._in_slices = slowly
"""
"""A machine on which every run is long: on a quick one there is no time to stop a million."""


def test_a_bad_file_is_told_and_a_long_run_can_be_stopped(open_notebook, tmp_path):
    lab = opened_lab(open_notebook, cell=SLOWLY + CELL)
    before = lab.seen(FACTS)
    lab.page.get_by_label("Trace", exact=True).select_option("a file of my own")
    lab.page.get_by_role("textbox", name="File", exact=True).fill(str(tmp_path / "absent"))
    lab.page.keyboard.press("Enter")
    lab.until(lambda: "cannot be opened" in lab.seen(".kvm-modes [role=alert]"))
    assert lab.seen(FACTS) == before
    lab.shot("modes-bad-file", ".kvm-modes")
    lab.page.get_by_label("Trace", exact=True).select_option("sort")
    lab.page.get_by_label("Records", exact=True).select_option("all")
    stop = lab.page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for()
    lab.until(lambda: "of 1,025,292 accesses" in lab.seen(".kvm-modes"))
    stop.click()
    lab.until(lambda: "Stopped" in lab.seen(".kvm-modes"))
    stop.wait_for(state="hidden")
    assert lab.seen(FACTS) == before
