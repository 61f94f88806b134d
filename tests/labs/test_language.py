"""Two languages: the words change, what was chosen and what was counted do not."""

import functools

import pytest

from kvmlab import labs, workloads
from kvmlab.text import LANGUAGES, say
from tests.wire import tapped

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
SHIPPED = functools.cache(workloads.shipped)
HAN = range(0x4E00, 0xA000)


@pytest.fixture(autouse=True)
def _shipped_once(monkeypatch):
    monkeypatch.setattr(workloads, "shipped", SHIPPED)


def has_han(text):
    return any(ord(one) in HAN for one in text)


def controls(lab):
    found = []
    for child in lab.children:
        found += controls(child) if hasattr(child, "children") else [child]
    return [one for one in found if hasattr(one, "description") and hasattr(one, "value")]


def state(lab):
    """What a learner chose, by the control."""
    return [(type(one).__name__, one.value) for one in controls(lab) if hasattr(one, "index")]


@pytest.fixture(params=["walk", "modes"])
def lab(request):
    return labs.walk() if request.param == "walk" else labs.modes(records=2000, policy="today")


def test_every_word_on_the_controls_changes_and_no_value_does(lab):
    before = state(lab)
    words = {one.description for one in controls(lab) if one.description}
    lab.language.value = "zh"
    now = {one.description for one in controls(lab) if one.description}
    assert [one for one in state(lab) if one != ("Dropdown", "zh")] == [
        one for one in before if one != ("Dropdown", "en")
    ]
    kept = {"Language / 语言", "EPT", "NPT"}
    assert now & words <= kept
    assert all(has_han(one) for one in now - kept)
    assert lab.notice.value == ""


def test_back_in_english_everything_is_as_it_was(lab):
    def seen():
        return lab.desk.value, lab.player.scene, [one.description for one in controls(lab)]

    before = seen()
    lab.language.value = "zh"
    assert seen()[0] != before[0]
    lab.language.value = "en"
    assert seen() == before


def test_the_walk_stays_at_its_step_and_is_not_walked_again(monkeypatch):
    lab = labs.walk()
    lab.player.step = 7
    records = lab.records
    lab.language.value = "zh"
    assert lab.player.step == 7
    assert lab.records is records
    assert has_han(lab.player.sentence)
    assert has_han(lab.player.labels["forward"])


def test_the_comparison_is_not_run_again(monkeypatch):
    lab = labs.modes(records=2000)
    rows = lab.rows
    monkeypatch.setattr("kvmlab.study.comparison.study", None)  # a call would fail
    lab.language.value = "zh"
    assert lab.rows == rows
    assert has_han(lab.desk.value)
    assert has_han(lab.player.sentence)
    assert "alert" not in lab.notice.value


@pytest.mark.parametrize("name", labs.__all__)
def test_a_change_of_language_is_one_message_for_each_control_and_ten_for_the_rest(name):
    """The one change that costs more than the budget: every word on every control is another.

    Each control is a widget of its own, so its words are a message of their own; the ten are
    status, echo, the player's labels and its scene, the desk, and two charts with their axes.
    """
    lab = getattr(labs, name)()
    spoken = {id(control) for control, _ in lab._words._parts}
    with tapped() as wire:
        for language in ("zh", "en"):
            assert wire.choose(lab.language, language) <= len(spoken) + 10, wire.sent
            assert wire.choose(lab.language, language) == 3  # what is spoken already is not said


def test_two_labs_may_speak_two_languages():
    chinese, english = labs.walk(), labs.walk()
    chinese.language.value = "zh"
    english.design.value = "native"
    chinese.design.value = "native"
    assert has_han(chinese.desk.value)
    assert not has_han(english.desk.value)
    assert not has_han(say("design.native"))


def test_trouble_is_told_in_the_language_of_the_lab(monkeypatch):
    lab = labs.walk()
    lab.language.value = "zh"
    monkeypatch.setattr("kvmlab.labs.walk_lab.WalkLab._reach", lambda *_: 1 / 0)
    lab.design.value = "native"
    assert "ZeroDivisionError" in lab.notice.value
    assert has_han(lab.notice.value)


def test_the_choice_names_each_language_in_itself(lab):
    assert [name for name, _ in lab.language.options] == list(LANGUAGES.values())


def test_choosing_a_shadow_policy_shows_what_it_costs():
    lab = labs.modes(records=2000)
    exits = {}
    for policy in ("naive", "update", "bypass", "today"):
        lab.policy.value = policy
        row = next(row for row in lab.rows if row.mmu == "shadow")
        assert row.policy == policy
        exits[policy] = row.total.all_exits
    assert exits["naive"] > exits["update"] > exits["bypass"]
    assert lab.notice.value == ""


def test_a_policy_that_there_is_not_is_refused_in_one_line():
    with pytest.raises(ValueError, match="no shadow policy 'magic'"):
        labs.modes(records=2000, policy="magic")
