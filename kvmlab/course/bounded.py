"""A learner's function, run within the process so that it comes to an end.

It runs in a thread of its own with a budget of lines (sys.settrace, of that thread alone) and of
time.  What swallows that which stops it is left behind when its time is up: the notebook goes on.
Where there are no threads (Pyodide) only lines are counted.  One thing cannot be stopped from
within a process: a single call into C that never ends, such as ``sum(iter(int, 1))``.  So where
there are processes, `apart` is used instead, with the same `Budget`.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

LINES, SECONDS = 200_000, 5.0
_ASKED_TO_STOP = 20  # times, a moment apart
_MOMENT = 0.01


class OutOfBounds(SystemExit):
    """The function takes too long; ``except Exception`` lets it pass, and threads end silently."""


@dataclass(slots=True)
class Ran:
    """How a call ended: ``returned``, ``raised``, ``lines`` or ``time``, and at which line."""

    how: str
    value: object = None
    line: int = 0


class Budget:
    """Counts the lines that a function runs, and stops it at the last one.

    ``place`` is where the number of the present line is kept: eight bytes, perhaps shared.
    """

    def __init__(self, lines: int = LINES, place: memoryview | None = None) -> None:
        self._left, self._file = lines, ""
        self._line = (place or memoryview(bytearray(8))).cast("Q")

    @property
    def line(self) -> int:
        """The line that runs now, or ran last, in the file of the function."""
        return self._line[0]

    def call(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> Ran:
        """How the function ended."""
        try:
            return Ran("returned", self._traced(function, arguments))
        except OutOfBounds:
            return Ran("lines" if self._left < 0 else "time", line=self.line)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  it is told
            return Ran("raised", error, self.line)

    def _traced(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> object:
        before = sys.gettrace()
        self._file = getattr(getattr(function, "__code__", None), "co_filename", "")
        sys.settrace(self._trace)
        try:
            return function(*arguments)
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401  CPython's own type of trace functions
        if event == "line":
            if frame.f_code.co_filename == self._file or not self._file:
                self._line[0] = frame.f_lineno or 0
            self._left -= 1
            if self._left < 0:
                raise OutOfBounds
        return self._trace


def run(function: Callable[..., object], arguments: tuple[Any, ...], *, lines: int = LINES,
        seconds: float = SECONDS) -> Ran:  # fmt: skip
    """Call ``function`` within its bounds; whatever it does, how it ended is returned."""
    budget = Budget(lines)
    result = Ran("time")
    done = threading.Event()

    def work() -> None:
        nonlocal result
        try:
            result = budget.call(function, arguments)
        except OutOfBounds:
            result = Ran("time", line=budget.line)
        finally:
            done.set()

    thread = threading.Thread(target=work, daemon=True, name="learner")
    try:
        thread.start()
    except RuntimeError:  # no threads here
        return budget.call(function, arguments)
    if not done.wait(seconds):
        _stop(thread, done)
        return Ran("time", line=budget.line)
    return result


def _stop(thread: threading.Thread, done: threading.Event) -> None:
    """Raise `OutOfBounds` in a thread until it heeds that, or for a fifth of a second."""
    for _ in range(_ASKED_TO_STOP):
        if done.is_set() or thread.ident is None:
            return
        name = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(name, ctypes.py_object(OutOfBounds))
        done.wait(_MOMENT)
