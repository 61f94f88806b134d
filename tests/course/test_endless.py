"""Functions that never answer: in a process of their own or within this one, all ends."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kvmlab import course
from kvmlab.course.bounded import run
from tests.course.learners import MISTAKES, solution

ROOT = Path(__file__).parents[2]


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


def test_the_tracing_of_others_is_left_alone():
    before = sys.gettrace()
    course.check_program("sharer", solution("sharer"), cases=2)
    assert sys.gettrace() is before


# -- calls into C that never end -------------------------------------------------------------

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process of its own needs fork")


def counts_for_ever(*_):
    return sum(iter(int, 1))


def a_number_too_large(*_):
    return 10**10**9


def more_memory_than_there_is(*_):
    return list(range(10**12))


def more_memory_than_is_allowed(*_):
    return bytearray(3 << 30)


def backtracks(*_):
    return re.match("(a+)+$", "a" * 40 + "b")


def leaves_at_once(*_):
    os._exit(3)


def kills_itself(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@forks
@pytest.mark.parametrize(
    "function, words",
    [
        (counts_for_ever, "no answer in time"),
        (a_number_too_large, "no answer in time"),
        (backtracks, "no answer in time"),
        (more_memory_than_there_is, "raised MemoryError"),
        (more_memory_than_is_allowed, "raised MemoryError"),
        (leaves_at_once, "your function ended Python itself"),
        (kills_itself, "your function ended Python itself"),
    ],
)
def test_what_nothing_within_a_process_can_stop_is_ended_and_told(function, words):
    started = time.monotonic()
    report = course.check_program("walker", function, seconds=1)
    assert time.monotonic() - started < 15
    assert words in str(report)
    line = function.__code__.co_firstlineno + 1  # of this file, and not of the library's
    assert f"line {line}" in str(report)
    assert "\n" not in str(report)


@forks
def test_no_process_is_left_behind():
    course.check_program("walker", counts_for_ever, seconds=0.2)
    course.check_program("sharer", solution("sharer"), cases=2)
    with pytest.raises(ChildProcessError):  # there is nothing to wait for
        os.waitpid(-1, os.WNOHANG)


ORPHAN = """
import os, signal
from kvmlab import course
def endless(*_):
    print(os.getpid(), flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
    return sum(iter(int, 1))
course.check_program("walker", endless, seconds=0.5)
"""


@forks
def test_an_endless_call_ends_even_if_its_notebook_dies():
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    deadline, orphan = time.monotonic() + 20, int(done.stdout)
    while running(orphan):
        assert time.monotonic() < deadline, "it runs for ever"
        time.sleep(0.1)


def running(process):
    """Whether there is such a process, and not only what nobody has waited for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").split(")")[-1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@forks
def test_what_a_function_prints_is_seen(capfd):
    def chatty(pages):
        print(len(pages), "pages")
        return []

    report = course.check_program("sharer", chatty, cases=3)
    assert report.passed == 0
    assert capfd.readouterr().out.count("pages") == 1


# -- where there are no processes ------------------------------------------------------------


@pytest.fixture
def no_processes(monkeypatch):
    monkeypatch.delattr(os, "fork", raising=False)


@pytest.mark.parametrize(
    "task, function",
    [
        *((task, one) for task, several in MISTAKES.items() for one in several),
        ("walker", endless_and_deaf),
        ("walker", leaves),
        ("walker", endless),
        ("sharer", lambda *_: [None]),
        ("policy", lambda *_: object),
    ],
)
def test_the_same_is_said_without_processes(task, function, no_processes, monkeypatch):
    within = course.check_program(task, function, cases=20, seconds=1)
    monkeypatch.undo()
    apart = course.check_program(task, function, cases=20, seconds=1)
    assert without_line(within) == without_line(apart)


def without_line(report):
    """A report without the line of a loop at which its time was up."""
    loops = "in time" in str(report) or "endless loop" in str(report)
    return replace(report, text=re.sub(r"line \d+", "line", report.text)) if loops else report


def test_a_system_that_forbids_processes_is_one_without_them(monkeypatch):
    def refuse():
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse, raising=False)
    assert course.check_program("sharer", solution("sharer"), cases=2)


def test_a_place_without_threads_counts_lines_only(no_processes, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run(endless, (), lines=500).how == "lines"
    assert course.check_program("walker", solution("walker"))
