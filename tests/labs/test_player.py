"""The player's half in Python: what it sends, what it takes back."""

import json
import re

import pytest

from kvmlab.figures.scene import Ask, Scene, SceneStep
from kvmlab.labs.player import LABELS, Player, module, style


def scene(steps: int = 3) -> Scene:
    told = [SceneStep(f"step {n}", lit={f"a.{n}": "now"}) for n in range(steps)]
    return Scene("A title", "<svg/>", "A caption", ["column"], told)


def test_a_scene_is_shown_from_its_first_step():
    player = Player(scene())

    assert (player.step, player.steps, player.sentence) == (0, 3, "step 0")
    assert player.scene == scene().to_json()


def test_a_new_scene_forgets_what_was_done_with_the_old_one():
    player = Player(scene())
    player.step, player.chosen, player.answer = 2, "a.1", {"step": 2, "choice": 0, "right": True}
    player.show(scene(5))

    assert (player.step, player.chosen, player.answer) == (0, "", {})


def test_a_scene_can_be_shown_from_a_later_step():
    player = Player()
    player.show(scene(), step=2)

    assert (player.step, player.sentence) == (2, "step 2")


@pytest.mark.parametrize("asked, shown", [(-1, 0), (1, 1), (99, 2)])
def test_the_step_stays_within_the_scene(asked, shown):
    player = Player(scene())
    player.step = asked

    assert player.step == shown


def test_without_a_scene_there_is_nothing_to_step():
    player = Player()
    player.step = 4

    assert (player.step, player.steps, player.sentence) == (0, 0, "")
    assert repr(player) == "Player('', step 0 of 0)"


def test_its_text_is_the_same_each_time():
    assert repr(Player(scene())) == repr(Player(scene())) == "Player('A title', step 1 of 3)"


def test_a_question_travels_with_its_step():
    step = SceneStep("told", ask=Ask("which?", ["this", "that"], 1, ["no", "yes"]))
    player = Player(Scene("t", "<svg/>", "c", [], [step]))

    assert player.scene["steps"][0]["ask"]["answer"] == 1


def test_every_word_on_the_controls_comes_from_the_catalogue():
    labels = Player().labels
    text = module()

    assert set(labels) == set(LABELS)
    assert labels["count"] == "Step {number} of {total}"
    assert all(f'"{name}"' in text or f"{name}:" in text for name in labels)


def test_what_goes_to_the_browser_is_json():
    json.dumps(Player(scene()).get_state(["scene", "step", "chosen", "answer", "labels"]))


def test_module_and_style_sheet_load_nothing():
    """The same files must work in a page that may load nothing at all."""
    text = module()
    looks = style()

    for word in ("import ", "import(", "fetch(", "innerHTML", "eval(", ".style", 'setInterval("'):
        assert word not in text, word
    for word in ("url(", "@import", "box-shadow", "gradient"):
        assert word not in looks, word
    assert text.count("http") == 1  # the name of SVG's namespace


def test_every_rule_of_the_style_sheet_is_for_our_own_elements():
    """A widget's style sheet is put into the whole page."""
    looks = style()
    selectors = [
        line.strip()
        for line in looks.splitlines()
        if line.rstrip().endswith(("{", ",")) and not line.lstrip().startswith(("@", "/", "--"))
    ]

    assert [one for one in selectors if ".kvmlab-" not in one and ":" not in one] == []


def luminance(colour: str) -> float:
    """The relative luminance of ``#rrggbb`` (WCAG 2)."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def palettes() -> list[dict[str, str]]:
    """The colours of the light theme, and those of the dark one."""
    looks = style()
    light, dark, system, kept = [
        dict(re.findall(r"--kvm-([\w-]+): (?:var\([\w-]+, )?(#[0-9a-f]{6})", block))
        for block in re.findall(r"\{([^{}]*--kvm-g:[^{}]*)\}", looks)
    ]
    assert kept.items() >= light.items()  # a picture to keep is as on light paper
    assert dark.items() <= system.items()  # without JupyterLab the system's scheme decides
    return [light, light | system]


@pytest.mark.parametrize("colours", palettes(), ids=["light", "dark"])
def test_colours_meet_wcag_aa(colours):
    paper = colours["paper"]

    for party in "ghs":
        assert contrast(colours[f"on-{party}"], colours[party]) >= 4.5
        assert contrast(colours[party], paper) >= 3
    for words in ("ink", "quiet", "fault"):
        assert contrast(colours[words], paper) >= 4.5
    assert paper == "#ffffff" or all(contrast(colours[party], paper) >= 4.5 for party in "ghs")
