"""The simulated clock: integer nanoseconds since power-on, and timers that fire in order.

Nothing here reads the real clock, so the same actions give the same times on every machine;
the date of power-on is fixed too.
Time passes only in `Clock.advance`; timers that are due then fire one after another, earliest
first and, at the same instant, in the order in which they were set.  While one fires, ``now`` is
the time that it was set for, and a timer that it sets itself fires in the same call if it is due.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from kvmlab.base.errors import BadChoice, ProcessKilled

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
POWER_ON = 1_767_225_600  # 2026-01-01 00:00:00 UTC, in seconds since 1970


@dataclass(order=True, slots=True)
class Timer:
    """One thing to be done at ``due`` nanoseconds; it is done once, unless cancelled first."""

    due: int
    serial: int
    action: Callable[[], None] | None = field(compare=False)

    @property
    def pending(self) -> bool:
        """Whether it is still to fire."""
        return self.action is not None

    def cancel(self) -> None:
        """Never fire; of no effect on a timer that has fired."""
        self.action = None


class Clock:
    """Simulated time, which starts at 0."""

    def __init__(self) -> None:
        self._now = 0
        self._timers: list[Timer] = []
        self._serials = count()

    @property
    def now(self) -> int:
        """Nanoseconds since power-on."""
        return self._now

    @property
    def wall(self) -> int:
        """The date as time(2) tells it: whole seconds since 1970."""
        return POWER_ON + self.now // SECOND

    def at(self, when: int, action: Callable[[], None]) -> Timer:
        """Call ``action`` at ``when`` nanoseconds; raises `BadChoice` for a time gone by."""
        if when < self._now:
            raise BadChoice(f"a timer for {when} ns is in the past: it is {self._now} ns now")
        timer = Timer(when, next(self._serials), action)
        heapq.heappush(self._timers, timer)
        return timer

    def after(self, delay: int, action: Callable[[], None]) -> Timer:
        """Call ``action`` once ``delay`` nanoseconds have passed; raises `BadChoice`."""
        return self.at(self.now + delay, action)

    def next_due(self) -> int | None:
        """When the next timer fires; None if there is none."""
        while self._timers and not self._timers[0].pending:
            heapq.heappop(self._timers)
        return self._timers[0].due if self._timers else None

    def advance(self, to: int) -> None:
        """Let time pass until ``to`` nanoseconds and fire what is due by then, in order.

        Raises `BadChoice` for a time gone by.  An error of a timer's action ends the call with
        ``now`` at that timer's time, and the timers after it still set.
        """
        if to < self._now:
            raise BadChoice(f"time does not run back: it is {self._now} ns, after {to} ns")
        while (due := self.next_due()) is not None and due <= to:
            timer = heapq.heappop(self._timers)
            action, timer.action = timer.action, None
            self._now = due
            if action:
                action()
        self._now = to

    def sleep(self, nanoseconds: int) -> None:
        """Let ``nanoseconds`` pass; raises `BadChoice` for fewer than none."""
        self.advance(self.now + nanoseconds)


class MortalClock(Clock):
    """The time of ``clock`` for one of many who live by it, for as long as ``alive`` says so.

    Its timers do not outlive it: what is due later is dropped, and when a timer's own action is
    what ends it, time goes on for the others.
    """

    def __init__(self, clock: Clock, alive: Callable[[], bool]) -> None:
        super().__init__()
        self._clock, self._alive = clock, alive

    @property
    def now(self) -> int:
        """Nanoseconds since power-on of what all share."""
        return self._clock.now

    def at(self, when: int, action: Callable[[], None]) -> Timer:
        """Call ``action`` at ``when`` nanoseconds if it lives then; raises `BadChoice`."""
        return self._clock.at(when, partial(self._fire, action))

    def _fire(self, action: Callable[[], None]) -> None:
        if not self._alive():
            return
        try:
            action()
        except ProcessKilled:
            if self._alive():  # someone else's death: that is for the caller to hear
                raise

    def next_due(self) -> int | None:
        """When the next timer of anyone fires; None if there is none."""
        return self._clock.next_due()

    def advance(self, to: int) -> None:
        """Let time pass for all, as `Clock.advance` does."""
        self._clock.advance(to)
