"""`labs.spaces()` in JupyterLab: a page chosen, followed and moved by keyboard."""

import re

from kvmlab import labs
from tests.browser.sight import assert_fits

CELL = "from kvmlab import labs\nlab = labs.spaces()\nlab"
PLAYER = ".kvmlab-spaces .kvmlab-player"


def sentence(lab):
    return lab.seen(f"{PLAYER} .kvm-sentence")


def status(lab):
    return lab.seen(".kvmlab-spaces .kvmlab-desk [role=status]")


def answer(lab, words):
    """Answer the open question; what is said to it."""
    lab.page.locator(f"{PLAYER} .kvm-ask button").get_by_text(words, exact=True).focus()
    lab.page.keyboard.press("Enter")
    lab.until(lambda: lab.page.locator(f"{PLAYER} .kvm-ask p").count() == 1)
    return lab.seen(f"{PLAYER} .kvm-ask p")


def press(lab, name):
    lab.page.get_by_role("button", name=name, exact=True).focus()
    lab.page.keyboard.press("Enter")


def step(lab, key, words):
    lab.page.keyboard.press(key)
    lab.until(lambda: words in lab.seen(f"{PLAYER} .kvm-ask") or words in sentence(lab))


def test_a_page_is_followed_and_moved_by_keyboard(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(f"{PLAYER} .kvm-stage svg")
    own = labs.spaces()
    trail = own.trail
    lab.page.locator(PLAYER).focus()
    step(lab, "ArrowRight", "at which GPA")
    lab.shot("spaces-light-asked", ".kvmlab-spaces")
    lab.axe()
    assert "not the same in two spaces" in answer(lab, hex(trail.address))
    assert f"at GPA {trail.gpa[0]:#x}" in sentence(lab)
    step(lab, "ArrowRight", "at which HVA")
    assert "Right" in answer(lab, hex(trail.hva[0]))
    step(lab, "ArrowRight", "at which HPA")
    assert "Right" in answer(lab, hex(trail.hpa[0]))
    lab.shot("spaces-light-hpa", ".kvmlab-spaces")
    step(lab, "ArrowLeft", "is in memslot 0")

    press(lab, "Migrate")
    own.do("migrate", hex(trail.hva[0]))
    lab.until(lambda: "others than before" in lab.seen(f"{PLAYER} .kvm-ask"))
    assert answer(lab, "GPA + HVA + HPA").startswith("Only the guest's kernel")
    assert sentence(lab) == own.player.scene["steps"][0]["sentence"]
    lab.shot("spaces-light-migrated", ".kvmlab-spaces")
    lab.page.locator(f"{PLAYER} [data-key='hpa.{own.trail.hpa[0] & -4096:#x}']").press("Enter")
    own.choose("hpa", own.trail.hpa[0] & -4096)
    lab.until(lambda: status(lab) == own._facts()[0])
    lab.page.get_by_label("Ask before telling").uncheck()
    own.predict.value = False
    lab.until(lambda: status(lab) == own._facts()[0])
    assert f"GPA {own.trail.gpa[0]:#x}" in status(lab)
    drawn = lab.page.locator(f"{PLAYER} .kvm-stage .kvm-el")
    assert drawn.count() == len(re.findall("kvm-el", own.player.scene["svg"]))
    for name, verb in (("Merge (KSM)", "merge"), ("Fork", "fork")):
        press(lab, name)
        own.do(verb)
        lab.until(lambda: status(lab) == own._facts()[0])
    press(lab, "Undo")
    lab.until(lambda: "forked" not in status(lab))
    press(lab, "Redo")
    lab.until(lambda: lab.page.locator(".kvmlab-spaces option", has_text="child1").count() == 1)
    lab.theme("Dark")
    lab.page.get_by_text("The numbers as tables").click()
    lab.shot("spaces-dark-forked", ".kvmlab-spaces")
    lab.axe()
    for width in (900, 1600):
        lab.page.set_viewport_size({"width": width, "height": 1400})
        assert_fits(lab, ".kvmlab-spaces")
        lab.shot(f"spaces-{width}")
    lab.page.get_by_label("Language / 语言").select_option("中文")
    lab.until(lambda: lab.page.get_by_role("button", name="迁移").count() == 1)
    assert_fits(lab, ".kvmlab-spaces")
    lab.shot("spaces-chinese", ".kvmlab-spaces")
