"""`labs.hugepages()` in JupyterLab: played by keyboard, its numbers are the engine's."""

import pytest

from kvmlab.figures.hugepages_words import latency_table, served_chart, served_table
from kvmlab.study.hugepages import HugePages, compared
from kvmlab.study.hugepages_beginning import Beginning, usual_plan
from kvmlab.study.share import share_string
from tests.browser.sight import assert_charts_are_told, assert_fits

CELL = "from kvmlab import labs\nlab = labs.hugepages()\nlab"
LAB = ".kvmlab-hugepages"
PLAYER = f"{LAB} .kvmlab-player"
STATUS = f"{LAB} .kvmlab-desk [role=status]"
SENTENCE = f"{PLAYER} .kvm-sentence"


def press(lab, key):
    """One key on the player, and the wait until it has moved."""
    before = lab.seen(f"{PLAYER} .kvm-count")
    lab.page.locator(PLAYER).focus()
    lab.page.keyboard.press(key)
    lab.until(lambda: lab.seen(f"{PLAYER} .kvm-count") != before)


def push(lab, name):
    """A button of the lab, by keyboard."""
    lab.page.get_by_role("button", name=name, exact=True).press("Enter")


@pytest.fixture(params=["Light", "Dark"])
def lab(open_notebook, request):
    opened = open_notebook(CELL, theme=request.param)
    opened.theme_name = request.param.lower()
    opened.run_all()
    opened.page.wait_for_selector(f"{PLAYER} svg")
    return opened


def test_it_is_played_by_keyboard_and_says_what_the_engine_says(lab):
    experiment = HugePages(Beginning())
    experiment.sparse()
    lab.shot(f"hugepages-{lab.theme_name}-begin", LAB)
    push(lab, "Use one page in each 2 MiB")
    lab.until(lambda: "about to write one page" in lab.seen(SENTENCE))
    press(lab, "ArrowRight")
    assert "How much has the host given" in lab.seen(f"{PLAYER} .kvm-ask")
    lab.until(lambda: "Used 0 KiB" in lab.seen(STATUS))
    lab.shot(f"hugepages-{lab.theme_name}-ask", LAB)
    lab.page.locator(f"{PLAYER} .kvm-ask button").first.press("Enter")
    lab.until(lambda: "Used 16 KiB" in lab.seen(STATUS))
    assert f"RSS {experiment.history[-1].rss >> 10:,} KiB" in lab.seen(STATUS)
    press(lab, "ArrowLeft")
    lab.until(lambda: "Used 0 KiB" in lab.seen(STATUS))
    press(lab, "End")
    lab.page.locator(f"{PLAYER} .kvm-skip").press("Enter")
    lab.until(lambda: "one 2M leaf maps" in lab.seen(SENTENCE))
    lab.shot(f"hugepages-{lab.theme_name}-leaf", LAB)
    for selector in (f"{STATUS} div", f"{PLAYER} .kvm-stage .kvm-value"):
        assert lab.contrast(selector) >= 4.5, selector
    lab.axe(LAB)


def test_controls_change_pages_and_cost_in_both_languages(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(f"{PLAYER} svg")
    lab.page.get_by_role("checkbox", name="Ask before telling").uncheck()
    lab.page.get_by_label("Guest maps with", exact=True).select_option("4K")
    push(lab, "Use all 8 MiB")
    lab.until(lambda: "Used 8,192 KiB" in lab.seen(STATUS))
    push(lab, "Answer requests")
    experiment = HugePages(Beginning(guest="4K"))
    experiment.fill()
    experiment.serve()
    served = experiment.history[-1].served
    lab.until(lambda: f"{served.misses:,} missed the TLB" in lab.seen(SENTENCE))
    assert f"costs {served.cycles:,} cycles" in lab.seen(SENTENCE)
    lab.page.wait_for_selector(f"{LAB} .bqplot")
    lab.shot("hugepages-served", LAB)
    rows = [*compared(Beginning().geometry), served]
    assert_charts_are_told(lab, LAB, served_table(served_chart(rows[:-1], served), rows))
    lab.page.get_by_label("Chart", exact=True).select_option("latency of a request")
    lab.until(lambda: "p90" in lab.seen(f"{LAB} .kvm-chart-head"))
    assert_charts_are_told(lab, LAB, latency_table(served_chart(rows[:-1], served), rows))
    lab.shot("hugepages-latency", LAB)
    push(lab, "Drop 4 KiB in use")
    lab.until(lambda: "nothing maps" in lab.seen(SENTENCE))
    push(lab, "Undo")
    lab.until(lambda: "missed the TLB" in lab.seen(SENTENCE))
    lab.page.locator(f"{LAB} .kvmlab-desk summary").first.press("Enter")
    lab.shot("hugepages-tables", LAB)
    lab.page.get_by_label("Language / 语言").select_option("中文")
    lab.until(lambda: "已用 8,192 KiB" in lab.seen(STATUS))
    lab.shot("hugepages-chinese", LAB)
    for width in (900, 1600):
        lab.page.set_viewport_size({"width": width, "height": 1400})
        assert_fits(lab, LAB)
        lab.shot(f"hugepages-{width}")


def test_it_begins_again_from_its_share_string(open_notebook):
    plan = {**usual_plan(), "offset": 4, "did": [["fill"]]}
    cell = f"from kvmlab import labs\nlabs.hugepages(share={share_string('hugepages', plan)!r})"
    lab = open_notebook(cell)
    lab.run_all()
    lab.page.wait_for_selector(f"{PLAYER} svg")
    assert "write to every page" in lab.seen(SENTENCE)
