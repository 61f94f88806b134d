"""What balloon managers see and answer, and the loop that carries their answers out.

A manager is any callable that takes a `HostSample` and the `GuestSample`s and returns new
balloon targets in KiB by guest; guests that it leaves out stay as they are.  A learner's own
function will do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvmlab.base.checks import expect, expect_callable
from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.management.connection import virConnect
from kvmlab.management.domain import virDomain


@dataclass(frozen=True, slots=True)
class HostSample:
    """The host's memory in KiB; ``available`` is what it could still give away."""

    total: int
    available: int  # MemFree + Buffers + Cached

    @property
    def free_part(self) -> float:
        """The part of the host's memory that is available."""
        return self.available / self.total


@dataclass(frozen=True, slots=True)
class GuestSample:
    """A guest's memory in KiB: what the balloon leaves it, what of that it does not use."""

    name: str
    current: int
    unused: int
    maximum: int
    minimum: int = 0
    shares: int = 1000
    active: float = 1.0  # the part of its memory that it touches

    @property
    def used(self) -> int:
        """What it uses."""
        return self.current - self.unused


Targets = Mapping[str, int]
Manager = Callable[[HostSample, Sequence[GuestSample]], Targets]


def none(_host: HostSample, _guests: Sequence[GuestSample]) -> Targets:
    """No manager: balloons stay as they are, as nova leaves them."""
    return {}


def proportional(host: HostSample, guests: Sequence[GuestSample]) -> Targets:
    """Bring a fifth of the host free: each guest gives, or gets back, by what it does not use.

    What is missing is taken from unused memory in proportion to it; what is spare goes back to
    those below their maximum in proportion to what they lack.
    """
    spare = host.available - host.total // 5
    if spare < 0:
        weights = {one.name: one.unused for one in guests}
    else:
        weights = {one.name: one.maximum - one.current for one in guests}
    whole = sum(weights.values())
    if not whole:
        return {}
    moved = max(spare, -whole) if spare < 0 else min(spare, whole)
    return {
        one.name: max(one.minimum, 1, one.current + moved * weights[one.name] // whole)
        for one in guests
        if weights[one.name]
    }


def checked(targets: Targets, guests: Sequence[GuestSample]) -> Targets:
    """``targets`` if they can be carried out; `BadChoice` or `BadSize` with the first that cannot.

    This stands between a learner's function and the host.
    """
    if not isinstance(targets, Mapping):
        raise BadChoice(f"a manager returns a dict of targets in KiB, not {type(targets).__name__}")
    known = {one.name: one for one in guests}
    for name, size in targets.items():
        if name not in known:
            raise BadChoice(f"a target for {name!r}: there are {', '.join(known) or 'no guests'}")
        least, most = max(known[name].minimum, 1), known[name].maximum
        if type(size) is not int or not least <= size <= most:
            below = "; with less its kernel has no memory to go on" if least > 1 else ""
            raise BadSize(
                f"a target of {size} KiB for {name!r}; "
                f"write a whole number from {least} to {most}{below}"
            )
    return targets


def host_sample(connection: virConnect) -> HostSample:
    """The host as libvirt tells of it."""
    memory = connection.getMemoryStats(-1)
    available = memory["free"] + memory["buffers"] + memory["cached"]
    return HostSample(memory["total"], available)


def guest_sample(domain: virDomain) -> GuestSample:
    """A running guest as libvirt tells of it; one that sends no statistics uses all it has."""
    stats = domain.memoryStats()
    current = stats.get("actual", domain.maxMemory())
    return GuestSample(domain.name(), current, stats.get("unused", 0), domain.maxMemory())


def manage(connection: virConnect, manager: Manager) -> Targets:
    """One round: sample, ask the manager, set the balloons; returns the targets set."""
    expect("connection", connection, virConnect, "a connection of libvirt")
    expect_callable("manager", manager, "a function of (host, guests)")
    domains = {one.name(): one for one in connection.listAllDomains() if one.isActive()}
    guests = [guest_sample(one) for one in domains.values()]
    targets = checked(manager(host_sample(connection), guests), guests)
    for name, size in targets.items():
        domains[name].setMemory(size)
    return targets
