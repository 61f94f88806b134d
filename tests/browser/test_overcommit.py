"""`labs.overcommit()` in JupyterLab: a day played by keyboard, its numbers are the engine's."""

import time

import pytest

from kvmlab.figures.overcommit import memory_curves
from kvmlab.study.overcommit import HOURS, PAGE_MIB, Day, Setting
from tests.browser.sight import assert_charts_are_told, assert_fits

CELL = "from kvmlab import labs\nlab = labs.overcommit()\nlab"
LAB = ".kvmlab-overcommit"
PLAYER = f"{LAB} .kvmlab-player"
STATUS = f"{LAB} .kvmlab-desk [role=status]"


def place(lab):
    return lab.seen(f"{PLAYER} .kvm-count")


def press(lab, key):
    """One key on the player, and the wait until it has moved."""
    before = place(lab)
    lab.page.locator(PLAYER).focus()
    lab.page.keyboard.press(key)
    lab.until(lambda: place(lab) != before)


def whole(**chosen):
    day = Day(Setting(**chosen))
    for _tick in day.run():
        pass
    return day


def drawn(lab):
    """Wait for a day that is over."""
    lab.until(lambda: place(lab).endswith("of 25"))


@pytest.fixture(params=["Light", "Dark"])
def lab(open_notebook, request):
    opened = open_notebook(CELL, theme=request.param)
    opened.theme_name = request.param.lower()
    opened.run_all()
    opened.page.wait_for_selector(f"{PLAYER} svg")
    drawn(opened)
    return opened


def test_a_day_is_played_by_keyboard_with_the_numbers_of_the_engine(lab):
    day = whole()
    assert "How many does nova place" in lab.seen(f"{PLAYER} .kvm-ask")
    assert "Nova placed" not in lab.seen(STATUS)
    lab.shot(f"overcommit-{lab.theme_name}-ask", LAB)
    answer = lab.page.locator(f"{PLAYER} .kvm-ask button", has_text="11")
    answer.press("Enter")
    lab.until(lambda: "Nova placed 11 of 16" in lab.seen(STATUS))
    assert "Right" in lab.seen(f"{PLAYER} .kvm-ask")
    for _ in range(13):
        press(lab, "ArrowRight")
    thirteen = day.ticks[13]
    cell = lab.page.locator(f"{PLAYER} [data-text='n.free']")
    assert cell.text_content() == f"{thirteen.free * PAGE_MIB:,}"
    press(lab, "ArrowLeft")
    press(lab, "ArrowRight")
    press(lab, "ArrowRight")
    assert "What is the worst that happens" in lab.seen(f"{PLAYER} .kvm-ask")
    lab.page.locator(f"{PLAYER} .kvm-skip").press("Enter")
    lab.until(lambda: cell.text_content() == f"{day.ticks[14].free * PAGE_MIB:,}")
    lab.shot(f"overcommit-{lab.theme_name}-peak", LAB)
    press(lab, "End")
    out = sum(one.swap_out for one in day.ticks) * PAGE_MIB
    lab.until(lambda: f"{out:,} MiB out" in lab.seen(STATUS))
    for selector in (f"{STATUS} div", f"{PLAYER} .kvm-stage .kvm-value"):
        assert lab.contrast(selector) >= 4.5, selector
    assert_charts_are_told(lab, LAB, memory_curves(day.ticks).table(HOURS + 1))
    lab.axe(LAB)


def test_controls_change_the_day_and_names_are_text(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(f"{PLAYER} svg")
    lab.page.get_by_role("checkbox", name="Ask before telling").uncheck()
    handle = lab.page.locator(f"{LAB} .noUi-handle").first
    took = []
    for key, ratio in (("Home", "1"), ("ArrowRight", "1.1"), ("ArrowRight", "1.2")):
        begin = time.monotonic()
        handle.focus()
        lab.page.keyboard.press(key)
        lab.until(lambda it=ratio: f"× {it} =" in lab.seen(STATUS))
        took.append(time.monotonic() - begin)
    print("seconds from key to number:", [f"{one:.3f}" for one in took])
    handle.focus()
    lab.page.keyboard.press("End")
    day = whole(ratio=3.0)
    killed = sum(len(one.killed) for one in day.ticks)
    lab.until(lambda: f"{killed} VMs were killed" in lab.seen(STATUS))
    drawn(lab)
    lab.page.get_by_label("Names, with commas").fill("<img src=x onerror=alert(1)>, b")
    lab.page.keyboard.press("Enter")
    lab.until(
        lambda: "<img src=x" in lab.page.locator(f"{PLAYER} .kvm-stage svg").first.text_content()
    )
    assert lab.page.locator(f"{LAB} img").count() == 0
    drawn(lab)
    lab.page.locator(f"{LAB} .kvmlab-desk summary").first.press("Enter")
    lab.shot("overcommit-killed", LAB)
    lab.page.get_by_label("Chart", exact=True).select_option("swap traffic")
    lab.until(lambda: "Swap traffic through" in lab.seen(f"{LAB} .kvm-chart-head"))
    lab.page.get_by_label("Language / 语言").select_option("中文")
    lab.until(lambda: "Nova 放置了" in lab.seen(STATUS))
    lab.shot("overcommit-chinese", LAB)
    lab.page.set_viewport_size({"width": 900, "height": 1400})
    assert_fits(lab, LAB)
    lab.shot("overcommit-narrow")
    lab.page.set_viewport_size({"width": 1600, "height": 1400})
    assert_fits(lab, LAB)
    lab.shot("overcommit-wide")
