"""A lecture page in Chromium: from a file, with no kernel and no network."""

import os

import pytest

from kvmlab import labs
from kvmlab.cli import main
from tests.lab_page import slowed

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)  # of bqplot's scales, when they are first imported


LABS = ("spaces", "tables", "walk", "modes", "balloon", "hugepages", "overcommit")


@pytest.fixture(scope="module")
def lectures(tmp_path_factory):
    """Pages by name: each lab's; a comparison in Chinese; a balloon with the lab's questions."""
    folder = tmp_path_factory.mktemp("lectures")
    paths = {name: folder / f"{name}.html" for name in ("walk", "modes", "asked", "zh")}
    assert main(["export", "walk", "--out", str(paths["walk"])]) == 0
    modes = ["export", "modes", "ls", "--limit", "500"]
    assert main([*modes, "--out", str(paths["modes"])]) == 0
    assert main([*modes, "--language", "zh", "--out", str(paths["zh"])]) == 0
    lab = labs.balloon()
    lab.do("setmem", 8192)
    lab.export(paths["asked"])
    for name in ("spaces", "tables", "overcommit"):
        paths[name] = folder / f"{name}.html"
        assert main(["export", name, "--out", str(paths[name])]) == 0
    deeds = {labs.balloon: ("setmem", 8192), labs.hugepages: ("fill",)}
    for make, deed in deeds.items():  # as they begin they have one step only
        lab = make()
        lab.predict.value = False
        lab.do(*deed)
        paths[lab.NAME] = folder / f"{lab.NAME}.html"
        lab.export(paths[lab.NAME])
    return paths


@pytest.fixture
def show(browser, lectures):
    """Open a page; it must ask for nothing else and say nothing on the console."""
    contexts, trouble = [], []

    def start(name="walk", **options):
        address = lectures[name].as_uri()
        context = browser.new_context(viewport={"width": 1100, "height": 1000}, **options)
        contexts.append(context)
        page = slowed(context.new_page())
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda r: trouble.append(r.url) if r.url != address else None)
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert trouble == []


def facts(page):
    return page.locator(".kvm-facts").inner_text()


def test_it_steps_and_switches_by_keyboard(show):
    page = show()
    page.wait_for_selector(".kvmlab-player .kvm-count")
    assert facts(page).startswith("EPT: 24 references")
    page.locator(".kvmlab-player").focus()
    page.keyboard.press("End")
    assert "24 references" in page.locator(".kvm-sentence").inner_text()
    page.get_by_label("Guest page").focus()
    page.keyboard.press("ArrowDown")
    assert facts(page).startswith("EPT: 19 references")
    assert page.locator(".kvm-stage [data-key^='guest.L']").count()
    page.get_by_label("Design").select_option(index=1)
    assert facts(page).startswith("native paging: 3 references")
    assert page.get_by_label("Host page").input_value() == "–"
    page.get_by_label("Host page").select_option("2M")
    assert "references" in facts(page)
    assert page.get_by_label("Guest page").input_value() == "2M"


@pytest.mark.parametrize("name", LABS)
def test_without_javascript_the_still_figure_and_its_table_are_there(show, name):
    page = show(name, java_script_enabled=False)
    assert page.locator(".kvm-still svg").first.is_visible()
    assert page.locator(".kvm-still tbody tr").count() > (24 if name == "walk" else 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", LABS)
def test_the_page_of_every_lab_is_read_by_keyboard_in_both_schemes(show, axe, name, scheme):
    page = show(name, color_scheme=scheme)
    page.wait_for_selector(".kvmlab-player .kvm-count")
    figure = "document.activeElement.matches('.kvmlab-player')"
    for _ in range(20):  # from the page's start, by Tab alone, to the figure
        page.keyboard.press("Tab")
        if page.evaluate(figure):
            break
    assert page.evaluate(figure)
    assert page.locator(".kvm-forward").is_enabled()
    page.keyboard.press("End")
    assert page.locator(".kvm-forward").is_disabled()
    last = page.locator(".kvm-sentence").inner_text()
    page.keyboard.press("Home")
    assert page.locator(".kvm-back").is_disabled()
    assert page.locator(".kvm-sentence").inner_text() != last
    summary = page.locator("main summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("main details[open] table").first.is_visible()
    axe(page, "main")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shots = os.environ.get("KVMLAB_SHOTS")
    if shots:
        page.screenshot(path=f"{shots}/lecture-{name}-{scheme}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_comparison_has_its_charts_and_the_tables_behind_them(show, axe, scheme):
    page = show("modes", color_scheme=scheme)
    page.wait_for_selector(".kvm-count")
    charts = page.locator(".kvm-parts figure > svg")
    assert charts.count() == 5
    summary = page.locator(".kvm-parts summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".kvm-parts table").first.is_visible()
    axe(page, "main")
    shots = os.environ.get("KVMLAB_SHOTS")
    if shots:
        page.screenshot(path=f"{shots}/lecture-modes-{scheme}.png", full_page=True)


def test_facts_and_charts_wait_for_the_last_answer(show, axe):
    page = show("asked")
    page.wait_for_selector(".kvm-count")
    told = page.locator(".kvm-facts, .kvm-parts")
    assert [one.is_visible() for one in told.all()] == [False, False]
    page.locator(".kvmlab-player").focus()
    for _ in range(20):  # by the keyboard alone: answer what is asked, then go on
        choices = page.locator(".kvm-ask button")
        if choices.count():
            axe(page, "main")
            choices.first.focus()
            page.keyboard.press("Enter")
        elif page.locator(".kvm-forward").is_disabled():
            break
        else:
            assert not page.locator(".kvm-parts").is_visible()
            page.keyboard.press("ArrowRight")
    assert [one.is_visible() for one in told.all()] == [True, True]
    page.keyboard.press("Home")
    assert told.last.is_visible()


def test_a_page_speaks_one_language(show):
    page = show("zh")
    page.wait_for_selector(".kvm-count")
    assert page.locator("html").get_attribute("lang") == "zh"
    assert "同一个程序" in page.locator("h1").inner_text()


@pytest.mark.parametrize("suffix, head", [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_pictures_and_handouts_are_made(chromium, tmp_path, suffix, head):
    path = tmp_path / f"walk{suffix}"
    assert main(["export", "walk", "--mmu", "native", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(head)
    assert path.stat().st_size > 5_000
