"""What the player does for charts: saved as pictures, and hidden where a table tells the same."""

import re
from xml.etree import ElementTree as ET

import pytest

from kvmlab.text import say

CELL = "from kvmlab import labs\nlab = labs.modes(records=2000)\nlab"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=["Light", "Dark"])
def lab(open_notebook, request):
    """A lab with charts, drawn, of which one may be saved."""
    opened = open_notebook(CELL, theme=request.param)
    opened.theme_name = request.param.lower()
    opened.run_all()
    opened.page.wait_for_selector(".kvm-chart rect.bar", state="attached")
    opened.page.wait_for_selector(".kvm-chart .kvm-saver")
    return opened


def saved(lab, kind):
    """The file that the first chart's button of that ``kind`` saves, pressed by keyboard."""
    button = lab.page.locator(".kvm-chart").first.get_by_role("button", name=f"Save as {kind}")
    with lab.page.expect_download() as found:
        button.press("Enter")
    path = lab.shots / f"chart-{lab.theme_name}.{kind.lower()}"
    found.value.save_as(path)
    return path


def test_a_chart_is_saved_with_title_legend_and_numbers_in_light_colours(lab):
    text = saved(lab, "SVG").read_text(encoding="utf-8")
    svg = ET.fromstring(text)  # noqa: S314  our own
    said = ["".join(one.itertext()) for one in svg.iter(f"{SVG}text")]
    chart = lab.page.locator(".kvm-chart").first
    ticks = chart.locator(".axis").first.locator(".tick text").all_text_contents()

    assert said[0] == say("modes.references.title")
    assert {*ticks, say("modes.table.ept"), say("modes.references.axis")} <= set(said)
    assert len(ticks) == 3
    assert not re.search(r"var\(|class=|style=|<script|href", text)
    assert "rgb(213, 94, 0)" in text  # as on light paper, whatever the theme
    greys = set(re.findall(r'fill="rgb\((\d+), \1, \1\)"', text))
    assert greys <= {"0", "31", "95", "255"}  # never the paper of the dark theme
    assert saved(lab, "PNG").read_bytes().startswith(b"\x89PNG")
    assert lab.page.locator(".kvm-paper").count() == 0


def test_a_chart_is_hidden_from_those_who_hear_and_its_table_is_not(lab):
    figures = lab.page.locator(".bqplot")
    lab.until(lambda: figures.count() == 2)
    lab.until(lambda: lab.page.locator(".bqplot[aria-hidden=true]").count() == 2)
    lab.page.locator(".kvmlab-desk summary").first.click()
    told = lab.page.locator(".kvmlab-lab").first.aria_snapshot()
    assert "913" in told  # references under EPT, which the table has and the chart drew
    assert "img" not in told
    lab.axe()
