"""Pages that stand alone, in a real browser: drawn, quiet, and readable in both themes."""

import pytest

from kvmlab import workloads
from kvmlab.figures.crossover import crossover_page
from kvmlab.figures.sweep import charts, sweep_page
from kvmlab.study.costs import GRADED
from kvmlab.study.crossover import Plan, crossover
from kvmlab.study.grid import Axes
from kvmlab.study.results import results
from kvmlab.study.sweep import sweep
from kvmlab.workloads.steady import Steady

CONTRAST = """(nodes) => nodes.map((node) => {
  const light = (text) => {
    const part = text.match(/[\\d.]+/g).map((n) => n / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const under = node.matches(".letter") ? node.previousElementSibling : document.body;
  const style = getComputedStyle(under);
  const back = light(node.matches(".letter") ? style.fill : style.backgroundColor);
  const own = getComputedStyle(node);
  const front = light(node instanceof SVGElement ? own.fill : own.color);
  return (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
})"""


@pytest.fixture(scope="module")
def pages():
    """The page of a sweep and that of a crossing, and how many drawings each has."""
    axes = Axes(mmus=("native", "shadow", "ept", "agile"), guest_pages=("4K", "2M"))
    outcome = sweep([workloads.shipped("ls").head(3000)], axes, jobs=1)
    array = results(outcome)
    plan = Plan("remaps", 0, 8, Steady(pages=64), tlb="16x4", walk_caches="on", rounds=1)
    return {
        "sweep": (sweep_page(array, outcome, [GRADED]), len(charts(array))),
        "crossover": (crossover_page(crossover(plan)), 1),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["sweep", "crossover"])
def test_a_page_is_drawn_without_a_word_to_the_network(browser, tmp_path, pages, name, scheme):
    text, drawings = pages[name]
    path, trouble = tmp_path / "page.html", []
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(viewport={"width": 1000, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: trouble.append(message.text))
    page.on("request", lambda r: trouble.append(r.url) if r.url != path.as_uri() else None)
    page.goto(path.as_uri())

    assert page.locator("svg").count() == drawings
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("details table").first.is_visible() is False
    page.locator("summary").first.click()
    assert page.locator("details table").first.is_visible()
    words = page.locator("p, td, th, figcaption, summary, svg text").evaluate_all(CONTRAST)
    assert min(words) >= 4.5  # WCAG AA
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 17, 17)"}[scheme]
    assert trouble == []
    context.close()
