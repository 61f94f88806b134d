"""What address spaces ask of whoever takes pages away and brings them back (guest/reclaim.py)."""

from typing import Protocol

from kvmlab.guest.process import Process
from kvmlab.linux.frames import Pages


class Pager(Protocol):
    """Who takes pages away and brings them back, once it is attached (guest/reclaim.py)."""

    def faulted(self) -> None:
        """A fault of a process is served, or a page is given to it as if by one."""

    def in_swap(self, process: Process, gva: int) -> bool:
        """Whether a page of a process's own is in swap."""

    def end_if_doomed(self, process: Process) -> None:
        """Raise `ProcessKilled` if what was done for a process cost too much."""

    def fill(self, process: Process, gva: int, frame: int) -> None:
        """A page is about to be mapped: give it what it held before."""

    def mapped(self, process: Process, gva: int, frame: int, order: int) -> None:
        """A page of 2**order frames is mapped."""

    def populated(self, process: Process, gva: int, frames: Pages) -> None:
        """Neighbouring pages of a new mapping were filled and mapped, as if one by one."""

    def copied(self, parent: Process, child: Process) -> None:
        """A child has what its parent has, wherever it is."""

    def forget(self, root: int, start: int, end: int) -> None:
        """A range is unmapped."""

    def gone(self, root: int) -> None:
        """An address space is no more."""
