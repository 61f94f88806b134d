"""Where two designs cost the same: bisection over a parameter of a program, each point really run.

The program is a guest in its steady state (workloads/steady.py).  What is compared is its time end
to end by a table of costs, over that of the native run.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from kvmlab.base.errors import BadChoice, BadSize, MachineCheck
from kvmlab.hardware.geometries import geometry_named, with_walk_caches
from kvmlab.hardware.tlb import Geometry
from kvmlab.kvm.policy import NAIVE, policy_named
from kvmlab.machine import DESIGNS
from kvmlab.study.costs import GRADED, CostTable
from kvmlab.study.executors import Inline
from kvmlab.study.steady import ROUNDS, Measured, measure
from kvmlab.workloads.steady import Steady

PARAMETERS = MappingProxyType({"remaps": (0, 32), "pages": (512, 6144), "switches": (1, 128)})
"""What can be turned, and between which values unless an option says otherwise."""

USUAL = MappingProxyType(
    {
        "remaps": Steady(pages=4096),
        "pages": Steady(remaps=4),
        "switches": Steady(pages=512),
    }
)
"""The rest of the program, for each parameter."""

POINTS = 5
"""Points of each curve before bisection: evenly spaced, both ends among them."""

FINENESS = 64
"""The bracket is at most this part of the interval wide, or 1."""

_MOST_ROUNDS = 10_000

Progress = Callable[[int], None]
"""Told how many points have been run; raise from it to stop."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is turned between which values, what else the program does, and which designs run it.

    Raises `BadChoice` and `BadSize` for what cannot be run.
    """

    parameter: str = "remaps"
    low: int | None = None
    high: int | None = None
    program: Steady | None = None
    designs: tuple[str, str] = ("shadow", "ept")
    policy: str = NAIVE.name
    tlb: str = "skylake"
    walk_caches: str = "own"
    prices: CostTable = GRADED
    rounds: int = ROUNDS  # of a thousand accesses that are counted at each point

    def __post_init__(self) -> None:
        """Look at every value once."""
        if self.parameter not in PARAMETERS:
            names = ", ".join(PARAMETERS)
            raise BadChoice(f"{self.parameter!r} cannot be turned; choose one of {names}")
        for name in self.designs:
            if name not in DESIGNS:
                raise BadChoice(f"design {name!r} is unknown; choose from {', '.join(DESIGNS)}")
        if len({*self.designs}) != 2:
            raise BadChoice(f"{self.designs[0]} does not cross itself; choose two designs")
        policy_named(self.policy)
        if not 1 <= self.rounds <= _MOST_ROUNDS:
            raise BadSize(f"{self.rounds} rounds cannot be counted; choose 1 to {_MOST_ROUNDS}")
        low, high = self.ends
        if low >= high:
            raise BadSize(f"from {low} to {high} is no interval; write the lower end first")
        _ = self.geometry, self.at(low), self.at(high)  # each raises for what it cannot be

    @property
    def ends(self) -> tuple[int, int]:
        """The interval."""
        low, high = PARAMETERS[self.parameter]
        return low if self.low is None else self.low, high if self.high is None else self.high

    @property
    def geometry(self) -> Geometry:
        """The TLB and the walk caches of the processor."""
        return with_walk_caches(geometry_named(self.tlb), self.walk_caches)

    def at(self, x: int) -> Steady:
        """The program with the parameter at ``x``."""
        changes: dict[str, Any] = {self.parameter: x}
        return replace(self.program or USUAL[self.parameter], **changes)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of the parameter, and what native paging and both designs did there."""

    x: int
    runs: dict[str, Measured]

    def slowdown(self, mmu: str, prices: CostTable) -> float:
        """Time over native time."""
        return self.runs[mmu].end_to_end(prices) / self.runs["native"].end_to_end(prices)


@dataclass(frozen=True, slots=True)
class Crossover:
    """Where two designs cross: between ``low`` and ``high`` another one begins to win.

    ``winners`` are the cheaper designs below and above.  ``changes`` is how often the winner
    changes between the evenly spaced points: the crossing is the first of so many.
    """

    plan: Plan
    points: list[Point]  # rising
    low: int
    high: int
    winners: tuple[str, str]
    iterations: int
    changes: int

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; the keys are an interface that others build on."""
        prices = self.plan.prices
        return {
            "parameter": self.plan.parameter,
            "program": {**asdict(self.plan.at(self.low)), self.plan.parameter: None},
            "designs": list(self.plan.designs),
            "policy": self.plan.policy,
            "tlb": self.plan.tlb,
            "walk_caches": self.plan.walk_caches,
            "rounds": self.plan.rounds,
            "costs": {"model": prices.name, "edited": dict(prices.edited)},
            "between": [self.low, self.high],
            "winners": list(self.winners),
            "iterations": self.iterations,
            "changes": self.changes,
            "points": [
                {"x": point.x, **{mmu: _told(point, mmu, prices) for mmu in point.runs}}
                for point in self.points
            ],
        }


def _told(point: Point, mmu: str, prices: CostTable) -> dict[str, Any]:
    run = point.runs[mmu]
    return {
        "accesses": run.accesses,
        "tlb_misses": run.total.lookups["miss"],
        "references": run.total.all_references,
        "exits": run.total.all_exits,
        "cycles": prices.cycles(run.total).total,
        "slowdown_ratio": point.slowdown(mmu, prices),
    }


def crossover(
    plan: Plan, executor: Executor | None = None, progress: Progress | None = None
) -> Crossover:
    """Run evenly spaced points, then bisect where the winner first changes.

    Raises `BadChoice` where it never changes: the line says who wins at both ends.
    """
    curve = _Curve(plan, executor or Inline(), progress)
    low, high = plan.ends
    spaced = [low + (high - low) * part // (POINTS - 1) for part in range(POINTS)]
    curve.run(spaced)
    pairs = [(a, b) for a, b in pairwise(dict.fromkeys(spaced)) if curve.wins(a) != curve.wins(b)]
    if not pairs:
        raise BadChoice(_never(curve, low, high))
    below, above = pairs[0]
    iterations = 0
    while above - below > max(1, (high - low) // FINENESS):
        middle = (below + above) // 2
        curve.run([middle])
        iterations += 1
        if curve.wins(middle) == curve.wins(below):
            below = middle
        else:
            above = middle
    winners = (curve.wins(below), curve.wins(above))
    points = [curve.points[x] for x in sorted(curve.points)]
    return Crossover(plan, points, below, above, winners, iterations, len(pairs))


class _Curve:
    """The points that have been run."""

    def __init__(self, plan: Plan, executor: Executor, progress: Progress | None) -> None:
        self.plan, self._executor, self._progress = plan, executor, progress
        self.points: dict[int, Point] = {}

    def run(self, xs: Iterable[int]) -> None:
        """Run the designs at every new ``x``, all at a time if the executor can."""
        plan = self.plan
        new = [x for x in dict.fromkeys(xs) if x not in self.points]
        mmus = dict.fromkeys(("native", *plan.designs))
        how = (plan.policy, plan.geometry, plan.rounds)
        jobs = {
            x: {mmu: self._executor.submit(measure, plan.at(x), mmu, *how) for mmu in mmus}
            for x in new
        }
        for x, runs in jobs.items():
            try:
                self.points[x] = Point(x, {mmu: one.result() for mmu, one in runs.items()})
            except BrokenExecutor:
                raise MachineCheck(f"the process that ran {plan.parameter} = {x} died") from None
            if self._progress:
                self._progress(len(self.points))

    def wins(self, x: int) -> str:
        """Who is cheaper at ``x``; the second design where both cost the same."""
        first, second = self.plan.designs
        return first if self.cycles(x, first) < self.cycles(x, second) else second

    def cycles(self, x: int, mmu: str) -> int:
        """End-to-end cycles of one design at ``x``."""
        return self.points[x].runs[mmu].end_to_end(self.plan.prices)


def _never(curve: _Curve, low: int, high: int) -> str:
    plan = curve.plan
    told = []
    for x in (low, high):
        first, second = (f"{curve.cycles(x, mmu):,} cycles of {mmu}" for mmu in plan.designs)
        told.append(f"at {x} ({first}, {second})")
    return (
        f"{' and '.join(plan.designs)} do not cross between {low} and {high} {plan.parameter}: "
        f"{curve.wins(low)} wins at both ends, {' and '.join(told)}; choose another interval"
    )
