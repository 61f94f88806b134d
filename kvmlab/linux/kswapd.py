"""kswapd: an allocation that leaves few pages free wakes it; it reclaims to the high mark."""

from collections.abc import Callable

from kvmlab.base.clock import Clock, Timer
from kvmlab.linux.memory import Memory


class Kswapd:
    """The daemon of one kernel; woken, it runs as soon as ``clock`` moves on.

    ``run`` does its work in the kernel's way: a guest enters its kernel for it.
    """

    def __init__(
        self, memory: Memory, clock: Clock, run: Callable[[Callable[[], None]], None]
    ) -> None:
        self._memory, self._clock, self._run = memory, clock, run
        self._timer: Timer | None = None
        memory.wake_kswapd = self._wake

    def _wake(self) -> None:
        if self._timer is None or not self._timer.pending:
            self._timer = self._clock.after(0, lambda: self._run(self._memory.balance))
