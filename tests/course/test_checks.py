"""Programming tasks: solutions pass, planted mistakes fail with what was expected, all ends."""

import sys
import threading
import time
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from kvmlab import course
from kvmlab.base.errors import BadChoice
from kvmlab.course.bounded import run
from kvmlab.text import speaking

SOLUTIONS = Path(__file__).parents[1] / "solutions"
FUNCTIONS = {"walker": "walk", "shadow": "fill", "policy": "policy", "sharer": "share"}


def solution(task):
    spec = spec_from_file_location(f"solution_{task}", SOLUTIONS / f"{task}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, FUNCTIONS[task])


def test_there_is_a_solution_for_every_task_and_none_in_the_package():
    assert set(course.tasks()) == {path.stem for path in SOLUTIONS.glob("*.py")} == set(FUNCTIONS)


@pytest.mark.parametrize("seed", [0, 7, 12345])
@pytest.mark.parametrize("task", course.tasks())
def test_the_solution_passes(task, seed):
    report = course.check_program(task, solution(task), seed=seed, cases=40)
    assert report, str(report)
    assert str(report) == "All 40 cases passed."


# -- planted mistakes ------------------------------------------------------------------------


def without_offset(read, root, gva):
    found = solution("walker")(read, root, gva)
    return None if found is None else found & ~0xFFF


def never_large(read, root, gva):
    return solution("walker")(lambda at: read(at) & ~0x80, root, gva)


def pat_in_address(read, root, gva):
    table = root
    for shift in (39, 30, 21, 12):
        entry = read(table + (gva >> shift & 511) * 8)
        if not entry & 1:
            return None
        if shift == 12 or entry & 0x80:
            return entry & 0x000F_FFFF_FFFF_F000 | gva & (1 << shift) - 1
        table = entry & 0x000F_FFFF_FFFF_F000
    return None


def faults_as_zero(read, root, gva):
    return solution("walker")(read, root, gva) or 0


def guest_frame(pte, home, tables):
    return solution("shadow")(pte, lambda gpa: home(gpa) and gpa, tables)


def tables_writable(pte, home, tables):
    return solution("shadow")(pte, home, ())


def dirty_forgotten(pte, home, tables):
    return solution("shadow")(pte | 0x40, home, tables)


def takes_used_memory(host, guests):
    return {one.name: one.current // 2 for one in guests}


def takes_nothing(host, guests):
    return {}


def takes_always(host, guests):
    return {one.name: one.current - one.unused for one in guests if one.used >= one.minimum}


def by_first_byte(pages):
    first = {}
    return [first.setdefault(page[:1], number) for number, page in enumerate(pages)]


def shares_nothing(pages):
    return list(range(len(pages)))


MISTAKES = {
    "walker": (without_offset, never_large, pat_in_address, faults_as_zero),
    "shadow": (guest_frame, tables_writable, dirty_forgotten),
    "policy": (takes_used_memory, takes_nothing, takes_always),
    "sharer": (by_first_byte, shares_nothing),
}


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


# -- what never ends, and what is no answer --------------------------------------------------


def endless(*_):
    while True:
        pass


def endless_and_deaf(*_):
    for _ in range(40):  # a test should leave nothing running for ever
        with suppress(BaseException):  # what a learner should not write
            time.sleep(0.05)


def asleep(*_):
    time.sleep(2)


def endless_recursion(*arguments):
    return endless_recursion(*arguments)


def leaves(*_):
    sys.exit(3)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "function, words",
    [
        (endless_and_deaf, "no answer in time"),
        (asleep, "no answer in time"),
        (leaves, "raised SystemExit: 3"),
        (interrupted, "raised KeyboardInterrupt"),
        (lambda *_: 1 // 0, "raised ZeroDivisionError"),
        (lambda: 1, "raised TypeError"),
        (lambda *_: "0x1000", "expected "),
        (lambda *_: None, "expected "),
        (lambda *_: object(), "expected "),
    ],
)
def test_a_function_that_does_not_answer_is_told_in_one_line(function, words):
    started = time.monotonic()
    report = course.check_program("walker", function, seconds=1)
    assert time.monotonic() - started < 20
    assert not report
    assert words in str(report)
    assert "\n" not in str(report)


def test_an_endless_recursion_is_python_s_own_error():
    report = course.check_program("walker", endless_recursion, seconds=20)
    assert "raised RecursionError" in str(report)


def test_an_endless_loop_is_stopped_by_its_lines():
    ran = run(endless, (), lines=1000)
    assert ran.how == "lines"
    assert ran.line in range(1, 1000)


def test_an_endless_loop_ends_for_good():
    before = set(threading.enumerate())
    assert run(endless, (), lines=10**9, seconds=0.2).how == "time"
    for one in set(threading.enumerate()) - before:
        one.join(5)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("task", ["shadow", "policy", "sharer"])
@pytest.mark.parametrize("value", [None, "text", 7.5, [None], object()])
def test_an_answer_of_another_kind_is_told(task, value):
    report = course.check_program(task, lambda *_: value)
    assert not report
    assert "\n" not in str(report)


def test_the_tracing_of_others_is_left_alone():
    before = sys.gettrace()
    course.check_program("sharer", solution("sharer"), cases=2)
    assert sys.gettrace() is before


def test_a_place_without_threads_counts_lines_only(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run(endless, (), lines=500).how == "lines"
    assert course.check_program("walker", solution("walker"))


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
