"""`labs.walk()` in JupyterLab: stepped by keyboard, with every reference in the page."""

import pytest

from tests.browser.sight import assert_fits

FACTS = ".kvmlab-desk [role=status]"
CELL = "from kvmlab import labs\nlab = labs.walk()\nlab"
PLAYER = ".kvmlab-player"
NUMBERS = f"{PLAYER} .kvm-twin tbody tr td:first-child, {PLAYER} .kvm-twin tbody tr th:first-child"
CELLS = (
    f"{PLAYER} [data-key^='ept.'][data-lit], {PLAYER} [data-key^='guest.'][data-lit], "
    f"{PLAYER} [data-key^='shadow.'][data-lit]"
)


NAMES = {"native": "native paging", "shadow": "shadow paging", "EPT": "EPT"}
ASK = f"{PLAYER} .kvm-ask fieldset"


def references(lab):
    """The numbers in the first column of the table: one for each reference."""
    found = lab.page.locator(NUMBERS).all_text_contents()
    return [int(text) for text in found if text.isdigit()]


def drawn_tables(lab):
    """Whose entries the figure draws: it tells one design from the next, as counts do not."""
    cell = f"{PLAYER} .kvm-stage [data-key^='{{}}.L']"
    found = {one for one in ("guest", "shadow") if lab.page.locator(cell.format(one)).count()}
    return found | ({"ept"} if lab.page.locator(cell.format("ept.data")).count() else set())


def place(lab):
    return lab.seen(f"{PLAYER} .kvm-count")


def step_to(lab, words):
    """Step forward from the first step until a sentence has these words."""
    lab.page.locator(PLAYER).focus()
    lab.page.keyboard.press("Home")
    while words not in lab.seen(f"{PLAYER} .kvm-sentence"):
        before = place(lab)
        lab.page.keyboard.press("ArrowRight")
        lab.until(lambda before=before: place(lab) != before)


def opened_lab(open_notebook, theme, *, asking):
    """The lab, drawn, with the keyboard on its player."""
    opened = open_notebook(CELL, theme=theme)
    opened.theme_name = theme.lower()
    opened.run_all()
    opened.page.wait_for_selector(f"{PLAYER} svg")
    if not asking:
        opened.page.get_by_role("checkbox", name="Ask before telling", exact=True).uncheck()
        opened.until(lambda: not opened.page.locator(ASK).count())
    opened.page.locator(PLAYER).focus()
    return opened


@pytest.fixture(params=["Light", "Dark"])
def lab(open_notebook, request):
    """The lab of a learner who does not want to be asked."""
    return opened_lab(open_notebook, request.param, asking=False)


def test_it_is_stepped_forward_and_back_by_keyboard(lab):
    first, sentence = place(lab), lab.seen(f"{PLAYER} .kvm-sentence")
    lab.page.keyboard.press("ArrowRight")
    lab.until(lambda: place(lab) != first)
    assert lab.seen(f"{PLAYER} .kvm-sentence") != sentence
    lab.page.keyboard.press("ArrowLeft")
    lab.until(lambda: place(lab) == first)
    assert lab.seen(f"{PLAYER} .kvm-sentence") == sentence
    lab.page.keyboard.press("End")
    lab.until(lambda: place(lab) != first)
    lab.shot(f"walk-{lab.theme_name}-end", ".kvmlab-walk")


def test_each_design_has_its_references_in_the_page(lab):
    for design, tables, count in (
        ("EPT", {"ept", "guest"}, 24),
        ("native", {"guest"}, 4),
        ("shadow", {"shadow"}, 4),
        ("EPT", {"ept", "guest"}, 24),
    ):
        lab.page.get_by_role("radio", name=NAMES[design], exact=True).check()
        lab.until(lambda it=tables: drawn_tables(lab) == it)
        assert references(lab) == list(range(1, count + 1))
        lab.until(lambda it=count: f": {it} references" in facts(lab))  # the last of the messages
        lab.page.locator(PLAYER).focus()
        lab.page.keyboard.press("End")
        lab.page.keyboard.press("ArrowLeft")  # before the data: all entries read are lit
        lab.until(lambda it=count: lab.page.locator(CELLS).count() == it)
        lab.until(lambda it=count: str(it) in lab.seen(FACTS))  # once the player has told it
        lab.shot(f"walk-{lab.theme_name}-{design.lower()}", ".kvmlab-walk")


@pytest.mark.parametrize("name", ["2 (32-bit)", "3 (PAE)"])
def test_a_guest_of_32_bits_is_drawn_as_the_tables_walked_are(lab, name):
    lab.page.get_by_label("Guest levels", exact=True).select_option(name)
    for design, count in (("native", 2), ("EPT", 14), ("shadow", 2)):
        pae = "PAE" in name or design == "shadow"  # the shadow of either guest has that format
        lab.page.get_by_role("radio", name=NAMES[design], exact=True).check()
        lab.until(lambda it=count: references(lab) == list(range(1, it + 1)))
        split = lab.page.locator(f"{PLAYER} .kvm-stage g[data-key^='gva.']")
        assert split.count() == (4 if pae else 3)
        assert lab.page.locator(f"{PLAYER} [data-key='register']").count() == pae
        step_to(lab, "choose PDPTE register" if pae else "Reference 1 of")
        lab.shot(f"walk-{lab.theme_name}-{name[0]}-{design.lower()}", ".kvmlab-walk")
        step_to(lab, f"Reference {count} of")
        lab.shot(f"walk-{lab.theme_name}-{name[0]}-{design.lower()}-last", ".kvmlab-walk")


def test_the_further_designs_are_chosen_by_keyboard_and_controls_follow(lab):
    lab.page.get_by_role("radio", name="EPT", exact=True).focus()
    for design, count, first in (
        ("NPT", 24, "24 references"),
        ("agile paging", 4, "4 references (4 shadow)"),
        ("EPT on EPT (L2)", 24, "1 VM exit on L1's VMRESUME"),
        ("shadow on EPT (L2)", 24, "20 EPT + 4 shadow"),
    ):
        lab.page.keyboard.press("ArrowDown")
        lab.until(lambda it=design: lab.seen(FACTS).startswith(it))
        assert references(lab) == list(range(1, count + 1))
        assert first in lab.seen(FACTS)
        assert "by the cost model “graded”" in lab.seen(FACTS)
        assert_fits(lab, ".kvmlab-walk")
        lab.shot(f"walk-{lab.theme_name}-{design.split(' (')[0].replace(' ', '-').lower()}")
    lab.page.set_viewport_size({"width": 900, "height": 1200})
    assert_fits(lab, ".kvmlab-walk")
    lab.shot(f"walk-{lab.theme_name}-narrow")
    lab.page.get_by_role("radio", name="native").check()
    lab.until(lambda: lab.seen(FACTS).startswith("native"))
    lab.until(lambda: not lab.page.get_by_label("Host levels", exact=True).is_visible())
    lab.axe()


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_a_learner_predicts_is_told_and_goes_back(open_notebook, theme):
    """All by keyboard: a wrong answer, a right one, a skip; the caches; undo; share; the code."""
    lab = opened_lab(open_notebook, theme, asking=True)
    page = lab.page
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    lab.until(lambda: "how many page-table entries" in lab.seen(ASK))
    assert lab.seen(FACTS) == ""  # the numbers are not given away
    lab.shot(f"walk-{lab.theme_name}-asked", ".kvmlab-walk")
    lab.axe()
    page.get_by_role("button", name="20", exact=True).press("Enter")
    lab.until(lambda: "forgets the last walk" in lab.seen(f"{PLAYER} .kvm-ask"))
    assert lab.seen(FACTS).startswith("EPT: 24 references")
    page.keyboard.press("ArrowRight")
    lab.until(lambda: "What does it read next?" in lab.seen(ASK))
    page.get_by_role("button", name="an entry of the EPT", exact=True).press("Enter")
    lab.until(lambda: "Yes: GPA" in lab.seen(f"{PLAYER} .kvm-ask"))
    assert lab.seen(f"{PLAYER} .kvm-sentence").startswith("Reference 1 of 24")
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Skip").press("Enter")
    lab.until(lambda: lab.seen(f"{PLAYER} .kvm-sentence").startswith("Reference 2 of 24"))
    choose_by_key(lab, "Caches besides the TLB", "upper")
    choose_by_key(lab, "Caches besides the TLB", "nested")
    choose_by_key(lab, "Caches besides the TLB", "upper", "nested")
    choose_by_key(lab, "Accessed just before")
    lab.until(lambda: facts(lab).startswith("EPT: 5 references"))
    lab.shot(f"walk-{lab.theme_name}-warm", ".kvmlab-walk")
    page.get_by_role("button", name="Undo", exact=True).press("Enter")
    lab.until(lambda: facts(lab).startswith("EPT: 24 references"))
    page.get_by_role("button", name="Redo", exact=True).press("Enter")
    lab.until(lambda: facts(lab).startswith("EPT: 5 references"))
    for panel in ("Share string", "Show the code"):
        page.get_by_role("checkbox", name=panel, exact=True).press(" ")
    lab.until(lambda: page.locator(".kvmlab-code").count() == 1)
    assert 'with_walk_caches(UNIFIED, "on")' in lab.seen(".kvmlab-code")
    shared = lab.seen(".kvmlab-share")
    page.get_by_role("button", name="Undo", exact=True).press("Enter")
    lab.until(lambda: facts(lab).startswith("EPT: 24 references"))
    page.get_by_label("Open a share string", exact=True).fill(shared)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    lab.until(lambda: facts(lab).startswith("EPT: 5 references"))
    lab.settle()

    def refused():
        """Typed once more where the kernel's late echo of the first text undid the second."""
        page.get_by_label("Open a share string", exact=True).fill(shared[:-3])
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        lab.settle()
        alert = page.locator(".kvmlab-lab [role=alert]")
        return alert.count() > 0 and "cut or altered" in alert.first.inner_text()

    lab.until(refused)
    lab.shot(f"walk-{lab.theme_name}-refused", ".kvmlab-walk")
    lab.axe()


def facts(lab):
    """What is said of the walk, shown already or not."""
    return lab.page.locator(FACTS).text_content()


def choose_by_key(lab, name, *caches):
    """Choose the next option of a list by an arrow key, and wait until these caches are drawn."""
    lab.page.get_by_label(name, exact=True).focus()
    lab.page.keyboard.press("ArrowDown")
    drawn = [lab.page.locator(f"{PLAYER} [data-key='{one}']") for one in ("upper", "nested")]
    wanted = [int(one in caches) for one in ("upper", "nested")]
    lab.until(lambda: not caches or [one.count() for one in drawn] == wanted)
