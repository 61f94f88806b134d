"""`labs.balloon()` in JupyterLab: played by keyboard, its numbers are the engine's."""

import time

import pytest

from kvmlab.figures.balloon import balloon_curves
from kvmlab.study.inflation import Inflation
from kvmlab.study.inflation_beginning import Beginning, usual_plan
from kvmlab.study.share import share_string
from tests.browser.sight import assert_charts_are_told, assert_fits

CELL = "from kvmlab import labs\nlab = labs.balloon()\nlab"
LAB = ".kvmlab-balloon"
PLAYER = f"{LAB} .kvmlab-player"
STATUS = f"{LAB} .kvmlab-desk [role=status]"
TEXT = f"{LAB} .kvmlab-dommemstat"


def place(lab):
    return lab.seen(f"{PLAYER} .kvm-count")


def press(lab, key):
    """One key on the player, and the wait until it has moved."""
    before = place(lab)
    lab.page.locator(PLAYER).focus()
    lab.page.keyboard.press(key)
    lab.until(lambda: place(lab) != before)


def slide(lab, keys):
    """Move the target's slider by keyboard."""
    lab.page.locator(f"{LAB} .noUi-handle").first.focus()
    for key in keys:
        lab.page.keyboard.press(key)


def lines(lab):
    return lab.page.locator(TEXT).inner_text().strip()


@pytest.fixture(params=["Light", "Dark"])
def lab(open_notebook, request):
    opened = open_notebook(CELL, theme=request.param)
    opened.theme_name = request.param.lower()
    opened.run_all()
    opened.page.wait_for_selector(f"{PLAYER} svg")
    return opened


def test_it_is_played_by_keyboard_and_says_what_the_engine_says(lab):
    experiment = Inflation(Beginning())
    lab.until(lambda: lines(lab) == experiment.history[-1].stats.strip())
    lab.shot(f"balloon-{lab.theme_name}-begin", LAB)
    slide(lab, ["Home"])
    lab.until(lambda: "setmem vm1 1024" in lab.seen(f"{PLAYER} .kvm-sentence"))
    experiment.setmem(1024)
    press(lab, "ArrowRight")
    press(lab, "ArrowRight")  # the first buffer: a question
    choice = lab.page.locator(f"{PLAYER} .kvm-ask button").first
    assert "How much memory does the host get back" in lab.seen(f"{PLAYER} .kvm-ask")
    lab.shot(f"balloon-{lab.theme_name}-ask", LAB)
    choice.focus()
    lab.page.keyboard.press("Enter")
    buffer = next(one for one in experiment.moments if one.buffer)
    lab.until(lambda: f"actual {buffer.actual >> 10:,} KiB" in lab.seen(STATUS))
    lab.shot(f"balloon-{lab.theme_name}-buffer", LAB)
    press(lab, "ArrowLeft")
    lab.until(lambda: "actual 16,384 KiB" in lab.seen(STATUS))
    press(lab, "End")
    lab.page.locator(f"{PLAYER} .kvm-skip").press("Enter")
    lab.until(lambda: "Over-inflated" in lab.seen(STATUS))
    lab.until(lambda: lines(lab) == experiment.history[-1].stats.strip())  # the skip has arrived
    lab.shot(f"balloon-{lab.theme_name}-stalled", LAB)
    for selector in (f"{STATUS} div", TEXT, f"{PLAYER} .kvm-stage .kvm-value"):
        assert lab.contrast(selector) >= 4.5, selector
    assert_charts_are_told(lab, LAB, balloon_curves(experiment.history).table())
    lab.axe(LAB)


def test_controls_change_the_guest_in_a_moment_and_in_both_languages(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(f"{PLAYER} svg")
    lab.page.get_by_role("checkbox", name="Ask before telling").uncheck()
    took = []
    for target in (8, 9, 10):
        begin = time.monotonic()
        slide(lab, ["Home", *["ArrowRight"] * 7] if target == 8 else ["ArrowRight"])
        lab.until(lambda it=target: f"target {it << 10:,} kib" in lab.seen(STATUS).lower())
        took.append(time.monotonic() - begin)
    print("seconds from key to number:", [f"{one:.3f}" for one in took])
    lab.page.get_by_label("Host backs with", exact=True).select_option("hugetlbfs, 2M pages")
    lab.until(lambda: "hugetlbfs" in lab.seen(STATUS))
    assert "returned 0 KiB" in lab.seen(STATUS)
    before = lab.seen(f"{PLAYER} .kvm-stage")
    lab.page.get_by_role("button", name="Process takes 2 MiB").press("Enter")
    lab.until(lambda: lab.seen(f"{PLAYER} .kvm-stage") != before)
    lab.page.get_by_role("button", name="Undo").press("Enter")
    lab.until(lambda: lab.seen(f"{PLAYER} .kvm-stage") == before)
    lab.page.locator(f"{LAB} .kvmlab-desk summary").first.press("Enter")
    lab.shot("balloon-tables", LAB)
    lab.page.get_by_label("Language / 语言").select_option("中文")
    lab.until(lambda: "已归还 0 KiB" in lab.seen(STATUS))
    lab.shot("balloon-chinese", LAB)
    lab.page.set_viewport_size({"width": 900, "height": 1400})
    assert_fits(lab, LAB)
    lab.shot("balloon-narrow")
    lab.page.set_viewport_size({"width": 1600, "height": 1400})
    assert_fits(lab, LAB)
    lab.shot("balloon-wide")


def test_it_begins_again_from_its_share_string(open_notebook):
    plan = {**usual_plan(), "backing": "2M", "did": [["setmem", 4096]]}
    cell = f"from kvmlab import labs\nlabs.balloon(share={share_string('balloon', plan)!r})"
    lab = open_notebook(cell)
    lab.run_all()
    lab.page.wait_for_selector(f"{PLAYER} svg")
    assert "setmem vm1 4096" in lab.seen(f"{PLAYER} .kvm-sentence")
