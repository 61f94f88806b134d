"""Questions on promises: nova's capacity and placement, balloon managers."""

from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Words, kind, picked
from kvmlab.management.balloon_manager import GuestSample, HostSample
from kvmlab.management.esx import shares_per_page
from kvmlab.management.mom import Mom
from kvmlab.management.placement import Inventory, PlacementError, place

_RATIOS = ((1.0, 1.5), (1.0, 1.5, 2.0), (0.9, 1.2, 1.5, 2.0))
_FLAVOURS = (1024, 2048, 4096, 6144, 8192)


def _inventory(draw: Draw, difficulty: int, name: str = "host") -> Inventory:
    total = draw.between(16, 512) * 1024
    reserved = draw.choose((512, 1024, 2048, 4096))
    return Inventory(name, total, reserved, draw.choose(_RATIOS[difficulty - 1]))


def _values(one: Inventory) -> dict[str, object]:
    return {"total": one.total, "reserved": one.reserved, "ratio": one.ratio}


@kind("cloud.capacity")
def capacity(draw: Draw, difficulty: int) -> Problem:
    """What nova may promise on a host, in MiB."""
    one = _inventory(draw, difficulty)
    found = int(one.capacity)
    return Problem(
        Number("MiB"),
        found,
        _values(one),
        {
            "reserved-after-ratio": int(one.total * one.ratio - one.reserved),
            "reserved-forgotten": int(one.total * one.ratio),
            "ratio-forgotten": one.total - one.reserved,
            "ratio-divides": int((one.total - one.reserved) / one.ratio),
        },
        steps=(Said("course.told.capacity", _values(one) | {"capacity": found}),),
    )


def _fill(one: Inventory, size: int) -> int:
    """How many instances of ``size`` are placed before one is refused."""
    while True:
        try:
            one.allocate(f"instance {len(one.allocations)}", size)
        except PlacementError:
            return len(one.allocations)


@kind("cloud.instances")
def instances(draw: Draw, difficulty: int) -> Problem:
    """How many instances of a flavour fit."""
    one = _inventory(draw, difficulty)
    size = draw.choose([flavour for flavour in _FLAVOURS if flavour * 64 >= one.total])
    found = _fill(one, size)
    return Problem(
        Number("instances"),
        found,
        _values(one) | {"size": size},
        {
            "reserved-forgotten": int(one.total * one.ratio) // size,
            "ratio-forgotten": (one.total - one.reserved) // size,
            "rounded-up": -(-int(one.capacity) // size),
            "reserved-after-ratio": int(one.total * one.ratio - one.reserved) // size,
        },
        steps=(
            Said("course.told.capacity", _values(one) | {"capacity": int(one.capacity)}),
            Said("course.told.placed", {"count": found, "used": one.used}),
        ),
    )


_ANSWERS = ("fits", "capacity", "constraints")


@kind("cloud.refused")
def refused(draw: Draw, difficulty: int) -> Problem:
    """Whether placement takes one instance more, and if not, why."""
    one = _inventory(draw, max(2, difficulty))
    size = draw.choose((4096, one.total // 2, one.total, one.total + 1024, one.total + 8192))
    used = draw.choose((0, one.total // 2, one.total - one.reserved))
    if used:
        one.allocations["others"] = used
    refusal = one.refusal("new", size) or ""
    answer = "fits" if not refusal else "capacity" if "capacity" in refusal else "constraints"
    room = used + size <= one.capacity
    options: dict[str, Words] = {name: Said(f"course.placement.{name}") for name in _ANSWERS}
    return Problem(
        picked(draw, options),
        answer,
        _values(one) | {"used": used, "size": size},
        {
            "ratio-for-one-instance": "fits" if room else "capacity",
            "ratio-forgotten": "fits" if used + size <= one.total - one.reserved else "capacity",
            "free-memory-decides": "fits",
        },
        steps=(Said("course.told.capacity", _values(one) | {"capacity": int(one.capacity)}),),
    )


@kind("cloud.place")
def placed(draw: Draw, difficulty: int) -> Problem:
    """Which host nova's RAM weigher takes."""
    while True:
        hosts = [_inventory(draw, max(2, difficulty), name) for name in "PQRS"[: 2 + difficulty]]
        for host in hosts:
            host.allocations["others"] = draw.between(0, int(host.capacity))
        size = draw.choose(_FLAVOURS)
        able = [one for one in hosts if one.refusal("new", size) is None]
        if len({one.total - one.used for one in able}) == len(able) > 1:
            break
    given: tuple[Words, ...] = tuple(
        Said("course.host", _values(one) | {"name": one.provider, "used": one.used})
        for one in hosts
    )
    packed = min(able, key=lambda one: one.capacity - one.used).provider
    largest = max(able, key=lambda one: one.total).provider
    promised = max(hosts, key=lambda one: one.capacity - one.used).provider
    chosen = place(hosts, "new", size)
    names: dict[str, Words] = {one.provider: one.provider for one in hosts}
    return Problem(
        picked(draw, names),
        chosen.provider,
        {"size": size},
        {
            "weigher-packs": packed,
            "weigher-by-capacity": promised,
            "weigher-by-size": largest,
        },
        given,
        (Said("course.told.chosen", {"name": chosen.provider, "able": len(able)}),),
    )


@kind("cloud.mom")
def mom(draw: Draw, difficulty: int) -> Problem:
    """The balloon target that MOM sets for a guest while the host is short of memory."""
    policy = Mom()
    part = draw.choose((10, 12, 15) if difficulty < 3 else (2, 3, 4, 10, 12, 15))
    host = HostSample(100_000, part * 1000)
    while True:
        current = draw.between(16, 64) * 65_536
        unused = draw.between(5, 80) * current // 100
        guest = GuestSample("guest", current, unused, current, current // 4)
        if target := policy(host, [guest]).get("guest"):
            break
    return Problem(
        Number("KiB"),
        target,
        {
            "part": part,
            "current": current,
            "unused": unused,
            "minimum": guest.minimum,
            "step": int(policy.max_change * 100),
            "free": int(policy.min_guest_free * 100),
            "threshold": int(policy.pressure_threshold * 100),
            "critical": int(policy.pressure_critical * 100),
        },
        {
            "floor-forgotten": int((1 - policy.max_change) * current),
            "all-unused-taken": guest.used,
            "fixed-free-part": int(guest.used + policy.min_guest_free * current),
            "target-is-what-goes": current - target,
        },
        steps=(Said("course.told.mom", {"used": guest.used, "target": target}),),
    )


@kind("cloud.idle")
def idle(draw: Draw, difficulty: int) -> Problem:
    """From which guest ESX takes memory first: shares against a tax on idle pages."""
    tax = draw.choose((0.0, 0.75) if difficulty < 3 else (0.0, 0.5, 0.75, 0.9))
    names = ("web", "mail", "database")[: 1 + max(1, difficulty - 1)]
    while True:
        guests = {
            name: (
                draw.choose((1000, 2000, 4000, 6000)),
                draw.choose((1024, 2048, 4096)),
                draw.choose((10, 25, 50, 85, 100)),
            )
            for name in names
        }
        rho = {
            name: shares_per_page(shares, pages, active / 100, tax)
            for name, (shares, pages, active) in guests.items()
        }
        if len({round(one, 6) for one in rho.values()}) == len(names):
            break
    given: tuple[Words, ...] = tuple(
        Said("course.guest", {"name": name, "shares": shares, "pages": pages, "active": active})
        for name, (shares, pages, active) in guests.items()
    )
    options: dict[str, Words] = {name: name for name in names}
    return Problem(
        picked(draw, options),
        min(names, key=lambda name: rho[name]),
        {"tax": tax},
        {
            "fewest-shares-pay": min(names, key=lambda name: guests[name][0]),
            "most-idle-pays": min(names, key=lambda name: guests[name][2]),
            "tax-forgotten": min(names, key=lambda name: guests[name][0] / guests[name][1]),
            "highest-pays": max(names, key=lambda name: rho[name]),
        },
        given,
        tuple(
            Said("course.told.rho", {"name": name, "rho": f"{value:.4f}"})
            for name, value in rho.items()
        ),
    )


KINDS = (capacity, instances, refused, placed, mom, idle)
