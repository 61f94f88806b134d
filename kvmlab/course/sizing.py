"""The project of the course: choose how a host is run, and have the engine judge the choice.

The customer's `Order` is given.  `judge` asks placement, lets the day of one full host pass, and
gives points; what it looks at is in `MARKS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kvmlab.base.checks import expect, expect_callable
from kvmlab.base.errors import BadSize
from kvmlab.figures.overcommit import Costs, costs
from kvmlab.management.balloon_manager import Manager
from kvmlab.management.conf import NovaMemory
from kvmlab.study.overcommit import HOST_OWN, MOST_VMS, OWN, PAGE_MIB, Day, Setting

_MOST_HOSTS = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted: so many VMs of ``flavour`` MiB, and on each host a ``store`` of huge pages.

    ``hosts`` may be bought, and the VMs of one host may wait ``wait`` seconds a day for disks.
    """

    vms: int = 27
    flavour: int = 4096
    store: int = 3072  # MiB
    hosts: int = 3
    wait: float = 10.0
    pattern: str = "mixed"  # of the load (study.overcommit.LOADS)


@dataclass(frozen=True, slots=True)
class Choice:
    """How the hosts are run: ``pool`` in MiB, ``swap`` in GiB, ``manager`` by name or a function.

    Raises `BadSize` for a number of hosts that cannot be, `BadChoice` for values of other types.
    """

    hosts: int
    nova: NovaMemory = field(default_factory=NovaMemory)
    pool: int = 0
    swap: int = 0
    manager: str | Manager = "none"
    ksm: bool = False

    def __post_init__(self) -> None:
        expect("nova", self.nova, NovaMemory, "what nova_conf() returns")
        if not isinstance(self.manager, str):
            expect_callable("manager", self.manager, "a name or a function of (host, guests)")
        if type(self.hosts) is not int or not 1 <= self.hosts <= _MOST_HOSTS:
            raise BadSize(f"{self.hosts!r:.20} hosts; choose 1 to {_MOST_HOSTS}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a choice: VMs on a full host, and what the day cost them."""

    order: Order
    choice: Choice
    placed: int
    costs: Costs


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of the judgement: what was found, and the points for it."""

    name: str
    found: object
    points: int
    of: int

    def __str__(self) -> str:
        """A line such as ``alive     2 of 2  0 killed``."""
        return f"{self.name:8} {self.points} of {self.of}   {self.found}"


@dataclass(frozen=True, slots=True)
class _Rule:
    points: int
    found: Callable[[Outcome], object]
    holds: Callable[[Outcome], bool]


MARKS: Mapping[str, _Rule] = MappingProxyType(
    {
        "placed": _Rule(
            2,
            lambda one: f"{one.placed} VMs on a host, {one.placed * one.choice.hosts} in all",
            lambda one: one.placed * one.choice.hosts >= one.order.vms,
        ),
        "hosts": _Rule(
            2,
            lambda one: f"{one.choice.hosts} bought",
            lambda one: one.choice.hosts <= one.order.hosts,
        ),
        "store": _Rule(
            1,
            lambda one: f"a pool of {one.choice.pool:,} MiB",
            lambda one: one.choice.pool >= one.order.store,
        ),
        "reserve": _Rule(
            1,
            lambda one: f"{one.choice.nova.reserved:,} MiB reserved of {_not_nova(one):,} in use",
            lambda one: one.choice.nova.reserved >= _not_nova(one),
        ),
        "alive": _Rule(
            2,
            lambda one: f"killed: {', '.join(one.costs.killed) or 'none'}",
            lambda one: not one.costs.killed,
        ),
        "wait": _Rule(
            1,
            lambda one: f"{one.costs.stall:.1f} s",
            lambda one: one.costs.stall <= one.order.wait,
        ),
        "calm": _Rule(
            1,
            lambda one: f"{one.costs.swap_in * PAGE_MIB:,} MiB read back by the host",
            lambda one: not one.costs.swap_in,
        ),
    }
)
"""Is every VM placed, on hosts enough and not too many; does the store get its pages, and does
nova promise them to nobody else; is nobody killed, does nobody wait too long, and does the host
itself keep out of it (what it swaps it chooses blindly)."""


def judge(choice: Choice, order: Order | None = None) -> list[Mark]:
    """The marks of a choice, by the day of one host as full as nova makes it.

    Raises what `Setting` and `Day` refuse, and what becomes of a guest that a manager starves.
    """
    order = order or Order()
    name, own = (choice.manager, None) if isinstance(choice.manager, str) else (OWN, choice.manager)
    setting = Setting(
        ratio=choice.nova.ratio,
        wanted=min(order.vms, MOST_VMS),
        reserved=choice.nova.reserved,
        flavour=order.flavour,
        swap=choice.swap,
        manager=name,
        pattern=order.pattern,
        ksm=choice.ksm,
    )
    day = Day(setting, own, pool=choice.pool)
    outcome = Outcome(order, choice, len(day.vms), costs(list(day.run())))
    return [_mark(name, rule, outcome) for name, rule in MARKS.items()]


def _not_nova(one: Outcome) -> int:
    """MiB that nova must not promise: the pool, and what the host takes itself."""
    return one.choice.pool + HOST_OWN * PAGE_MIB


def _mark(name: str, rule: _Rule, outcome: Outcome) -> Mark:
    return Mark(name, rule.found(outcome), rule.points * rule.holds(outcome), rule.points)
