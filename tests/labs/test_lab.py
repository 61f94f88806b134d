"""What all labs share: plans, undo and redo, share strings, the notice, languages."""

from types import MappingProxyType

import ipywidgets
import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.figures.lecture import Lecture, Variant
from kvmlab.figures.scene import Ask, Scene, SceneStep, Table
from kvmlab.labs.lab import Lab
from kvmlab.study.story import Story, Verb


class Purse:
    def __init__(self, plan):
        self.coins = plan["coins"]

    def put(self, coins):
        self.coins += coins
        if coins == 13:
            raise RuntimeError("<img src=x>")
        if self.coins < 0:
            raise BadChoice("no coins left")


class PurseLab(Lab):
    NAME = "purse"
    BEGINNING = MappingProxyType({"coins": 3, "did": [], "language": "en"})

    def _make_controls(self):
        self._story = Story(Purse, {"put": Verb(Purse.put, (int,))})
        return [self._row(self._bind("coins", ipywidgets.IntText()))]

    def _reach(self, plan):
        self.purse = self._story.reach(plan)

    def _scene(self):
        ask = Ask("How many?", ["1", "2"], 0, ["yes", "no"])
        step = SceneStep(f"coins: {self.purse.coins}", ask=ask)
        return Scene("Purse", "<svg xmlns='http://www.w3.org/2000/svg'/>", "", ["coins"], [step])

    def _facts(self):
        return [f"{self.purse.coins} <coins>"]

    def _tables(self):
        return [Table("coins", ["n"], [[str(self.purse.coins)]])]

    def _lecture(self):
        return Lecture("Purse", Variant((), self._scene(), self._facts()))

    def _code(self, plan):
        return f"coins = {self.purse.coins}"


@pytest.fixture
def lab():
    return PurseLab()


def test_a_lab_that_leaves_something_unsaid_cannot_be_made():
    class Mute(Lab):
        NAME = "mute"

    with pytest.raises(TypeError, match=r"_code.*_facts.*_lecture.*_make_controls.*_reach.*_scene"):
        Mute()


def test_undo_and_redo_are_exact(lab):
    lab.do("put", 4)
    lab.coins = lab.change(coins=10)
    assert lab.purse.coins == 14
    lab.undo()
    assert (lab.purse.coins, lab.plan["coins"], lab._bound["coins"].value) == (7, 3, 3)
    lab.undo()
    lab.redo()
    lab.redo()
    assert lab.purse.coins == 14
    lab.redo()
    assert "nothing to redo" in lab.notice.value


def test_a_change_after_an_undo_ends_the_redo(lab):
    lab.do("put", 4)
    lab.undo()
    lab.do("put", 1)
    lab.redo()
    assert lab.purse.coins == 4


@pytest.mark.parametrize("coins", [-9, 13])
def test_what_fails_is_told_and_changes_nothing(lab, coins):
    lab.do("put", 4)
    before = lab.share
    lab.do("put", coins)
    assert lab.notice.value
    assert "<img" not in lab.notice.value
    assert (lab.purse.coins, lab.share) == (7, before)
    lab.undo()
    assert lab.purse.coins == 3


def test_a_control_that_was_refused_shows_again_what_is(lab):
    lab.do("put", -3)
    lab._bound["coins"].value = 1
    assert "no coins" in lab.notice.value
    assert lab._bound["coins"].value == 3


def test_a_share_string_brings_everything_back(lab):
    lab.do("put", 4)
    again = PurseLab(share=lab.share)
    assert (again.purse.coins, again.plan) == (7, lab.plan)
    other = PurseLab()
    other.load(lab.share)
    assert other.purse.coins == 7
    other.undo()
    assert other.purse.coins == 3


@pytest.mark.parametrize("text", ["", "hello", "kvmlab1.walk.AAAA", "x" * 30_000])
def test_a_bad_share_string_is_refused_in_words(lab, text):
    lab.load(text)
    assert 'role="alert"' in lab.notice.value
    assert lab.purse.coins == 3


@pytest.mark.parametrize(
    "wrong", [{"coins": "3"}, {"coins": True}, {"more": 1}, {"language": "xx"}, {"did": [["fly"]]}]
)
def test_a_plan_that_does_not_fit_is_refused(lab, wrong):
    lab.change(**wrong)
    assert 'role="alert"' in lab.notice.value
    with pytest.raises(BadChoice):
        PurseLab(**wrong)


def test_code_and_share_string_are_shown_when_asked_for(lab):
    assert "coins = 3" not in lab.desk.value
    lab._open["code"].value = lab._open["share"].value = True
    assert "coins = 3" in lab.desk.value
    assert lab.share in lab.desk.value
    assert "3 &lt;coins&gt;" in lab.desk.value


def test_questions_are_asked_unless_the_learner_wants_none(lab):
    assert lab.player.scene["steps"][0]["ask"]
    lab.predict.value = False
    assert lab.player.scene["steps"][0]["ask"] is None


def test_another_language_changes_words_only(lab):
    lab.do("put", 4)
    lab.language.value = "zh"
    assert (lab.back.description, lab.purse.coins) == ("撤销", 7)
    assert "kvmlab1" in lab.share
    lab.undo()
    assert lab.back.description == "Undo"
