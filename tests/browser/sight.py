"""What a careful eye would see on a lab's page: what sticks out, is too small, or is told twice.

Each function takes what `open_notebook` gives and the CSS selector of a lab.
"""

from kvmlab.labs.charts import RIGHT

STICKING_OUT = """css => {
  const lab = document.querySelector(css).getBoundingClientRect()
  const page = { left: lab.left, right: Math.min(lab.right, innerWidth) }
  const out = (one, whole) => {
    const box = one.getBoundingClientRect()
    return box.width && (box.left < whole.left - 1 || box.right > whole.right + 1)
  }
  const all = (inside) => [...document.querySelectorAll(`${css} :is(${inside})`)]
  const named = (one) => one.outerHTML.slice(0, 120)
  const drawn = (chart) => {
    const box = chart.getBoundingClientRect()  // bqplot draws anew once it is looked at
    const middle = [box.left + box.width / 2, box.top + box.height / 2]
    return chart.contains(document.elementFromPoint(...middle))
  }
  const words = all('.kvm-stage svg text, .bqplot svg text').filter(
    one => one.closest('.kvm-stage') || drawn(one.closest('.bqplot')))
  const narrow = all('.bqplot').filter(drawn).filter(one => {  // drawn for another width
    const plot = one.querySelector('.plotarea_background')
    const right = one.getBoundingClientRect().right - RIGHT
    return plot && Math.abs(plot.getBoundingClientRect().right - right) > 1
  })
  return [
    ...narrow,
    ...all('select, input, button, .kvm-stage, .bqplot').filter(one => out(one, page)),
    ...words.filter(one => out(one, one.ownerSVGElement.getBoundingClientRect())),
  ].map(named)
}""".replace("RIGHT", str(RIGHT))
SMALL = """css => [...document.querySelectorAll(`${css} .kvm-stage svg text`)].filter(one => {
  const svg = one.ownerSVGElement
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width
  return scale && parseFloat(getComputedStyle(one).fontSize) * scale < 10.9
}).map(one => one.outerHTML)"""
TWIN = """([css, caption]) => {
  const found = [...document.querySelectorAll(`${css} table`)].find(
    one => one.caption?.textContent === caption)
  return found && [...found.tBodies[0].rows].map(row => [...row.cells].map(one => one.textContent))
}"""


def assert_fits(lab, css):
    """Nothing sticks out of the lab, no word out of its drawing, and none is too small.

    A drawing that is wider than its place scrolls in it; its letters have 11 pixels at least.
    A chart fills its place.
    """
    for _ in range(60):  # bqplot draws anew for a new width, and takes its time
        found = [*lab.page.evaluate(STICKING_OUT, css), *lab.page.evaluate(SMALL, css)]
        if not found:
            return
        lab.page.wait_for_timeout(250)
    assert not found, "\n".join(found)


def assert_charts_are_told(lab, css, table):
    """Every bqplot chart is hidden from assistive technology, and ``table`` is there instead."""
    charts = lab.page.locator(f"{css} .bqplot")
    hidden = lab.page.locator(f"{css} .bqplot[aria-hidden=true]")
    lab.until(lambda: 0 < charts.count() == hidden.count())
    rows = [list(row) for row in table.rows]
    assert rows
    lab.until(lambda: lab.page.evaluate(TWIN, [css, table.caption]) == rows)
