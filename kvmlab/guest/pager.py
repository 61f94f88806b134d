"""What address spaces ask of whoever takes pages away and brings them back (guest/reclaim.py)."""

from typing import Protocol

from kvmlab.guest.process import Process
from kvmlab.linux.frames import Pages


class Pager(Protocol):
    """Who takes pages away and brings them back, once it is attached (guest/reclaim.py)."""

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
