"""Where the cells of a sweep run: in this process, or in several on this machine.

Any other `concurrent.futures.Executor` does as well, such as Dask's (`Client.get_executor`).
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")
_LAST_WORDS = 5  # seconds that a pool's threads have to end after its workers


class Inline(Executor):
    """Runs what is submitted at once, in this very process: for one job, and for Pyodide."""

    def submit(
        self,
        fn: Callable[_Arguments, _Value],
        /,
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> Future[_Value]:
        """Call ``fn`` now; the future is done when this returns."""
        future: Future[_Value] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  whoever asks the future hears of it
            future.set_exception(error)
        return future


def usual_jobs() -> int:
    """How many cells to run at a time: one a CPU that this process may use; one in a browser."""
    if sys.platform == "emscripten":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def local(jobs: int) -> Iterator[Executor]:
    """Up to ``jobs`` cells at a time on this machine.

    The workers are new interpreters, which inherit no locks and no threads of this one.  An
    interrupt ends them at once, with what they were at.
    """
    if jobs <= 1:
        yield Inline()
        return
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415  there is none in Pyodide

    before, threads = set(multiprocessing.active_children()), set(threading.enumerate())
    context: Any = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        for thread in set(threading.enumerate()) - threads:
            thread.join(_LAST_WORDS)  # else it may close what the interpreter's end writes to
        raise
    pool.shutdown()


def _leave_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal; the one that started the sweep answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
