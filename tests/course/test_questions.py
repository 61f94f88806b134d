"""Seeded questions: the engine's answer is accepted, each misconception is known by its name.

Every kind is tried with some seeds here, and with 10,000 by ``--all``; what is proved of each
question is in proof.py.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kvmlab import course
from kvmlab.base.errors import BadChoice
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Bits, Choice, Number, Sequence, distinct
from kvmlab.course.questions import DIFFICULTIES
from kvmlab.text import catalogue
from tests.course.proof import digest_of, essence, prove, proved

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden.json")
FEW, MANY = 34, 3334  # seeds of each of three difficulties


@pytest.mark.parametrize("kind", course.kinds())
def test_solution_and_misconceptions_are_recognised(kind):
    met, _ = proved(kind, FEW)
    assert met


@pytest.mark.long
@pytest.mark.parametrize("kind", course.kinds())
def test_ten_thousand_seeds(kind, other_python):
    """All is proved, and said in the same bytes by processes with other hash seeds and Pythons."""
    met, digest = proved(kind, MANY)
    assert met
    ours = os.environ.get("PYTHONHASHSEED")
    assert printed(sys.executable, kind, MANY, "2" if ours == "1" else "1") == {kind: digest}
    if other_python.path:
        assert printed(other_python.path, kind, MANY, "random") == {kind: digest}


@pytest.mark.long
def test_there_is_a_second_python(other_python):
    """If not, the bytes of two processes were compared, but not those of two Pythons."""
    if not other_python.path:
        pytest.skip(other_python.reason)


PLANTED = {
    "a wrong answer that is right": lambda q: replace(q, wrong={"x": q.answer}),
    "a solution that is not": lambda q: replace(q, answer=q.answer + 1, wrong={"x": q.answer + 1}),
    "two misconceptions with one answer": lambda q: replace(q, wrong={"x": 7, "y": 7}),
    "a misconception without words": lambda q: replace(q, wrong={"no-such": 7777}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_question_is_seen(name):
    planted = PLANTED[name](course.question("ept.references"))
    with pytest.raises((AssertionError, KeyError)):
        prove(planted)


def test_options_that_read_alike_are_seen():
    one = course.question("slot.largest")
    assert prove(one)
    (first, words), *_ = one.form.options
    for twin in (("new", words), (first.lower(), "other words"), ("a", "more words")):
        with pytest.raises((AssertionError, ValueError)):
            prove(replace(one, form=Choice((*one.form.options, twin))))


def test_equal_questions_with_two_answers_are_seen(monkeypatch):
    """The engine's answer must follow from what is said."""
    one = course.question("ept.references")
    other = replace(one, answer=one.answer + 100, seed=8)
    assert essence(one)[0] == essence(other)[0]
    monkeypatch.setattr(course, "question", lambda _kind, seed, _difficulty: (one, other)[seed])
    with pytest.raises(AssertionError):
        proved("ept.references", 2)


def test_there_are_many_kinds_over_all_topics():
    assert len(course.kinds()) >= 60
    assert {"address", "walk", "fault", "ept", "tlb", "shadow", "slot", "huge"} < set(
        course.topics()
    )
    assert {"balloon", "stats", "cloud", "ksm", "swap", "nested", "cost"} < set(course.topics())
    assert course.kinds("ksm") == ("ksm.counters", "ksm.saved")


def test_every_misconception_of_the_catalogue_is_planted_by_some_question():
    planted = set()
    for kind in course.kinds():
        for seed in range(40):
            for difficulty in DIFFICULTIES:
                planted |= set(course.question(kind, seed, difficulty).wrong)
    prefix = "course.mistake."
    written = {key.removeprefix(prefix) for key in catalogue("en") if key.startswith(prefix)}
    assert planted == written


# -- the same everywhere ---------------------------------------------------------------------


def printed(python, kinds, seeds, hash_seed):
    """The digests of kinds by name, as another process of this or another Python has them."""
    done = subprocess.run(
        [python, "-m", "tests.course.proof", kinds, str(seeds)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def test_bytes_are_equal_whatever_the_hash_seed():
    """This process has a seed of its own, most likely."""
    assert printed(sys.executable, "all", 1, "4711") == {
        kind: digest_of(kind, 1) for kind in course.kinds()
    }


def drawn():
    """The first numbers of some draws, and answers by kind: what the golden file pins."""
    numbers = {name: [Draw(name).below(1 << 32)] for name in ("", "fault.code/1/7")}
    draw = Draw("pinned")
    numbers["pinned"] = [
        draw.below(1000),
        draw.between(5, 9),
        draw.choose("abcdef"),
        draw.shuffled(range(8)),
        draw.sample(range(20), 4),
        draw.chance(50),
    ]
    answers = {}
    for kind in course.kinds():
        one = course.question(kind, 7, 2)
        answers[kind] = sorted(one.answer) if isinstance(one.answer, frozenset) else one.answer
    return json.loads(json.dumps({"draws": numbers, "answers": answers}))


def test_the_random_sequence_is_pinned():
    """A change here gives every learner other questions: raise the version in questions.py."""
    assert drawn() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_draws_are_even():
    draw = Draw("even")
    counts = [0] * 6
    for _ in range(6000):
        counts[draw.below(6)] += 1
    assert all(850 < count < 1150 for count in counts)
    assert sorted(draw.shuffled(range(9))) == list(range(9))


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("no.such",), "no kind of question 'no.such'; topics are address"),
        (("fault.no",), "no kind of question 'fault.no'; kinds are fault.code"),
        (("fault.code", -1), "-1 is no seed"),
        (("fault.code", 1 << 63), "is no seed"),
        (("fault.code", "7"), "'7' is no seed"),
        (("fault.code", True), "True is no seed"),
        (("fault.code", 7, 4), "4 is no difficulty"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(arguments, words):
    with pytest.raises(BadChoice, match=words) as caught:
        course.question(*arguments)
    assert "\n" not in str(caught.value)


def test_a_topic_stands_for_one_of_its_kinds():
    assert course.question("walk", 7) == course.question("walk", 7)
    assert {course.question("walk", seed).kind for seed in range(40)} == set(course.kinds("walk"))


def test_an_unknown_topic_is_refused():
    with pytest.raises(BadChoice, match="no topic 'no'; choose one of address"):
        course.kinds("no")


# -- quizzes ---------------------------------------------------------------------------------


def test_a_quiz_asks_each_kind_once_before_one_comes_again():
    asked = [one.kind for one in course.quiz(7, len(course.kinds()) + 3)]
    assert sorted(asked[: len(course.kinds())]) == sorted(course.kinds())
    assert course.quiz(7, 5)[3].id == course.quiz(7, 5)[3].id
    assert [one.kind for one in course.quiz(8, 5)] != asked[:5]


def test_a_quiz_grows_harder_unless_told_otherwise():
    assert [one.difficulty for one in course.quiz(1, 6)] == [1, 1, 2, 2, 3, 3]
    assert {one.difficulty for one in course.quiz(1, 6, difficulty=2)} == {2}
    assert {one.topic for one in course.quiz(1, 6, topic="tlb")} == {"tlb"}


@pytest.mark.parametrize("count", [0, -1, 1001, "3"])
def test_a_quiz_of_no_questions_is_refused(count):
    with pytest.raises(BadChoice, match="questions cannot be asked"):
        course.quiz(7, count)


# -- what the engine says, said a second time ------------------------------------------------


def test_the_published_counts_come_out():
    """The table of references by levels and pages (Bhargava et al.; counted by brute force)."""
    published = {(4, 4, "4K", "4K"): 24, (4, 4, "2M", "2M"): 15, (5, 5, "4K", "4K"): 35}
    found = {}
    for seed in range(200):
        one = course.question("ept.references", seed, 1 + seed % 2)
        shape = tuple(one.values[name] for name in ("guest", "host", "guest_page", "host_page"))
        if str(one.values["design"]) == "EPT":
            found[shape] = one.answer
    assert {shape: found[shape] for shape in published if shape in found} == {
        shape: count for shape, count in published.items() if shape in found
    }
    assert found[4, 4, "4K", "4K"] == 24


def test_an_error_code_is_what_its_words_say():
    for seed in range(60):
        one = course.question("fault.code", seed, 1)
        what = str(one.values["what"])
        expected = 0 if "absent" in what else 1
        expected |= 2 * ("a write" in what) | 4 * ("user program" in what)
        expected |= 16 * ("fetch" in what)
        assert one.answer == expected, what


def test_used_memory_is_available_less_unused():
    for seed in range(20):
        one = course.question("stats.used", seed, 3)
        stats = dict(str(line).split() for line in one.given)
        assert one.answer == int(stats["available"]) - int(stats["unused"])


def test_capacity_is_what_placement_s_formula_says():
    for seed in range(50):
        one = course.question("cloud.capacity", seed, 3)
        total, reserved, ratio = (one.values[name] for name in ("total", "reserved", "ratio"))
        assert one.answer == int((total - reserved) * ratio)


def test_equal_wrong_answers_are_planted_once_and_right_ones_never():
    assert distinct(5, {"a": 5, "b": 6, "c": 6, "d": 7}) == {"b": 6, "d": 7}


def test_forms_show_what_they_hold():
    assert Number("pages").show(3) == "3 pages"
    assert Number(base=16).show(26) == "0x1a"
    assert Sequence(2).show((1, 2)) == "1, 2"
    assert Bits(("P", "W")).show(frozenset()) == "none"
