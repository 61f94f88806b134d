"""Questions on EPT: how many references, whose, in which order; violations and what they say."""

from kvmlab.base.addresses import size_text
from kvmlab.course import runs
from kvmlab.course.bench import ACCESSED, DIRTY, OPEN, Bench, canonical
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Bits, Number, Problem, Said, Sequence, Words, kind, picked
from kvmlab.course.told import entry_name, told
from kvmlab.hardware.ept import QUAL_FINAL, QUAL_LINEAR_VALID
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import Kind, Step, VmExit
from kvmlab.kvm.policy import NAIVE

_UPPER = dict.fromkeys(range(1, 6), OPEN | ACCESSED)


def _shape(draw: Draw, difficulty: int) -> tuple[str, int, int, str, str]:
    """A design with its levels and pages."""
    mmu = draw.choose((("native", "ept"), ("ept", "shadow", "ept"), ("ept", "npt"))[difficulty - 1])
    levels = (4,) if difficulty == 1 else (4, 5)
    pages = ("4K", "2M", "1G")[: difficulty if mmu == "ept" else min(difficulty, 2)]
    guest, host = draw.choose(levels), draw.choose(levels)
    pair = draw.choose(pages), draw.choose(pages)
    if mmu == "native":
        return mmu, guest, 4, pair[0], "4K"
    return mmu, guest, host, *pair


def _sizes(steps: list[Step]) -> tuple[int, int]:
    """Entries of the guest's tables that were read, and those of one EPT walk."""
    guest = sum(one.table != "ept" for one in steps)
    ept = len(steps) - guest
    return guest, ept // (guest + 1)


def _described(shape: tuple[str, int, int, str, str]) -> dict[str, object]:
    mmu, guest, host, guest_page, host_page = shape
    return {
        "design": Said(f"design.{mmu}"),
        "guest": guest,
        "host": host,
        "guest_page": guest_page,
        "host_page": host_page,
    }


@kind("ept.references")
def references(draw: Draw, difficulty: int) -> Problem:
    """How many page-table entries a complete miss reads."""
    shape = _shape(draw, difficulty)
    records = runs.cold_walk(*shape)
    steps = runs.references(records)
    one, other = _sizes(steps)
    mistaken = {
        "with-data": len(steps) + 1,
        "guest-only": one,
        "product": one * other,
        "no-final-walk": one * (other + 1),
        "sum": one + other,
        "pages-ignored": len(runs.references(runs.cold_walk(*shape[:3], "4K", "4K"))),
        "two-dimensions-always": (one + 1) * (shape[2] + 1) - 1,
    }
    return Problem(
        Number("references"), len(steps), _described(shape), mistaken, steps=told(records)
    )


@kind("ept.split")
def split(draw: Draw, difficulty: int) -> Problem:
    """How many of the references read the guest's tables, and how many EPT."""
    shape = ("ept", *_shape(draw, max(2, difficulty))[1:])
    records = runs.cold_walk(*shape)
    steps = runs.references(records)
    guest, one = _sizes(steps)
    ept = len(steps) - guest
    return Problem(
        Sequence(2),
        (guest, ept),
        _described(shape),
        {
            "six-times-four": (0, (guest + 2) * one),
            "no-final-walk": (guest, guest * one),
            "one-ept-walk": (guest, one),
            "split-swapped": (ept, guest),
        },
        steps=told(records),
    )


def _label(step: Step, of: str) -> tuple[str, Words]:
    """What a reference reads, as an option: its table and level, and for EPT on whose behalf."""
    if step.table == "guest":
        return f"guest {step.level}", Said("course.reads.guest", {"name": LEVEL_NAMES[step.level]})
    values = {"name": entry_name("ept", step.level), "of": of}
    key = "course.reads.ept" if of else "course.reads.final"
    return f"ept {step.level} {of}", Said(key, values)


def _labels(steps: list[Step]) -> list[tuple[str, Words]]:
    found = []
    for number, step in enumerate(steps):
        after = next((one for one in steps[number:] if one.table == "guest"), None)
        found.append(_label(step, LEVEL_NAMES[after.level] if after else ""))
    return found


@kind("ept.nth")
def nth(draw: Draw, difficulty: int) -> Problem:
    """What the n-th reference of a two-dimensional walk reads."""
    shape = ("ept", *_shape(draw, max(2, difficulty))[1:])
    if difficulty == 1:
        shape = ("ept", 4, 4, "4K", "4K")
    records = runs.cold_walk(*shape)
    steps = runs.references(records)
    labels = _labels(steps)
    number = draw.below(len(steps))
    guest_first = [one for one in labels if one[0].startswith("guest")]
    guest_first += [one for one in labels if not one[0].startswith("guest")]
    near = labels[number + 1 if number + 1 < len(labels) else number - 1]
    options = dict([labels[number], near, guest_first[number]])
    rest = [one for one in labels if one[0] not in options]
    options |= dict(draw.sample(rest, 4 - len(options)))
    return Problem(
        picked(draw, options),
        labels[number][0],
        _described(shape) | {"number": number + 1},
        {"guest-first": guest_first[number][0], "one-off": near[0]},
        steps=told(steps[: number + 1]),
    )


_NAMES = ("read", "write", "fetch", "readable", "writable", "executable", "linear", "final")
_PLACES = (1, 2, 4, 8, 16, 32, QUAL_LINEAR_VALID, QUAL_FINAL)


@kind("ept.qualification")
def qualification(draw: Draw, difficulty: int) -> Problem:
    """The exit qualification of an EPT violation."""
    keeps = difficulty > 1 and draw.chance(60)
    bench = Bench(draw, ept=True, accessed_dirty=keeps)
    gva = canonical(draw, "4-level")
    page = bench.map(gva, flags=OPEN | ACCESSED | DIRTY, upper=_UPPER)
    access = draw.choose((Kind.READ, Kind.WRITE, Kind.FETCH))
    in_table = difficulty > 1 and draw.chance(50)
    rights = draw.choose((0, 1) if in_table else (0, 7 & ~access if access is not Kind.READ else 0))
    if in_table and rights == 1 and not keeps:
        rights = 0
    table = draw.choose(_table_pages(bench, gva)) if in_table else page
    bench.back(table, rights)
    outcome = bench.access(gva, access)
    assert isinstance(outcome, VmExit)  # noqa: S101  the page lacks a right that is needed
    found = frozenset(
        name for name, place in zip(_NAMES, _PLACES, strict=True) if outcome.qualification & place
    )
    tried = frozenset({access.name.lower()})
    tries = frozenset(_NAMES[:3])
    mistaken = {
        "table-access-as-instruction": found - tries | tried | {"final"},
        "ad-reads-only": found - {"write"} if in_table else found,
        "rights-not-reported": found - frozenset(_NAMES[3:6]),
        "final-bit": found ^ {"final"},
        "linear-forgotten": found - {"linear"},
    }
    where = Said("course.where.table" if in_table else "course.where.page")
    values: dict[str, object] = {
        "access": Said(f"course.access.{access.name.lower()}"),
        "where": where,
        "rights": "".join(n for n, bit in zip("RWX", (1, 2, 4), strict=True) if rights & bit)
        or Said("course.none"),
        "ad": Said("course.ad.on" if keeps else "course.ad.off"),
    }
    return Problem(Bits(_NAMES), found, values, mistaken, steps=told([*bench.records, outcome]))


def _table_pages(bench: Bench, gva: int) -> list[int]:
    """The guest-physical frames of the tables on the way of ``gva``."""
    found, table = [bench.root], bench.root
    for level in (4, 3, 2):
        slot = bench.home(table + bench.index(gva, level) * 8)
        table = bench.ram.load(slot) & 0x000F_FFFF_FFFF_F000
        found.append(table)
    return found


@kind("ept.violations")
def violations(draw: Draw, difficulty: int) -> Problem:
    """How many exits first touches cost under EPT: fresh memory, memory used again, huge pages."""
    pages = draw.between(2, 16)
    host_page = "2M" if difficulty > 1 and draw.chance(40) else "4K"
    again = difficulty > 1 and draw.chance(50)
    exits = runs.touches("ept", NAIVE.name, pages, host_page, again=again)
    before = "again" if again else "fresh" if host_page == "4K" else "near"
    return Problem(
        Number("exits"),
        len(exits),
        {
            "pages": pages,
            "host_page": host_page,
            "before": Said(f"course.memory.{before}"),
        },
        {
            "each-page-exits": pages,
            "exits-as-shadow": 3 * pages,
            "exits-per-reference": 24 * pages,
            "ept-never-exits": 0,
        },
        steps=told(exits[:8]),
    )


@kind("ept.fragment")
def fragment(draw: Draw, difficulty: int) -> Problem:
    """Of which size the TLB keeps a translation whose two pages differ."""
    sizes = ("4K", "2M") if difficulty < 3 else ("4K", "2M", "1G")
    guest, host = draw.choose(sizes), draw.choose(sizes)
    records = runs.cold_walk("ept", 4, 4, guest, host)
    order = ("4K", "2M", "1G")
    answer = size_text(1 << runs.filled(records).shift)
    options: dict[str, Words] = {one: one for one in order}
    return Problem(
        picked(draw, options),
        answer,
        {"guest_page": guest, "host_page": host},
        {
            "guest-page-wins": guest,
            "larger-page-wins": max(guest, host, key=order.index),
            "tlb-always-4k": "4K",
        },
        steps=told(records[-3:]),
    )


KINDS = (references, split, nth, qualification, violations, fragment)
