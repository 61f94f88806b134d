"""Programming tasks: a learner's function is run on seeded cases, and the first failure is told.

`check_program` never raises for what the function does; its `Report` says which case failed, what
was expected and what came.  Where there are processes the function runs in one of its own
(`apart`), so that nothing it does can hang the notebook.  Elsewhere (Windows, Pyodide) it runs
within bounds (`bounded`), which a single endless call into C escapes.  What is said is the same.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmlab.base.errors import BadChoice
from kvmlab.course.apart import Ended, NoProcess, tried
from kvmlab.course.bounded import LINES, SECONDS, Budget, Ran, run
from kvmlab.course.draw import Draw
from kvmlab.course.task import Case, Task
from kvmlab.course.tasks import TASKS
from kvmlab.text import say

CASES = 20
_MOST_CASES = 1000
_MOST_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Report:
    """How a function did: how many cases it passed, and in words what went wrong, if anything."""

    task: str
    passed: int
    cases: int
    text: str

    @property
    def ok(self) -> bool:
        """Whether every case passed."""
        return self.passed == self.cases

    def __bool__(self) -> bool:
        """Whether every case passed, so that ``assert course.check_program(..)`` grades."""
        return self.ok

    def __str__(self) -> str:
        """What is to be said."""
        return self.text


def tasks() -> tuple[str, ...]:
    """The programming tasks there are."""
    return tuple(TASKS)


def describe(task: str) -> str:
    """What a task asks for: the function's arguments, and what it returns."""
    return say(f"course.task.{_task(task).name}")


def check_program(
    task: str,
    function: Callable[..., object],
    *,
    seed: int = 7,
    cases: int = CASES,
    seconds: float = SECONDS,
) -> Report:
    """Run ``function`` on ``cases`` seeded cases of ``task``; the first that fails ends it.

    Each call may take 200,000 lines, ``seconds`` and 1 GiB.  What it changes outside of itself is
    not seen here where it runs in a process of its own.  Raises `BadChoice` for a task that there
    is not, for what is no function, and for a number of cases below 1 or above 1000.
    """
    found = _task(task)
    if not callable(function):
        raise BadChoice(f"a function is wanted, not {type(function).__name__}")
    if type(cases) is not int or not 1 <= cases <= _MOST_CASES:
        raise BadChoice(f"{cases!r} cases cannot be tried; choose 1 to {_MOST_CASES}")
    if type(seed) is not int:
        raise BadChoice(f"{seed!r} is no seed; write a whole number")

    def trial(number: int, place: memoryview) -> str | None:
        case = _case(found, seed, number)
        return _trouble(found, case, Budget(LINES, place).call(function, case.arguments))

    try:
        ended = tried(trial, cases, seconds)
    except NoProcess:
        ended = _within(found, function, seed, cases, seconds)
    if ended.how == "passed":
        return Report(task, cases, cases, say("course.program.passed", cases=cases))
    values = {
        "number": ended.passed + 1,
        "case": str(_case(found, seed, ended.passed).words),
        "trouble": ended.words or say(f"course.program.{ended.how}", line=ended.line),
    }
    return Report(task, ended.passed, cases, say("course.program.failed", **values))


def _within(
    task: Task, function: Callable[..., object], seed: int, cases: int, seconds: float
) -> Ended:
    """Try all cases in this process."""
    for number in range(cases):
        case = _case(task, seed, number)
        ran = run(function, case.arguments, seconds=seconds)
        if trouble := _trouble(task, case, ran):
            return Ended(number, "failed", trouble)
    return Ended(cases, "passed")


def _task(name: str) -> Task:
    if name not in TASKS:
        raise BadChoice(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def _case(task: Task, seed: int, number: int) -> Case:
    return task.make(Draw(f"task/{task.name}/{seed}/{number}"))


def _trouble(task: Task, case: Case, ran: Ran) -> str | None:
    """What is wrong with how a case ended, in a sentence; None if nothing is."""
    if ran.how == "lines":
        return say("course.program.lines", lines=LINES, line=ran.line)
    if ran.how == "time":
        return say("course.program.time", line=ran.line)
    if ran.how == "raised":
        error = f"{type(ran.value).__name__}: {ran.value}".removesuffix(": ")
        return say("course.program.raised", error=_short(error), line=ran.line)
    try:
        said = task.judge(case, plain(ran.value))
    except (TypeError, ValueError, AttributeError):
        return say("course.program.kind", got=_short(repr(ran.value)))
    return None if said is None else str(said)


def plain(value: Any) -> Any:  # noqa: ANN401  whatever a learner returns
    """``value`` with NumPy's whole numbers, for one, as Python's."""
    if isinstance(value, bool) or value is None:
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 1] + "…"
