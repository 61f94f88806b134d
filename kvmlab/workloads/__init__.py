"""What runs on the simulated machine: recorded traces, synthetic programs, captured guests.

`named` finds a program by what a person writes: the name of one that is shipped (``sort``), of a
synthetic one (``zipf:seed=3``), or of a file.
"""

from dataclasses import replace
from importlib import resources

from kvmlab.base.errors import BadChoice, TraceError
from kvmlab.workloads import synthetic
from kvmlab.workloads.files import Progress
from kvmlab.workloads.long_trace import LongTrace
from kvmlab.workloads.reading import read, stream
from kvmlab.workloads.storms import Scenario
from kvmlab.workloads.trace import Trace

__all__ = [
    "LONG",
    "SHIPPED",
    "LongTrace",
    "Scenario",
    "Trace",
    "named",
    "read",
    "shipped",
    "stream",
    "trace_named",
]

LONG = 10_000_000
"""Records of a file from which on it is replayed part by part, in bounded memory."""

SHIPPED = ("ls", "sort")
"""Names of the traces that come with kvmlab; `data/README.md` says how they were recorded."""


def shipped(name: str) -> Trace:
    """The trace recorded from `ls -l` or from `sort`; it is read anew on each call.

    Raises `BadChoice` for any other name.
    """
    if name not in SHIPPED:
        raise BadChoice(f"no trace {name!r} is shipped; choose one of: {', '.join(SHIPPED)}")
    with resources.as_file(resources.files(__name__) / "data" / f"{name}.lackey.xz") as path:
        return replace(read(path), name=name)


def named(
    text: str, limit: int | None = None, progress: Progress | None = None
) -> Trace | LongTrace | Scenario:
    """The program called ``text``, or its first ``limit`` records or operations.

    A file whose name is a program's is written ./sort; of more than `LONG` records, it is a
    `LongTrace`.  Raises `BadChoice` for a synthetic program that cannot be made, `TraceError` for
    a file that cannot be read.
    """
    if text not in SHIPPED and not synthetic.is_synthetic(text):
        least = LONG if limit is None else limit
        trace = read(text, progress, limit=least)
        return LongTrace(text, progress) if limit is None and len(trace) == LONG else trace
    program = shipped(text) if text in SHIPPED else synthetic.make(text)
    return program if limit is None else program.head(limit)


def trace_named(text: str, limit: int | None = None) -> Trace:
    """`named`, for those who take accesses only; raises `BadChoice` for what calls its kernel."""
    program = named(text, limit)
    if isinstance(program, Scenario):
        raise BadChoice(f"{text} calls its kernel; only a trace can be taken here")
    if isinstance(program, LongTrace):
        raise TraceError(f"{text} holds {len(program):,} records; set a limit of {LONG:,} or less")
    return program
