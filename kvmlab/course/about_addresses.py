"""Questions on addresses: how one is cut into indices, and where an entry lies."""

from kvmlab.base.addresses import size_text
from kvmlab.course.bench import Bench, canonical
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Choice, Number, Problem, Sequence, Words, kind
from kvmlab.course.told import told
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import GeneralProtection, Kind, Step

MODES = (("4-level",), ("4-level", "32-bit"), ("5-level", "4-level", "32-bit"))
"""Paging modes by difficulty."""


def _walked(draw: Draw, mode: str, shift: int = 12) -> tuple[Bench, int, list[Step]]:
    """A mapped address whose indices all differ, and the references of its walk."""
    bench = Bench(draw, mode)
    while True:
        gva = canonical(draw, mode)
        levels = range(1, bench.format.levels + 1)
        if len({bench.index(gva, level) for level in levels}) == len(levels):
            break
    bench.map(gva, shift)
    steps, _ = bench.walk(gva)
    return bench, gva, steps


def _other_width(gva: int, level: int, entry_bytes: int) -> int:
    """The index of somebody who takes 10 bits a level for 9, or 9 for 10."""
    bits = 9 if entry_bytes == 4 else 10
    return gva >> 12 + bits * (level - 1) & (1 << bits) - 1


@kind("address.index")
def index(draw: Draw, difficulty: int) -> Problem:
    """The index into one table."""
    mode = draw.choose(MODES[difficulty - 1])
    bench, gva, steps = _walked(draw, mode)
    step = draw.choose(steps)
    mirrored = next(one for one in steps if one.level == bench.format.levels + 1 - step.level)
    return Problem(
        Number(),
        step.index,
        {"gva": f"{gva:#x}", "mode": mode, "name": LEVEL_NAMES[step.level]},
        {
            "levels-reversed": mirrored.index,
            "index-width": _other_width(gva, step.level, bench.format.entry_bytes),
            "index-in-bytes": step.index * bench.format.entry_bytes,
        },
        steps=told([step]),
    )


@kind("address.split")
def split(draw: Draw, difficulty: int) -> Problem:
    """All indices, from the top, and the offset."""
    mode = draw.choose(MODES[difficulty - 1])
    bench, gva, steps = _walked(draw, mode)
    indices = tuple(step.index for step in steps)
    offset = gva & 0xFFF
    widths = [_other_width(gva, step.level, bench.format.entry_bytes) for step in steps]
    return Problem(
        Sequence(len(steps) + 1),
        (*indices, offset),
        {"gva": f"{gva:#x}", "mode": mode, "count": len(steps)},
        {
            "levels-reversed": (*reversed(indices), offset),
            "index-width": (*widths, offset),
            "offset-first": (offset, *indices),
        },
        steps=told(steps),
    )


@kind("address.offset")
def offset(draw: Draw, difficulty: int) -> Problem:
    """The offset within a page of one of four sizes."""
    mode = draw.choose(MODES[difficulty - 1])
    shift = draw.choose(Bench(draw, mode).format.page_shifts[: difficulty + 1])
    gva = canonical(draw, mode)
    bench = Bench(draw, mode)
    page = bench.map(gva, shift)
    steps, found = bench.walk(gva)
    return Problem(
        Number(base=16),
        getattr(found, "address", 0) - page,
        {"gva": f"{gva:#x}", "mode": mode, "size": size_text(1 << shift)},
        {
            "offset-always-12": gva & 0xFFF,
            "offset-next-level": gva & (1 << shift + 9) - 1,
            "offset-one-bit-short": gva & (1 << shift - 1) - 1,
        },
        steps=told(steps),
    )


@kind("address.entry")
def entry(draw: Draw, difficulty: int) -> Problem:
    """Where in memory an entry lies, given its table."""
    mode = draw.choose(MODES[difficulty - 1])
    bench, gva, steps = _walked(draw, mode)
    number = draw.below(len(steps))
    step, size = steps[number], bench.format.entry_bytes
    table = step.address & ~0xFFF
    other = steps[number - 1].index
    return Problem(
        Number(base=16),
        step.address,
        {
            "gva": f"{gva:#x}",
            "mode": mode,
            "name": LEVEL_NAMES[step.level],
            "table": f"{table:#x}",
        },
        {
            "index-not-scaled": table + step.index,
            "entry-size": table + step.index * (12 - size),
            "wrong-level": table + other * size,
        },
        steps=told([step]),
    )


@kind("address.canonical")
def which(draw: Draw, difficulty: int) -> Problem:
    """Which of four addresses is not canonical."""
    mode = "5-level" if difficulty == 3 else "4-level"
    bench = Bench(draw, mode)
    width = bench.cpu.context.width
    user, inside = canonical(draw, mode), draw.between(1, (1 << width - 13) - 1) << 12
    kernel = (1 << 64) - (1 << width - 1) + inside
    bad = 1 << width - 1 | inside
    low = draw.between(1, 0x7FFF) << 12
    wide = (1 << 47 | low) if width == 57 else (1 << 64) - low
    addresses = draw.shuffled([user, kernel, bad, wide])
    refused = [
        one
        for one in addresses
        if isinstance(bench.access(one, Kind.READ, user=False), GeneralProtection)
    ]
    names = {f"{one:#x}": f"{one:#018x}" for one in addresses}
    options: tuple[tuple[str, Words], ...] = tuple(names.items())
    wrong = {"kernel-half-refused": f"{kernel:#x}"}
    wrong["canonical-at-48" if width == 57 else "all-ones-refused"] = f"{wide:#x}"
    (answer,) = (f"{one:#x}" for one in refused)
    return Problem(
        Choice(options),
        answer,
        {"mode": mode, "width": width, "top": width - 1},
        wrong,
        steps=told([GeneralProtection(refused[0], "")]),
    )


KINDS = (index, split, offset, entry, which)
