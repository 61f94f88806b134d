"""Questions on what is cached: reach, hits of a tiny TLB, flushes, walk caches."""

from collections.abc import Callable

from kvmlab.base.addresses import size_text
from kvmlab.course import runs
from kvmlab.course.bench import Bench
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Bits, Number, Problem, Said, Words, kind
from kvmlab.course.told import told
from kvmlab.hardware.instructions import invlpg, invpcid, mov_cr3
from kvmlab.hardware.processor import CR4_PCIDE
from kvmlab.hardware.tlb import GLOBAL, Array, ArrayShape, Tag, TlbEntry

_TAG = Tag(0, 0, 0)


def _entry(vpn: int, shift: int, tag: Tag = _TAG) -> TlbEntry:
    return TlbEntry(vpn, vpn << shift, shift, 15, 7, 0, tag, shift)


@kind("tlb.reach")
def reach(draw: Draw, difficulty: int) -> Problem:
    """How much memory a TLB translates without a miss."""
    shift = draw.choose(((12,), (12, 21), (12, 21, 30))[difficulty - 1])
    ways = draw.choose((2, 4, 8))
    entries = ways << draw.between(1, 4)
    array = Array(ArrayShape(entries, ways, (shift,)))
    for vpn in range(2 * entries):
        array.insert(_entry(vpn, shift))
    held = sum(map(len, array.sets))
    size = 1 << shift - 10
    return Problem(
        Number("KiB"),
        held * size,
        {"entries": entries, "ways": ways, "page": size_text(1 << shift)},
        {
            "reach-of-one-set": ways * size,
            "reach-by-sets": entries // ways * size,
            "reach-always-4k": held * 4,
            "reach-times-ways": held * ways * size,
        },
        steps=(Said("course.told.held", {"held": held, "page": size_text(1 << shift)}),),
    )


def _hits(shape: ArrayShape, pages: list[int]) -> list[bool]:
    """Which accesses hit in an array of that shape."""
    array, found = Array(shape), []
    for vpn in pages:
        found.append(array.find(vpn << 12, (_TAG,)) is not None)
        if not found[-1]:
            array.insert(_entry(vpn, 12))
    return found


def _fifo_hits(shape: ArrayShape, pages: list[int]) -> int:
    """The hits of somebody who throws out the oldest entry, used or not."""
    sets: list[list[int]] = [[] for _ in range(shape.sets)]
    hits = 0
    for vpn in pages:
        ways = sets[vpn % shape.sets]
        hits += vpn in ways
        if vpn not in ways:
            ways.append(vpn)
            del ways[: -shape.ways]
    return hits


@kind("tlb.hits")
def hits(draw: Draw, difficulty: int) -> Problem:
    """How many accesses hit in a tiny TLB."""
    entries, ways = ((4, 4), (4, 2), (8, 2))[difficulty - 1]
    shape = ArrayShape(entries, ways, (12,))
    distinct = draw.sample(range(16), entries + 2)
    pages = [draw.choose(distinct) for _ in range(10 + difficulty)]
    found = _hits(shape, pages)
    answer = sum(found)
    steps = tuple(
        Said("course.told.page.hit" if hit else "course.told.page.miss", {"page": page})
        for page, hit in zip(pages, found, strict=True)
    )
    return Problem(
        Number("hits"),
        answer,
        {
            "entries": entries,
            "ways": ways,
            "sets": shape.sets,
            "pages": ", ".join(map(str, pages)),
        },
        {
            "misses-counted": len(pages) - answer,
            "never-evicted": len(pages) - len(set(pages)),
            "first-in-first-out": _fifo_hits(shape, pages),
            "sets-ignored": sum(_hits(ArrayShape(entries, entries, (12,)), pages)),
            "one-way": sum(_hits(ArrayShape(entries, 1, (12,)), pages)),
        },
        steps=steps,
    )


_OWNERS = (1, 2, GLOBAL)


@kind("tlb.flush")
def flush(draw: Draw, difficulty: int) -> Problem:
    """Which translations are still there after an instruction."""
    bench = Bench(draw)
    cpu = bench.cpu
    cpu.controls.cr4 |= CR4_PCIDE
    cpu.controls.cr3 |= 1
    cpu.refresh()
    names = ("a", "b", "c", "d", "e")[: 3 + (difficulty > 1) + (difficulty > 2)]
    owners = [1, 2, GLOBAL, *(draw.choose(_OWNERS) for _ in names[3:])]
    owner = dict(zip(names, draw.shuffled(owners), strict=True))
    for number, name in enumerate(names):
        cpu.tlb.fill(_entry(16 + number, 12, Tag(0, owner[name], 0)), fetch=False)
    target = draw.choose(names)
    ways: dict[str, Callable[[], None]] = {
        "mov-cr3": lambda: mov_cr3(cpu, bench.root | 2),
        "mov-cr3-keep": lambda: mov_cr3(cpu, bench.root | 2 | 1 << 63),
        "invlpg": lambda: invlpg(cpu, 16 + names.index(target) << 12),
        "invpcid-one": lambda: invpcid(cpu, 1, 2),
        "invpcid-all": lambda: invpcid(cpu, 2),
        "invpcid-not-global": lambda: invpcid(cpu, 3),
    }
    way = draw.choose(list(ways)[: 2 * difficulty])
    ways[way]()
    left = frozenset(names[entry.vpn - 16] for entry in cpu.tlb.entries())
    gone = frozenset(name for name in names if owner[name] == GLOBAL)
    first = frozenset(name for name in names if owner[name] == 1)
    second = frozenset(name for name in names if owner[name] == 2)
    given: tuple[Words, ...] = tuple(
        Said("course.tlb.global", {"name": name})
        if owner[name] == GLOBAL
        else Said("course.tlb.of", {"name": name, "pcid": owner[name]})
        for name in names
    )
    return Problem(
        Bits(names),
        left,
        {"instruction": Said(f"course.instruction.{way}", {"name": target})},
        {
            "all-flushed": frozenset(),
            "none-flushed": frozenset(names),
            "global-flushed": left - gone,
            "wrong-pcid-flushed": left - first | second,
            "invlpg-needs-pcid": frozenset(names) - {target},
        },
        given,
        (Said("course.told.left", {"left": ", ".join(sorted(left)) or "-"}),),
    )


_PLACES = {4096: "table", 1 << 21: "directory", 1 << 30: "pointers"}.items()


@kind("tlb.walkcache")
def walk_cache(draw: Draw, difficulty: int) -> Problem:
    """How many references a miss costs beside a page that was just walked."""
    mmu = "native" if difficulty == 1 else draw.choose(("native", "ept", "ept"))
    nested = difficulty == 3 and mmu == "ept" and draw.chance(60)
    apart, place = draw.choose(list(_PLACES))
    records, cold = runs.second_walk(mmu, apart, nested=nested)
    steps = runs.references(records)
    guest = sum(one.table == "guest" for one in steps)
    host = 0 if mmu == "native" else 4
    return Problem(
        Number("references"),
        len(steps),
        {
            "design": Said(f"design.{mmu}"),
            "place": Said(f"course.apart.{place}"),
            "nested": Said("course.nested.on" if nested else "course.nested.off"),
        },
        {
            "caches-ignored": cold,
            "leaf-cached-too": host,
            "tables-need-no-ept": guest + host,
            "no-final-walk": guest * (host + 1),
            "nested-tlb-ignored": guest * (host + 1) + host,
        },
        steps=told(records),
    )


KINDS = (reach, hits, flush, walk_cache)
