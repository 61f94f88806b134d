"""The labs in Chinese: chosen by keyboard, at once, with nothing lost."""

import pytest

WALK = "from kvmlab import labs\nlab = labs.walk()\nlab"
MODES = "from kvmlab import labs\nlab = labs.modes(records=2000)\nlab"
LANGUAGE = "Language / 语言"


def choose_chinese(lab):
    """By keyboard: the list of languages has the focus, and its next entry is Chinese."""
    control = lab.page.get_by_label(LANGUAGE, exact=True)
    control.focus()
    lab.page.keyboard.press("ArrowDown")
    lab.page.keyboard.press("Tab")


def facts(lab):
    """What is said of the walk, shown already or, while it is asked for, not yet."""
    return lab.page.locator(".kvmlab-desk [role=status]").text_content()


@pytest.fixture(params=["Light", "Dark"])
def opened(open_notebook, request):
    def start(cell, wanted):
        lab = open_notebook(cell, theme=request.param)
        lab.theme_name = request.param.lower()
        lab.run_all()
        lab.page.wait_for_selector(wanted)
        return lab

    return start


def test_the_walk_goes_on_in_chinese(opened):
    lab = opened(WALK, ".kvmlab-player svg")
    lab.page.locator(".kvmlab-player").focus()
    for _ in range(3):
        lab.page.keyboard.press("ArrowRight")
    lab.until(lambda: "4" in lab.seen(".kvmlab-player .kvm-count"))
    choose_chinese(lab)
    lab.until(lambda: "引用" in facts(lab))
    lab.until(lambda: "第 4 步" in lab.seen(".kvmlab-player .kvm-count"))
    assert lab.page.get_by_label("客户机级数", exact=True).count() == 1
    assert "CPU" in lab.seen(".kvmlab-player .kvm-sentence")
    lab.page.get_by_role("radio", name="原生分页", exact=True).check()
    lab.until(lambda: "4 次引用" in facts(lab))
    lab.shot(f"walk-{lab.theme_name}-chinese", ".kvmlab-walk")


def test_the_comparison_is_told_in_chinese(opened):
    lab = opened(MODES, ".kvm-chart svg")
    choose_chinese(lab)
    lab.until(lambda: "引用最多" in facts(lab))
    lab.until(lambda: lab.page.get_by_label("影子策略", exact=True).count() == 1)
    lab.page.get_by_label("影子策略", exact=True).select_option(index=3)
    caption = lab.page.locator(".kvmlab-desk caption").first
    lab.until(lambda: "Linux 6.1" in caption.text_content())
    lab.shot(f"modes-{lab.theme_name}-chinese", ".kvm-modes")
