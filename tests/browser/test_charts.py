"""A chart follows its place: drawn in a narrow window it grows with it, and shrinks again."""

import pytest

from kvmlab.labs.charts import RIGHT
from tests.browser.sight import assert_fits

CELLS = {
    ".kvmlab-modes": "from kvmlab import labs\nlabs.modes()",
    ".kvmlab-balloon": "from kvmlab import labs\nlabs.balloon()",
}
WIDTHS = """css => [...document.querySelectorAll(`${css} .bqplot.figure`)].map(one => {
  const [place, plot] = [one, one.querySelector('.plotarea_background')].map(
    part => part.getBoundingClientRect())
  return [place.right - plot.right, place.width]
})"""


@pytest.mark.parametrize("css", CELLS)
def test_a_chart_is_as_wide_as_its_place_whatever_the_window_does(open_notebook, css):
    lab = open_notebook(CELLS[css])
    lab.page.set_viewport_size({"width": 900, "height": 2000})
    lab.run_all()
    lab.page.wait_for_selector(f"{css} .bqplot.figure .plotarea_background")
    before = 0
    for width in (900, 1600, 800):
        lab.page.set_viewport_size({"width": width, "height": 2000})
        lab.page.locator(f"{css} .bqplot.figure").last.scroll_into_view_if_needed()  # or it waits
        lab.until(lambda was=before: follows(lab, css, was))  # 0.3 s after its place has changed
        before = lab.page.evaluate(WIDTHS, css)[0][1]
        assert_fits(lab, css)
        lab.shot(f"charts-{css[8:]}-{width}")


def follows(lab, css, before):
    """Whether the place of the charts has another width now, and each fills it."""
    found = lab.page.evaluate(WIDTHS, css)
    return all(place != before and round(right) == RIGHT for right, place in found)
