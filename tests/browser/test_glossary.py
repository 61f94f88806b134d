"""`labs.glossary()` in JupyterLab: a term is looked for by keyboard, in both languages."""

import pytest

from kvmlab.figures.glossary import matching
from kvmlab.text import speaking
from tests.browser.sight import assert_fits

LAB = ".kvmlab-glossary"
TERMS = f"{LAB} .kvm-glossary dt"


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_a_term_is_found_by_keyboard_in_both_languages(open_notebook, theme):
    lab = open_notebook("from kvmlab import labs\nlabs.glossary()", theme=theme)
    lab.run_all()
    lab.page.wait_for_selector(TERMS)
    terms = lab.page.locator(TERMS)
    assert terms.count() == len(matching(""))
    lab.page.get_by_label("Find", exact=True).focus()
    lab.page.keyboard.type("balloon")
    found = [one.term for one in matching("balloon")]
    lab.until(lambda: terms.all_text_contents() == found)
    assert found[0].casefold().startswith("balloon")
    assert str(len(found)) in lab.seen(f"{LAB} [role=status]")
    lab.ask_axe(lab.page, LAB)
    assert_fits(lab, LAB)
    lab.shot(f"glossary-{theme.lower()}", LAB)
    # JupyterLab takes the arrow keys of a list; labs with a player keep them (labs/picture.js).
    lab.page.get_by_label("Language / 语言", exact=True).select_option("中文")
    find = lab.page.get_by_label("查找", exact=True)
    find.press("Control+a")
    lab.page.keyboard.insert_text("气球")
    with speaking("zh"):
        chinese = [one.term for one in matching("气球")]
    lab.until(lambda: terms.all_text_contents() == chinese)
    assert chinese
    lab.ask_axe(lab.page, LAB)
    lab.page.set_viewport_size({"width": 900, "height": 1000})
    assert_fits(lab, LAB)
    lab.shot(f"glossary-{theme.lower()}-chinese", LAB)
    find.fill("<b>nothing")
    lab.until(lambda: terms.count() == 0)
    assert "<b>nothing" in lab.seen(f"{LAB} [role=status]")
    assert lab.trouble == []
