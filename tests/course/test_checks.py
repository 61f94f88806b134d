"""Programming tasks: solutions pass, planted mistakes fail with what was expected."""

import numpy as np
import pytest

from kvmlab import course
from kvmlab.base.errors import BadChoice
from kvmlab.text import speaking
from tests.course.learners import FUNCTIONS, MISTAKES, SOLUTIONS, solution


def test_there_is_a_solution_for_every_task_and_none_in_the_package():
    assert set(course.tasks()) == {path.stem for path in SOLUTIONS.glob("*.py")} == set(FUNCTIONS)


@pytest.mark.parametrize("seed", [0, 7, 12345])
@pytest.mark.parametrize("task", course.tasks())
def test_the_solution_passes(task, seed):
    report = course.check_program(task, solution(task), seed=seed, cases=40)
    assert report, str(report)
    assert str(report) == "All 40 cases passed."


@pytest.mark.parametrize(
    "task, mistaken", [(task, one) for task, several in MISTAKES.items() for one in several]
)
def test_a_planted_mistake_fails_and_the_case_is_told(task, mistaken):
    report = course.check_program(task, mistaken, cases=60)
    assert not report
    assert 0 <= report.passed < 60
    assert str(report).startswith(f"Case {report.passed + 1} (")
    assert "\n" not in str(report)
    assert any(word in str(report) for word in ("expected", "needs", "taken"))
    assert course.check_program(task, mistaken, cases=60) == report


def test_which_of_equal_pages_is_kept_is_free():
    def last(pages):
        return [max(n for n, other in enumerate(pages) if other == page) for page in pages]

    assert course.check_program("sharer", last, cases=40)


def test_numpy_numbers_are_numbers():
    walk = solution("walker")

    def numpy_walk(read, root, gva):
        found = walk(read, root, gva)
        return None if found is None else np.uint64(found)

    assert course.check_program("walker", numpy_walk)


@pytest.mark.parametrize("task", ["shadow", "policy", "sharer"])
@pytest.mark.parametrize("value", [None, "text", 7.5, [None], object()])
def test_an_answer_of_another_kind_is_told(task, value):
    report = course.check_program(task, lambda *_: value)
    assert not report
    assert "\n" not in str(report)


@pytest.mark.parametrize(
    "arguments, options, words",
    [
        (("flyer", print), {}, "there is no task 'flyer'; there are walker, shadow"),
        (("walker", 7), {}, "a function is wanted, not int"),
        (("walker", print), {"cases": 0}, "0 cases cannot be tried"),
        (("walker", print), {"seed": "x"}, "'x' is no seed"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, options, words):
    with pytest.raises(BadChoice, match=words):
        course.check_program(*arguments, **options)


@pytest.mark.parametrize("task", course.tasks())
def test_a_task_says_what_it_wants_in_both_languages(task):
    assert FUNCTIONS[task] + "(" in course.describe(task)
    with speaking("zh"):
        assert FUNCTIONS[task] + "(" in course.describe(task)
        assert "用例" in str(course.check_program(task, lambda *_: None))
