"""ESX's memory policy: shares, a tax on idle memory, and four states of free memory.

C. Waldspurger, "Memory Resource Management in VMware ESX Server" (OSDI 2002), sections 3 to 6.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmlab.base.errors import BadSize
from kvmlab.management.balloon_manager import GuestSample, HostSample, Targets

TAX_RATE = 0.75  # the default tau: an idle page costs four active ones
STATES = ("high", "soft", "hard", "low")
_THRESHOLDS = (0.06, 0.04, 0.02, 0.01)  # of the machine's memory, for the four states
SAMPLE_PAGES, SAMPLE_SECONDS = 100, 30


def thresholds(total: float) -> dict[str, float]:
    """Where each state begins, in the unit of ``total``."""
    return {state: part * total for state, part in zip(STATES, _THRESHOLDS, strict=True)}


def shares_per_page(shares: float, pages: float, active: float, tax: float = TAX_RATE) -> float:
    """The adjusted shares-per-page ratio: rho = S / (P * (f + k * (1 - f))), k = 1 / (1 - tau)."""
    if not 0 <= tax < 1:
        raise BadSize(f"a tax rate of {tax} is not in [0, 1); the default is {TAX_RATE}")
    idle_cost = 1 / (1 - tax)
    return shares / (pages * (active + idle_cost * (1 - active)))


@dataclass(slots=True)
class Esx:
    """A manager that takes from the guest with the lowest rho (min-funding revocation).

    It acts from the state ``soft`` on, by ballooning, until free memory would be back at
    ``high``; ``state`` is what it was in last.  A state is left upwards only when the threshold
    of the next higher one is reached, so that it does not flap.
    """

    tax: float = TAX_RATE
    step: int = 1024  # KiB taken at a time
    state: str = "high"

    def __call__(self, host: HostSample, guests: Sequence[GuestSample]) -> Targets:
        """What each guest that must give is left with, or may have back."""
        self.state = self._next_state(host)
        high = int(thresholds(host.total)["high"])
        left = {one.name: one.current for one in guests}
        if self.state == "high":
            self._give(host.available - high, guests, left)
        else:
            self._take(high - host.available, guests, left)
        return {one.name: left[one.name] for one in guests if left[one.name] != one.current}

    def _next_state(self, host: HostSample) -> str:
        limits = thresholds(host.total)
        now = STATES.index(self.state)
        while now + 1 < len(STATES) and host.available < limits[STATES[now + 1]]:
            now += 1
        while now and host.available >= limits[STATES[now - 1]]:
            now -= 1
        return STATES[now]

    def _rho(self, guest: GuestSample, left: dict[str, int]) -> float:
        return shares_per_page(guest.shares, left[guest.name], guest.active, self.tax)

    def _take(self, need: int, guests: Sequence[GuestSample], left: dict[str, int]) -> None:
        while need > 0:
            able = [one for one in guests if left[one.name] - self.step >= max(one.minimum, 1)]
            if not able:
                return
            victim = min(able, key=lambda one: self._rho(one, left))
            left[victim.name] -= self.step
            need -= self.step

    def _give(self, spare: int, guests: Sequence[GuestSample], left: dict[str, int]) -> None:
        while spare >= self.step:
            able = [one for one in guests if left[one.name] + self.step <= one.maximum]
            if not able:
                return
            richest = max(able, key=lambda one: self._rho(one, left))
            left[richest.name] += self.step
            spare -= self.step


@dataclass(slots=True)
class ActiveEstimate:
    """How much of its memory a guest touches, from ``SAMPLE_PAGES`` random pages a period.

    The largest of a slow average, a fast one, and the period under way: growth is seen at once,
    decline slowly.
    """

    slow: float = 0.0
    fast: float = 0.0
    present: float = 0.0
    slow_weight: float = 0.2
    fast_weight: float = 0.8

    def period(self, touched: int, sampled: int = SAMPLE_PAGES) -> float:
        """A period ended with ``touched`` of the ``sampled`` pages seen accessed; the estimate."""
        if not 0 <= touched <= sampled:
            raise BadSize(f"{touched} pages touched of {sampled} sampled")
        self.present = touched / sampled
        self.slow += self.slow_weight * (self.present - self.slow)
        self.fast += self.fast_weight * (self.present - self.fast)
        return self.value

    @property
    def value(self) -> float:
        """The part of the guest's memory that is in use."""
        return max(self.slow, self.fast, self.present)


@dataclass(slots=True)
class Sampler:
    """Picks the pages whose next access is to be caught, by a seeded draw."""

    pages: int
    seed: int = 0
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def pick(self) -> list[int]:
        """The page numbers of one period, each once."""
        return self.draw.sample(range(self.pages), min(SAMPLE_PAGES, self.pages))
