"""The task ``policy``: a balloon manager ``policy(host, guests)``, as `management` takes one.

It must bring a fifth of the host free if the guests have so much unused, and leave each what it
uses; a host that has enough takes nothing.
"""

from collections.abc import Sequence
from typing import Any

from kvmlab.base.errors import KvmlabError
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Said, Words
from kvmlab.course.task import Case
from kvmlab.management.balloon_manager import GuestSample, HostSample, checked

_SLACK = 1024  # KiB for each guest: rounding is no mistake


def policy_case(draw: Draw) -> Case:
    """A host with some guests, short of memory or not."""
    total = draw.between(16, 64) << 20
    host = HostSample(total, total * draw.choose((2, 5, 10, 15, 25, 60)) // 100)
    guests = []
    for number in range(draw.between(1, 5)):
        maximum = draw.between(2, 8) << 20
        current = maximum * draw.between(5, 10) // 10
        unused = current * draw.between(0, 80) // 100
        minimum = maximum // 4 if draw.chance(40) else 0
        guests.append(GuestSample(f"vm{number}", current, unused, maximum, minimum))
    need = max(0, total // 5 - host.available)
    able = sum(max(0, one.current - _floor(one)) for one in guests)
    values = {"guests": len(guests), "part": host.available * 100 // total}
    return Case((host, tuple(guests)), min(need, able), Said("course.task.policy.case", values))


def _floor(guest: GuestSample) -> int:
    return max(guest.used, guest.minimum)


def policy_judge(case: Case, got: Any) -> Words | None:  # noqa: ANN401  whatever was returned
    """Every target must be possible and harmless, and together they must be enough."""
    guests: Sequence[GuestSample] = case.arguments[1]
    try:
        targets = checked(got, guests)
    except KvmlabError as error:
        return str(error)
    for one in guests:
        target = targets.get(one.name, one.current)
        if target < min(_floor(one), one.current):
            values = {"name": one.name, "floor": _floor(one), "target": target}
            return Said("course.task.policy.floor", values)
    taken = sum(one.current - targets.get(one.name, one.current) for one in guests)
    slack = _SLACK * len(guests)
    if taken < case.expected - slack:
        return Said("course.task.policy.little", {"taken": taken, "need": case.expected})
    if taken > case.expected + slack:
        return Said("course.task.policy.much", {"taken": taken, "need": case.expected})
    return None
