"""The logical CPUs that the kernel runs on.

They take turns here, as the simulation is one thread: what runs, runs on the CPU whose turn it
is, until it interrupts another one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from kvmlab.base.errors import BadChoice
from kvmlab.guest.contexts import Contexts
from kvmlab.guest.process import Process
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import OnCpu

T = TypeVar("T")


class Smp:
    """All CPUs, each with what it runs, and the number of the one whose turn it is."""

    def __init__(self, contexts: Sequence[Contexts]) -> None:
        self.contexts = tuple(contexts)
        self._number = 0

    @property
    def here(self) -> Contexts:
        """What the CPU runs whose turn it is."""
        return self.contexts[self._number]

    @property
    def cpu(self) -> Cpu:
        """The CPU whose turn it is."""
        return self.here.cpu

    @contextmanager
    def on(self, number: int) -> Iterator[None]:
        """Meanwhile it is the turn of CPU ``number``; raises `BadChoice` if there is none."""
        if number not in range(len(self.contexts)):
            last = len(self.contexts) - 1
            raise BadChoice(f"there is no CPU {number}; this machine has CPUs 0 to {last}")
        before = self._number
        self._turn(number)
        try:
            yield
        finally:
            self._turn(before)

    def _turn(self, number: int) -> None:
        if number != self._number:
            self._number = number
            self.cpu.tap(OnCpu(number))

    def stop(self, process: Process, *, elsewhere: bool = False) -> None:
        """End the threads of ``process``, each on its CPU: all, or those on other CPUs than this.

        Linux signals them by an interrupt, zap_other_threads(), which is left out here.
        """
        here = self.here
        for number, contexts in enumerate(self.contexts):
            if contexts.current is process and not (elsewhere and contexts is here):
                with self.on(number), contexts.entered():
                    contexts.switch(None)

    def bound(self, number: int, handler: Callable[[T], None]) -> Callable[[T], None]:
        """``handler`` as CPU ``number`` runs it, whose turn it then is."""

        def run(event: T) -> None:
            with self.on(number):
                handler(event)

        return run
