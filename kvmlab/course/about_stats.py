"""Questions on what libvirt shows: dommemstat's figures, how old they are, virsh's units."""

from kvmlab.course import runs_balloon
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Words, kind, picked
from kvmlab.course.runs_balloon import Seen

_SHOWN = ("unused", "available", "actual", "rss", "usable", "minor_fault", "swap_in")
_PERIODS = (3, 5, 7)


def _fresh(period: int) -> list[Seen]:
    """The moments at which the guest had just answered a poll."""
    return [
        one
        for one in runs_balloon.seen(period)
        if dict(one.stats)["unused"] == one.free
        and dict(one.stats)["available"] == one.free + one.used
    ]


def _lines(one: Seen, shown: tuple[str, ...]) -> tuple[Words, ...]:
    return tuple(f"{name} {value}" for name, value in one.stats if name in shown)


@kind("stats.used")
def used(draw: Draw, difficulty: int) -> Problem:
    """What a guest uses, by dommemstat."""
    one = draw.choose(_fresh(draw.choose(_PERIODS)))
    stats = dict(one.stats)
    return Problem(
        Number("KiB"),
        one.used,
        {},
        {
            "used-from-actual": stats["actual"] - stats["unused"],
            "rss-is-used": stats["rss"],
            "usable-is-unused": stats["available"] - stats["usable"],
            "unused-is-used": stats["unused"],
            "available-is-used": stats["available"],
        },
        _lines(one, _SHOWN[: 1 + 2 * difficulty]),
        (Said("course.told.used", {"used": one.used, "free": one.free}),),
    )


@kind("stats.stale")
def stale(draw: Draw, difficulty: int) -> Problem:
    """What `unused` says between two polls."""
    period = _PERIODS[difficulty - 1]
    moments = [
        one
        for one in runs_balloon.seen(period)
        if 2 * period <= one.second < 30 and dict(one.stats)["unused"] != one.free
    ]
    one = draw.choose(moments)
    first = max(1, one.second - 2 * period + 1)
    before = [now for now in runs_balloon.seen(period) if first <= now.second <= one.second]
    answer = dict(one.stats)["unused"]
    given: tuple[Words, ...] = tuple(
        Said("course.moment", {"second": now.second, "free": now.free}) for now in before
    )
    following = next(now for now in runs_balloon.seen(period) if now.second > one.second)
    return Problem(
        Number("KiB"),
        answer,
        {"period": period, "second": one.second},
        {
            "always-fresh": one.free,
            "one-second-old": before[-2].free,
            "a-whole-period-old": before[-1 - period].free,
            "already-next": following.free,
        },
        given,
        (Said("course.told.polled", {"unused": answer, "free": one.free}),),
    )


_FIGURES = ("actual", "available", "unused", "usable", "rss")


@kind("stats.figure")
def figure(draw: Draw, difficulty: int) -> Problem:
    """Which figure of dommemstat answers a need."""
    one = draw.choose(_fresh(5))
    stats = dict(one.stats)
    truth = {
        "memfree": one.free,
        "resident": stats["rss"],
        "memtotal": one.free + one.used,
        "left": stats["actual"],
    }
    need = draw.choose(list(truth)[: 1 + difficulty])
    wanted = {"memfree": "unused", "memtotal": "available", "resident": "rss", "left": "actual"}
    (answer,) = [name for name in _FIGURES if stats[name] == truth[need]] or [wanted[need]]
    options: dict[str, Words] = {name: f"{name} {stats[name]}" for name in _FIGURES}
    return Problem(
        picked(draw, options),
        answer,
        {"need": Said(f"course.need.{need}")},
        {
            "rss-is-the-guest-s": "rss",
            "available-is-free": "available" if need == "memfree" else answer,
            "actual-is-memtotal": "actual" if need == "memtotal" else answer,
            "usable-is-unused": "usable",
            "actual-is-resident": "actual" if need == "resident" else answer,
        },
        steps=(Said("course.told.figure", {"name": answer, "value": stats[answer]}),),
    )


@kind("stats.units")
def units(draw: Draw, difficulty: int) -> Problem:
    """What ``virsh setmem`` makes of a size with a unit."""
    unit, binary, decimal = draw.choose(
        (("M", 20, 6), ("MB", 20, 6), ("MiB", 20, 6), ("", 10, 3), ("k", 10, 3), ("KB", 10, 3))
        if difficulty > 1
        else (("M", 20, 6), ("MiB", 20, 6), ("", 10, 3))
    )
    number = draw.between(1_000_000, 8_000_000) if binary == 10 else draw.between(300, 7_900)
    found, _ = runs_balloon.set_memory(f"{number}{unit}")
    assert found is not None  # noqa: S101  all of these fit into the guest's 8 GiB
    return Problem(
        Number("KiB"),
        found,
        {"size": f"{number}{unit}"},
        {
            "units-always-binary": number << binary - 10,
            "units-always-decimal": number * 10**decimal >> 10,
            "default-is-mib": number << 10,
            "kib-are-kb": number * 10 ** (decimal - 3),
            "default-is-bytes": number >> 10,
        },
        steps=(Said("course.told.setmem", {"size": f"{number}{unit}", "kib": found}),),
    )


KINDS = (used, stale, figure, units)
