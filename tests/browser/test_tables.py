"""`labs.tables()` in JupyterLab: built, edited and tried by keyboard; numbers are the engine's."""

import re

from kvmlab import labs
from tests.browser.sight import assert_fits

CELL = "from kvmlab import labs\nlab = labs.tables()\nlab"
TREE = ".kvmlab-tables .kvmlab-player >> nth=0"
BITS = ".kvmlab-bits .kvmlab-player"


def sentence(lab):
    return lab.seen(f"{TREE} >> .kvm-sentence")


def answer(lab, words):
    """Answer the open question; what is said to it."""
    button = lab.page.locator(f"{TREE} >> .kvm-ask button", has_text=words)
    button.focus()
    lab.page.keyboard.press("Enter")
    lab.until(lambda: lab.page.locator(f"{TREE} >> .kvm-ask p").count() == 1)
    return lab.seen(f"{TREE} >> .kvm-ask p")


def type_into(lab, label, text):
    field = lab.page.get_by_label(label, exact=True)
    field.fill(text)
    field.press("Enter")


def press(lab, name):
    lab.page.get_by_role("button", name=name, exact=True).focus()
    lab.page.keyboard.press("Enter")


def status(lab):
    return lab.seen(".kvmlab-tables .kvmlab-desk [role=status]")


def test_tables_are_built_and_tried_by_keyboard(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(f"{BITS} .kvm-stage svg")
    own = labs.tables()
    assert "which fault" in lab.seen(f"{TREE} >> .kvm-ask legend")
    assert "a right is missing" in own.player.scene["steps"][1]["ask"]["choices"][2]
    lab.shot("tables-light-asked", ".kvmlab-tables")
    lab.axe()
    assert answer(lab, "not present").startswith("Every entry has P = 1")
    lab.page.locator(TREE).focus()
    lab.page.keyboard.press("End")
    lab.until(lambda: "error code" in lab.seen(f"{TREE} >> .kvm-ask legend"))
    assert answer(lab, "0x7").startswith("Right")
    assert "0x7: P + W/R + U/S" in sentence(lab)
    lab.shot("tables-light-code", ".kvmlab-tables")
    lab.page.keyboard.press("ArrowLeft")
    lab.until(lambda: "maps the page" in sentence(lab))

    type_into(lab, "GVA", "0x601000")
    type_into(lab, "Pages", "5")
    press(lab, "Map")
    own.do("map", "0x601000", 5, "4K", "", "wu")
    lab.until(lambda: status(lab) == " ".join(own._facts()))
    drawn = lab.page.locator(f"{TREE} >> .kvm-stage .kvm-el").count()
    assert drawn == len(re.findall("kvm-el", own.player.scene["svg"]))

    bit = lab.page.locator(f"{BITS} [data-key='bit.1']")
    bit.focus()
    lab.page.keyboard.press("Enter")
    own.do("flip", 1, "0x400000", 1, True)
    lab.until(lambda: status(lab) == " ".join(own._facts()))
    lab.until(lambda: bit.get_attribute("data-lit") == "used")
    assert bit.evaluate("one => one === document.activeElement")
    press(lab, "Try")
    lab.until(lambda: "which fault" in lab.seen(f"{TREE} >> .kvm-ask legend"))
    lab.page.get_by_label("Ask before telling").uncheck()
    lab.until(lambda: "It arrives" in sentence(lab))
    press(lab, "Undo")
    lab.until(lambda: "The last change wrote 1 entry" in status(lab))
    lab.shot("tables-light-edited", ".kvmlab-tables")
    lab.page.get_by_label("Dump").check()
    lab.until(lambda: lab.page.locator(".kvmlab-dump").count() == 1)
    assert lab.page.locator(".kvmlab-dump").inner_text().strip() == own.dump.strip()
    lab.theme("Dark")
    lab.shot("tables-dark-dump", ".kvmlab-tables")
    lab.until(lambda: lab.contrast(f"{TREE} >> .kvm-stage .kvm-mono") >= 4.5)  # colours glide
    lab.axe()


def test_it_fits_900_pixels_and_speaks_chinese(open_notebook):
    lab = open_notebook(CELL)
    lab.run_all()
    lab.page.wait_for_selector(f"{BITS} .kvm-stage svg")
    for width in (900, 1600):
        lab.page.set_viewport_size({"width": width, "height": 1400})
        assert_fits(lab, ".kvmlab-tables")
        lab.shot(f"tables-{width}")
    lab.page.get_by_label("Language / 语言").select_option("中文")
    lab.until(lambda: "P = 1" not in sentence(lab) and "4K" in status(lab))
    lab.page.get_by_label("客户机页表级数").select_option("5")
    lab.until(lambda: "L5 PML5E" in lab.page.locator(f"{TREE} >> .kvm-stage").inner_text())
    assert lab.page.get_by_role("button", name="保存为 SVG").count() == 2
    assert_fits(lab, ".kvmlab-tables")
    lab.shot("tables-chinese", ".kvmlab-tables")
