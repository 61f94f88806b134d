"""The task ``walker``: ``walk(read, root, gva)`` returns the physical address, or None."""

from typing import Any

from kvmlab.course.bench import ACCESSED, DIRTY, OPEN, PRESENT, XD, Bench, canonical
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Said, Words
from kvmlab.course.task import Case, expected
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import Mapped

_UPPER = dict.fromkeys(range(1, 6), OPEN | ACCESSED)


def walker_case(draw: Draw) -> Case:
    """Tables of 4 levels with a page of any size, or an entry on the way that is absent."""
    bench = Bench(draw)
    shift = draw.choose((12, 12, 21, 30))
    gva = canonical(draw, "4-level")
    flags = OPEN | ACCESSED | DIRTY | (XD if draw.chance(50) else 0)
    flags |= 1 << 12 if shift > 12 and draw.chance(50) else 0  # PAT: no part of the address
    bench.map(gva, shift, flags, _UPPER)
    steps, _ = bench.walk(gva)
    absent = draw.choose(steps) if draw.chance(30) else None
    if absent:
        bench.put(absent.address, absent.entry & ~PRESENT)
    _, found = bench.walk(gva)
    answer = found.address if isinstance(found, Mapped) else None
    size = {12: "4K", 21: "2M", 30: "1G"}[shift]
    values: dict[str, object] = {"gva": f"{gva:#x}", "size": size}
    words = Said("course.task.walker.mapped", values)
    if absent:
        words = Said("course.task.walker.absent", values | {"name": LEVEL_NAMES[absent.level]})
    return Case((bench.ram.load, bench.root, gva), answer, words)


def walker_judge(case: Case, got: Any) -> Words | None:  # noqa: ANN401  whatever was returned
    """The address must be the engine's."""
    if got == case.expected and type(got) is type(case.expected):
        return None
    return expected(_shown(case.expected), _shown(got))


def _shown(value: object) -> str:
    return f"{value:#x}" if type(value) is int else repr(value)[:60]
