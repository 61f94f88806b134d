"""The player alone: in a page that may load nothing, with no kernel behind it."""

import base64
import hashlib
import json
import re
from xml.etree import ElementTree as ET

import pytest

from kvmlab.figures.scene import Ask
from kvmlab.figures.walk import Setting, walk_scene
from kvmlab.labs.player import Player, module, style
from kvmlab.study.access import Request, first_access
from tests.lab_page import slowed

RUN = """
const data = JSON.parse(document.getElementById("data").textContent);
const heard = {};
const model = {
  get: (key) => data[key],
  set(key, value) {
    const changed = data[key] !== value;
    data[key] = value;
    if (changed) for (const act of heard[`change:${key}`] ?? []) act();
  },
  on: (event, act) => (heard[event] ??= []).push(act),
  off: () => {},
  save_changes: () => {},
};
window.model = model;
window.leave = render({ model, el: document.getElementById("lab") });
"""


def allowed(text):
    """What a content-security policy says to let exactly ``text`` run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def static_page(scene):
    """The player and one scene in one file, under the strictest policy there is."""
    player = Player(scene)
    state = player.get_state(["scene", "step", "chosen", "answer", "labels"])
    data = json.dumps(state).replace("</", "<\\/")
    looks = style()
    script = module().replace("export default { render };", RUN)
    policy = f"default-src 'none'; script-src {allowed(script)}; style-src {allowed(looks)}"
    policy += "; img-src blob:"  # a picture of points is made of one
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>A walk</title><style>{looks}</style><div id='lab'></div>"
        f"<script type='application/json' id='data'>{data}</script>"
        f"<script type='module'>{script}</script></html>"
    )


@pytest.fixture
def scene():
    done = first_access(Request(gva=0x7F12_3456_7AB8))
    return walk_scene(done.records, Setting.of(done.machine, done.gva), done.before)


@pytest.fixture
def show(browser, tmp_path):
    """Open a scene; the page must neither complain nor ask for anything."""
    contexts, trouble = [], []

    def start(scene, **options):
        context = browser.new_context(viewport={"width": 900, "height": 900}, **options)
        contexts.append(context)
        page = slowed(context.new_page())
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        path = tmp_path / "page.html"
        path.write_text(static_page(scene), encoding="utf-8")
        own = (path.as_uri(), "blob:")  # the page, and pictures that it made itself
        page.on("request", lambda r: None if r.url.startswith(own) else trouble.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".kvm-stage svg")
        return page

    yield start
    for context in contexts:
        context.close()
    assert trouble == []


def count(page):
    return page.locator(".kvm-count").inner_text()


def sentence(page):
    return page.locator(".kvm-sentence").inner_text()


def focused(page):
    return page.evaluate("document.activeElement.dataset.key")


def test_the_page_shows_and_steps_without_a_kernel(show, scene):
    page = show(scene)

    assert page.locator(".kvm-number").count() == 24
    assert count(page) == f"Step 1 of {len(scene.steps)}"
    page.get_by_role("button", name="Last step").click()
    assert "found with 24 references" in sentence(page)
    page.get_by_role("button", name="Step back").click()
    assert "The TLB keeps the answer" in sentence(page)
    page.get_by_role("slider", name="Step").fill("5")
    assert sentence(page).startswith("Reference 1 of 24")
    assert page.locator("[data-lit='now'].kvm-el").get_attribute("data-key") == "ept.G4.L4"
    assert page.locator("[aria-current='step']").count() >= 1
    assert page.get_by_role("status").first.inner_text() == sentence(page)


def test_a_button_that_goes_dead_leaves_the_keyboard_with_the_player(show, scene):
    page = show(scene)
    for name, key, then in (("Last step", "Home", 1), ("Step back", "End", len(scene.steps))):
        if name == "Step back":
            page.keyboard.press("ArrowRight")  # to the second step, from which a step back is one
        page.get_by_role("button", name=name).focus()
        page.keyboard.press("Enter")
        page.keyboard.press(key)
        assert count(page) == f"Step {then} of {len(scene.steps)}"


def test_keys_step_and_play(show, scene):
    page = show(scene)
    page.get_by_role("group", name=scene.title).first.focus()
    keys = {"ArrowRight": 2, "End": 31, "ArrowLeft": 30, "Home": 1}
    for key, expected in keys.items():
        page.keyboard.press(key)
        assert count(page) == f"Step {expected} of 31"
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    page.wait_for_function("() => model.get('step') >= 2")
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play").wait_for()


def test_playing_ends_at_the_last_step(show, scene):
    page = show(scene)
    page.get_by_role("slider", name="Step").fill("29")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("Step 31 of 31").wait_for()
    page.get_by_role("button", name="Play").wait_for()


def test_arrow_keys_choose_an_element_and_enter_goes_to_its_step(show, scene):
    page = show(scene)
    page.locator("[data-key='ept.G4.L4']").focus()
    way = []
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        way.append(focused(page))

    assert way == ["ept.G4.L3", "ept.G3.L3", "ept.G2.L3", "ept.G2.L4", "ept.G3.L4"]
    assert page.locator(".kvm-el[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert sentence(page).startswith("Reference 6 of 24")
    assert page.evaluate("model.get('chosen')") == "ept.G3.L4"


def test_the_mouse_chooses_too(show, scene):
    page = show(scene)
    page.locator("[data-key='guest.L1'] rect").click()

    assert sentence(page).startswith("Reference 20 of 24")
    assert page.locator(".kvm-detail caption").inner_text().startswith("L1 PTE")


def test_the_table_tells_the_same(show, scene):
    page = show(scene)
    page.locator(".kvm-twin summary").click()

    assert page.locator(".kvm-twin tbody tr").count() == sum(len(s.rows) for s in scene.steps)
    assert page.locator(".kvm-twin th[scope='col']").count() == len(scene.columns)
    assert page.locator(".kvm-twin tr.kvm-now").inner_text().startswith("–")


def test_a_question_comes_before_its_step(show, scene):
    scene.steps[5].ask = Ask("Which is read first?", ["guest", "EPT"], 1, ["Not yet.", "Yes, EPT."])
    page = show(scene)
    page.get_by_role("slider", name="Step").fill("5")

    assert page.get_by_role("group", name="Which is read first?").is_visible()
    assert "Reference 1" not in page.locator(".kvmlab-player").inner_text()
    page.get_by_role("button", name="EPT", exact=True).click()
    assert sentence(page).startswith("Reference 1 of 24")
    assert page.get_by_text("Yes, EPT.").is_visible()
    assert page.evaluate("model.get('answer')") == {"step": 5, "choice": 1, "right": True}


def test_a_question_can_be_skipped(show, scene):
    scene.steps[5].ask = Ask("Which is read first?", ["guest", "EPT"], 1, ["Not yet.", "Yes, EPT."])
    page = show(scene)
    page.get_by_role("slider", name="Step").fill("5")
    page.get_by_role("button", name="Skip").click()

    assert sentence(page).startswith("Reference 1 of 24")
    assert page.evaluate("model.get('answer')") == {"step": 5, "choice": -1, "right": False}


def test_playing_waits_at_a_question(show, scene):
    scene.steps[1].ask = Ask("What now?", ["this", "that"], 0, ["Yes.", "No."])
    page = show(scene)
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Skip").wait_for()
    page.get_by_role("button", name="Play").wait_for()

    assert count(page) == "Step 2 of 31"


@pytest.mark.parametrize(
    "scheme, paper", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(17, 17, 17)")]
)
def test_a_plain_page_follows_the_systems_scheme(show, scene, scheme, paper):
    page = show(scene, color_scheme=scheme)

    background = "getComputedStyle(document.querySelector('.kvmlab-player')).backgroundColor"
    assert page.evaluate(background) == paper


def test_nothing_moves_where_reduced_motion_is_asked_for(show, scene):
    page = show(scene, reduced_motion="reduce")

    duration = "getComputedStyle(document.querySelector('.kvm-cell')).transitionDuration"
    assert page.evaluate(duration) == "0s"


@pytest.mark.parametrize("width", [480, 900, 1600])
def test_the_lab_never_scrolls_sideways(show, scene, width):
    page = show(scene)
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_role("slider", name="Step").fill("9")
    page.locator(".kvm-twin summary").click()

    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_leaving_stops_the_clock(show, scene):
    page = show(scene)
    page.get_by_role("button", name="Play").click()
    page.evaluate("leave()")
    page.get_by_role("button", name="Play").wait_for()


def saved(page, kind, folder):
    """The file that the button of that ``kind`` saves."""
    with page.expect_download() as found:
        page.get_by_role("button", name=f"Save as {kind}", exact=True).press("Enter")
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_is_saved_that_needs_nothing_else_and_is_light(show, scene, scheme, tmp_path):
    page = show(scene, color_scheme=scheme)
    page.get_by_role("slider", name="Step").fill("5")
    path = saved(page, "SVG", tmp_path)
    text = path.read_text(encoding="utf-8")
    svg = ET.fromstring(text)  # noqa: S314  our own
    said = ["".join(one.itertext()) for one in svg.iter("{http://www.w3.org/2000/svg}text")]

    assert path.name.startswith("kvmlab-")
    assert said[0] == scene.title
    assert "EPT L4" in said
    assert not re.search(r"var\(|class=|style=|url\(|<script|href", text)
    assert 'fill="#ffffff"' in text  # the paper
    assert "rgb(213, 94, 0)" in text  # the hypervisor's entry that is read now, as on light paper
    assert page.locator(".kvm-paper").count() == 0


def test_a_picture_is_saved_as_points_of_twice_its_size(show, scene, tmp_path):
    page = show(scene)
    vector = ET.fromstring(saved(page, "SVG", tmp_path).read_text())  # noqa: S314
    data = saved(page, "PNG", tmp_path).read_bytes()

    assert data.startswith(b"\x89PNG")
    size = [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)]
    assert size == [2 * int(vector.get(name)) for name in ("width", "height")]


def test_the_page_passes_axe(show, scene, axe):
    scene.steps[5].ask = Ask("Which is read first?", ["guest", "EPT"], 1, ["Not yet.", "Yes, EPT."])
    for scheme in ("light", "dark"):
        page = show(scene, color_scheme=scheme)
        page.locator(".kvm-twin summary").click()
        for step in ("4", "5", "9", "30"):
            page.get_by_role("slider", name="Step").fill(step)
            axe(page, "#lab")
