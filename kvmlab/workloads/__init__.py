"""What runs on the simulated machine: traces recorded from real programs, shipped here.

Programs that are made up, forks and all, are in `programs`.
"""

from dataclasses import replace
from importlib import resources

from kvmlab.base.errors import BadChoice
from kvmlab.workloads.reading import read, stream
from kvmlab.workloads.trace import Trace

__all__ = ["SHIPPED", "Trace", "read", "shipped", "stream"]

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
