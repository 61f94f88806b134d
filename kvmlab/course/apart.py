"""A learner's function in a process of its own, which can be ended whatever it does.

A fork has the learner's function and all it refers to without any pickling; what it says comes back
as text through a pipe.  When a case takes too long the process is killed, be it in a loop, asleep,
or in a call into C; its memory is limited, and should this process die, an alarm ends that one.
What the function changes outside of itself is changed in the other process only.

Windows and Pyodide have no fork; there `tried` raises `NoProcess`.
"""

import math
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MEMORY = 1 << 30
"""Bytes that a function may have beyond what its process has anyway."""

_GRACE = 2  # seconds until the alarm, should nobody be there to kill
_PAGE = 8  # bytes: the number of a line

Trial = Callable[[int, memoryview], str | None]
"""Tries case n, keeping the line that runs in eight bytes; what is wrong in words, else None."""


class NoProcess(Exception):
    """Where there are no processes that can be forked."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How many cases passed, and how the next one failed: in ``words``, or as ``how`` says.

    ``how`` is ``passed`` (all did), ``failed``, ``time`` or ``died``; ``line`` ran last.
    """

    passed: int
    how: str
    words: str = ""
    line: int = 0


def tried(trial: Trial, count: int, seconds: float) -> Ended:
    """Try the cases 0 to ``count`` - 1 in another process, each within ``seconds``.

    The first that fails ends it.  Raises `NoProcess`.
    """
    place = memoryview(mmap.mmap(-1, _PAGE))  # shared with the other process
    receiver, sender, child = _forked()
    if child == 0:
        _serve(trial, count, seconds, place, sender)
    sender.close()
    number, words = 0, ""
    try:
        for number in range(count):
            if not receiver.poll(seconds):
                return Ended(number, "time", line=_line(place))
            words = receiver.recv_bytes().decode()
            if words:
                break
        receiver.poll(_GRACE)  # until it has ended: what it prints is still under way
    except (EOFError, OSError):
        return Ended(number, "died", line=_line(place))
    finally:
        os.kill(child, signal.SIGKILL)  # it is ours until it has been waited for
        os.waitpid(child, 0)
        receiver.close()
    return Ended(number, "failed", words) if words else Ended(count, "passed")


def _line(place: memoryview) -> int:
    return int.from_bytes(place, sys.byteorder)


def _forked() -> tuple["Connection", "Connection", int]:
    """Both ends of a pipe, and 0 in the other process; here, that process."""
    if not hasattr(os, "fork"):
        raise NoProcess
    try:
        from multiprocessing import Pipe  # noqa: PLC0415  Pyodide has none

        receiver, sender = Pipe(duplex=False)
        sys.stdout.flush()  # or both would write what waits there
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of locks that other threads hold; a learner's function takes none.
            warnings.simplefilter("ignore", DeprecationWarning)
            return receiver, sender, os.fork()
    except (ImportError, OSError):
        raise NoProcess from None


def _serve(
    trial: Trial, count: int, seconds: float, place: memoryview, sender: "Connection"
) -> NoReturn:
    """Try the cases up to the first that fails, and end this process: it never returns."""
    with suppress(BaseException):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and kills
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _limit_memory()
        for number in range(count):
            signal.alarm(math.ceil(seconds) + _GRACE)
            words = trial(number, place) or ""
            sender.send_bytes(words.encode())
            if words:
                break
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # no handler, no other thread's work


def _limit_memory() -> None:
    """Let this process have `MEMORY` more than it has; only Linux says how much that is."""
    import resource  # noqa: PLC0415  not on Windows

    with suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  no more objects than needed
            pages = int(file.read().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + MEMORY, most))
