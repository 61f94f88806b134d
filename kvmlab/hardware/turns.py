"""Who speaks: the records of several logical CPUs in one stream."""

from kvmlab.base.tap import Tap
from kvmlab.hardware.records import OnCpu


class Turns:
    """Lets an `OnCpu` precede the records of a CPU whenever another one spoke before."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._now = 0

    def of(self, number: int) -> Tap:
        """The tap of CPU ``number``."""

        def speak(record: object) -> None:
            if self._now != number:
                self._now = number
                self._tap(OnCpu(number))
            if not isinstance(record, OnCpu):
                self._tap(record)

        return speak
