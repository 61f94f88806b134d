"""What a learner can change in a lab, and how long it takes until all of it is seen."""

CONTROLS = """() => {
  const lab = document.querySelector('.kvmlab-lab')
  const labels = list => [...list.options].map(each => each.label)
  const kinds = {
    radio: ['input[type=radio]', () => ['']],
    tick: ['input[type=checkbox]', () => ['', '']],
    number: ['input[type=number]', one => [String(+one.value + 1), one.value]],
    slider: ['.noUi-handle', () => ['ArrowRight', 'ArrowLeft']],
    list: ['select', one => [...labels(one), labels(one)[one.selectedIndex]]],
    button: ['button', () => ['']],
  }
  const name = one => {
    const label = one.closest('.jupyter-widgets').querySelector('.widget-label')?.textContent ?? ''
    return `${label} ${one.closest('label, button')?.textContent ?? ''}`
  }
  const found = []
  for (const [kind, [css, choices]] of Object.entries(kinds))
    for (const one of lab.querySelectorAll(css)) {
      if (!one.offsetParent || one.disabled || one.closest('.kvmlab-player, .kvmlab-desk')) continue
      if (!one.closest('.jupyter-widgets')) continue
      one.dataset.place = found.length
      const others = choices(one).filter(each => !/own/.test(each))
      found.push({ kind, name: name(one), choices: others })
    }
  return found
}"""
"""The controls seen in a lab, its player and its tables left out, each with its choices in turn.

A list goes back to the choice that it had; that of a file of one's own is left out.
"""

SETTLED = """async ([place, kind, choice]) => {
  const lab = document.querySelector('.kvmlab-lab')
  const one = lab.querySelector(`[data-place="${place}"]`)
  if (!one?.offsetParent || one.disabled) return [0, 0]
  const numbers = '.kvmlab-desk, .kvm-stage, .bqplot, .kvmlab-notice'
  const near = node => (node.closest ? node : node.parentElement)?.closest(numbers)
  const work = () => [...lab.querySelectorAll('progress, .kvmlab-stop')]
  const busy = () => work().some(each => each.offsetParent)
  const start = performance.now()
  let first = 0, last = 0
  const watch = new MutationObserver(records => {
    if (!records.some(record => near(record.target))) return
    last = performance.now() - start
    first ||= last
  })
  watch.observe(lab, { subtree: true, childList: true, attributes: true, characterData: true })
  const tell = () => one.dispatchEvent(new Event('change', { bubbles: true }))
  if (kind === 'list') {
    one.selectedIndex = [...one.options].findIndex(each => each.label === choice)
    tell()
  } else if (kind === 'number') {
    one.value = choice
    tell()
  } else if (kind === 'slider') {
    one.dispatchEvent(new KeyboardEvent('keydown', { key: choice, bubbles: true }))
  } else one.click()
  const quiet = () => last && performance.now() - start - last > 300 && !busy()
  while (!quiet() && performance.now() - start < (last ? 20000 : 800))
    await new Promise(done => setTimeout(done, 50))
  watch.disconnect()
  return [first, last]
}"""
"""Choose in the control of this place: milliseconds to the first and the last of what is new.

Both are 0 where nothing changes, or the control is not there by now.
"""


def changes(page):
    """Make every choice of every control; yields its words and the two times of `SETTLED`.

    What a button did is undone after it, so that each meets the lab as it was.
    """
    controls = page.evaluate(CONTROLS)
    names = [control["name"].strip() for control in controls]
    undo = names.index("Undo")
    for place, control in enumerate(controls):
        for choice in control["choices"]:
            first, last = page.evaluate(SETTLED, [place, control["kind"], choice])
            yield f"{names[place]} {choice}", first, last
        if control["kind"] == "button" and names[place] not in ("Undo", "Redo"):
            yield f"Undo: {names[place]}", *page.evaluate(SETTLED, [undo, "button", ""])
