"""`labs.ask()` in JupyterLab: answered by keyboard, nothing sticks out, axe is content."""

import pytest

from kvmlab import course

STATUS = ".kvmlab-ask .kvmlab-status"
INSIDE = """() => {
  const lab = document.querySelector('.kvmlab-ask').getBoundingClientRect()
  const css = ['button', 'input', 'p'].map(name => `.kvmlab-ask ${name}`).join()
  const parts = [...document.querySelectorAll(css)]
  return lab.right <= innerWidth && parts.map(one => one.getBoundingClientRect()).filter(
    box => box.width).every(box => box.left >= lab.left - 1 && box.right <= lab.right + 1)
}"""


def cell(kind):
    return f"from kvmlab import labs\nlab = labs.ask('{kind}')\nlab"


@pytest.fixture
def opened(open_notebook):
    def start(kind, theme):
        lab = open_notebook(cell(kind), theme=theme)
        lab.run_all()
        lab.page.wait_for_selector(".kvmlab-ask button")
        return lab, course.question(kind)

    return start


def press(lab, name):
    lab.page.get_by_role("button", name=name, exact=True).focus()
    lab.page.keyboard.press("Enter")


def test_a_number_is_typed_judged_and_mended(opened):
    lab, question = opened("ept.references", "Light")
    field = lab.page.get_by_label("Answer", exact=True)
    wrong = next(iter(question.wrong.values()))
    field.fill(str(wrong))
    field.press("Enter")
    lab.until(lambda: f"Not {wrong} references" in lab.seen(STATUS))
    press(lab, "Hint")
    lab.until(lambda: question.hints[0][:40] in lab.seen(STATUS))
    field.fill(str(question.answer))
    field.press("Enter")
    lab.until(lambda: "Right: " in lab.seen(STATUS))
    press(lab, "Show the solution")
    lab.until(lambda: "24. EPT PTE" in lab.seen(STATUS) or question.answer < 24)
    lab.until(lambda: f"Answer: {question.solution}" in lab.seen(STATUS))
    assert lab.page.evaluate(INSIDE)
    lab.axe(".kvmlab-ask")
    lab.shot("ask-light-number", ".kvmlab-ask")


def test_an_option_is_chosen_by_keyboard_in_chinese(opened):
    lab, question = opened("slot.largest", "Dark")
    lab.page.get_by_label("Language / 语言", exact=True).select_option(index=1)
    lab.until(lambda: lab.page.get_by_role("button", name="检查", exact=True).count() == 1)
    lab.settle()  # the options come anew after the buttons
    lab.page.get_by_role("radio", name=question.solution).focus()
    lab.page.keyboard.press("Space")
    press(lab, "检查")
    lab.until(lambda: "正确" in lab.seen(STATUS))
    assert lab.page.evaluate(INSIDE)
    lab.axe(".kvmlab-ask")
    lab.shot("ask-dark-choice", ".kvmlab-ask")
