"""kvmlab: how KVM virtualizes memory, taught on an engine of real page tables.

``Machine`` is one host with a guest; ``labs`` are its widgets, ``workloads`` its traces, and
``errors`` what it refuses.  Importing the package loads none of them: each is loaded when it is
first asked for, so that the command line is quick and the engine runs without a widget toolkit.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kvmlab.base import errors

if TYPE_CHECKING:
    from kvmlab import labs, workloads
    from kvmlab.machine import Machine

__version__ = "0.1.0"
__all__ = ("Machine", "__version__", "errors", "labs", "workloads")


def __getattr__(name: str) -> object:
    """Load ``Machine``, ``labs`` or ``workloads`` at the first use."""
    if name == "Machine":
        return import_module("kvmlab.machine").Machine
    if name in ("labs", "workloads"):
        return import_module(f"kvmlab.{name}")
    raise AttributeError(f"module 'kvmlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
