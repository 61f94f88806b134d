"""A lecture page in Chromium: from a file, with no kernel and no network."""

import pytest

from kvmlab.cli import main


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    path = tmp_path_factory.mktemp("lecture") / "walk.html"
    assert main(["export", "walk", "--out", str(path)]) == 0
    return path


@pytest.fixture
def show(browser, lecture):
    """Open the page; it must ask for nothing else and say nothing on the console."""
    contexts, trouble = [], []

    def start(**options):
        context = browser.new_context(viewport={"width": 1100, "height": 1000}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda r: trouble.append(r.url) if r.url != lecture.as_uri() else None)
        page.goto(lecture.as_uri())
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


def test_without_javascript_the_still_figure_and_its_table_are_there(show):
    page = show(java_script_enabled=False)
    assert page.locator(".kvm-still svg").is_visible()
    assert page.locator(".kvm-still tbody tr").count() > 24


@pytest.mark.parametrize("suffix, head", [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_pictures_and_handouts_are_made(chromium, tmp_path, suffix, head):
    path = tmp_path / f"walk{suffix}"
    assert main(["export", "walk", "--mmu", "native", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(head)
    assert path.stat().st_size > 5_000
