"""What is asked on a walk: the right choice is what happened, the wrong ones misconceptions."""

import pytest

from kvmlab.figures.asking import ask
from kvmlab.figures.formula import formula, total
from kvmlab.figures.walk import Setting, read_walk, walk_scene
from kvmlab.hardware.records import Kind
from kvmlab.machine import DESIGNS
from kvmlab.study.access import BEFORE, CACHES, Request, first_access
from kvmlab.text import LANGUAGES, speaking

GVA = 0x7F12_3456_7AB8


def told(**wanted):
    """The scene of one access, its walk, its questions by what they begin with."""
    done = first_access(Request(**{"gva": GVA, **wanted}))
    setting = Setting.of(done.machine, done.gva)
    scene = walk_scene(done.records, setting, done.before, asking=True)
    return scene, read_walk(done.records, setting)


def choices(scene, words):
    """What is said to each choice of the first question that contains ``words``."""
    ask = next(step.ask for step in scene.steps if step.ask and words in step.ask.question)
    return dict(zip(ask.choices, ask.feedback, strict=True)), ask.choices[ask.answer]


def test_the_wrong_totals_are_those_that_are_taught_wrongly():
    scene, _ = told()
    feedback, right = choices(scene, "how many")

    assert right == "24"
    assert set(feedback) == {"24", "20", "16", "8", "25"}
    assert "forgets the last walk" in feedback["20"]
    assert "only once" in feedback["8"]
    assert "counts the data access" in feedback["25"]


def test_twenty_four_is_not_six_times_four():
    feedback, right = choices(told()[0], "how do they come about")

    assert right == "5 EPT walks of 4, and 4 guest entries"
    assert "the split is wrong" in feedback["6 EPT walks of 4"]


def test_a_gpa_is_not_an_hpa():
    scene, walk = told()
    entry = walk.references[4].step
    feedback, right = choices(scene, "at which HPA is the entry")

    assert right == f"{entry.hpa:#_x}"
    assert "That is its GPA" in feedback[f"{entry.address:#_x}"]
    assert len(feedback) == 4
    now, right = choices(scene, "What does it read next")
    assert right == "an entry of the EPT"
    assert "takes the GPA for an HPA" in now["the guest's L4 entry"]


def test_the_bits_that_are_written_back_are_asked_for():
    feedback, right = choices(told(kind=Kind.WRITE)[0], "Which bits does the CPU set")

    assert right == "D in 1 entry"
    assert len(feedback) == 3


@pytest.mark.parametrize(
    "wanted, right",
    [
        ({"mapping": "none"}, "#PF for the guest"),
        ({"mmu": "shadow", "kind": Kind.WRITE}, "VM exit: #PF"),
    ],
)
def test_how_an_access_ends_is_asked_for(wanted, right):
    feedback, found = choices(told(**wanted)[0], "What does it come to")

    assert found == right
    assert len(feedback) == 4


@pytest.mark.parametrize("mmu", DESIGNS)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("language", LANGUAGES)
def test_choices_never_coincide_and_the_right_one_is_not_always_first(mmu, before, language):
    with speaking(language):
        scenes = [told(mmu=mmu, before=before, caches=one)[0] for one in CACHES]
    asks = [step.ask for scene in scenes for step in scene.steps if step.ask]

    assert asks
    for one in asks:
        assert len(set(one.choices)) == len(one.choices) == len(one.feedback) > 1
    assert before == "page" or {one.answer for one in asks} > {0}


def test_without_wrong_choices_there_is_no_question():
    assert ask("?", "4", "yes", [("4", "no")], 0) is None


def test_a_wrong_choice_is_told_once_and_the_turn_moves_the_right_one():
    wrong = [("5", "a"), ("5", "b"), ("6", "c"), ("4", "d")]
    found = [ask("?", "4", "yes", wrong, turn) for turn in range(4)]

    assert [one.answer for one in found] == [0, 1, 2, 0]
    assert found[1].choices == ["5", "4", "6"]
    assert found[1].feedback == ["a", "yes", "c"]


@pytest.mark.parametrize(
    "wanted, sums, whole",
    [
        ({}, "4 × (4 + 1) + 4 = 24", "(4 + 1) × (4 + 1) − 1 = 24"),
        (
            {"guest_levels": 5, "host_levels": 5},
            "5 × (5 + 1) + 5 = 35",
            "(5 + 1) × (5 + 1) − 1 = 35",
        ),
        ({"host_page": "2M"}, "4 × (3 + 1) + 3 = 19", "(4 + 1) × (3 + 1) − 1 = 19"),
        ({"mmu": "native"}, "1 + 1 + 1 + 1 = 4", ""),
        ({"caches": "both", "before": "neighbour"}, "1 + 4 = 5", ""),
    ],
)
def test_the_references_add_up_row_by_row(wanted, sums, whole):
    _, walk = told(**wanted)

    assert (total(walk.references), formula(walk.references)) == (sums, whole)


def test_the_sum_grows_as_the_steps_do():
    scene, _ = told()
    grown = [step.texts["sum"] for step in scene.steps if step.sentence.startswith("Reference")]

    assert grown[3].endswith("far: 4")
    assert grown[4].endswith("far: 1 × (4 + 1) = 5")
    assert grown[12].endswith("far: 2 × (4 + 1) + 3 = 13")
    assert scene.steps[-1].texts["sum"].endswith("= 24 = (4 + 1) × (4 + 1) − 1")


def test_nothing_is_asked_where_it_is_not_wanted():
    done = first_access(Request(GVA))
    scene = walk_scene(done.records, Setting.of(done.machine, done.gva), done.before)

    assert not any(step.ask for step in scene.steps)
