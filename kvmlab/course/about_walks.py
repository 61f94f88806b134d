"""Questions on walks: follow one by hand, say where it stops and what it allows."""

from kvmlab.course.bench import ACCESSED, DIRTY, OPEN, PRESENT, USER, WRITABLE, XD, Bench, canonical
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Bits, Number, Problem, Said, Words, kind, picked
from kvmlab.course.told import told
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import EXECUTE, WRITE, Fault, Mapped, Step
from kvmlab.hardware.records import USER as USER_RIGHT

_ADDRESS = 0x000F_FFFF_FFFF_F000
_MODES = (("32-bit",), ("4-level", "32-bit"), ("5-level", "4-level"))
_LEAF = OPEN | ACCESSED | DIRTY
_UPPER = OPEN | ACCESSED


def _memory(steps: list[Step], size: int) -> tuple[Words, ...]:
    """The words of memory that a walk reads, by address."""
    lines = {
        step.address: f"[{step.address:#x}] = {step.entry:#0{2 + 2 * size}x}" for step in steps
    }
    return tuple(lines[address] for address in sorted(lines))


def _with_decoys(draw: Draw, bench: Bench, gva: int, shift: int) -> tuple[Words, ...]:
    """Map two neighbours in the same tables, and return all that the three walks read."""
    size = bench.format.entry_bytes
    bench.map(gva, shift, _LEAF, dict.fromkeys(range(1, 6), _UPPER))
    steps, _ = bench.walk(gva)
    for _ in range(2):
        low = gva ^ draw.between(1, 7) << shift
        bench.map(low, shift, _LEAF)
        steps = [*steps, *bench.walk(low)[0]]
    return _memory(steps, size)


@kind("walk.physical")
def physical(draw: Draw, difficulty: int) -> Problem:
    """Where an address leads, by a listing of memory."""
    mode = draw.choose(_MODES[difficulty - 1])
    bench = Bench(draw, mode)
    shift = bench.format.page_shifts[1] if difficulty > 1 and draw.chance(40) else 12
    gva = canonical(draw, mode)
    given = _with_decoys(draw, bench, gva, shift)
    steps, found = bench.walk(gva)
    assert isinstance(found, Mapped)  # noqa: S101  it was mapped just now
    page = found.address & ~((1 << shift) - 1)
    leaf = steps[-1].entry
    return Problem(
        Number(base=16),
        found.address,
        {"gva": f"{gva:#x}", "mode": mode, "root": f"{bench.root:#x}"},
        {
            "offset-forgotten": page,
            "offset-always-12": page | gva & 0xFFF,
            "flags-kept": leaf & ~XD & ~0xFFF | leaf & 0xFFF | gva & 0xFFF,
            "frame-number": found.address >> 12,
            "table-for-page": steps[-1].address & ~0xFFF | gva & 0xFFF,
        },
        given,
        told(steps),
    )


@kind("walk.next")
def following(draw: Draw, difficulty: int) -> Problem:
    """Which address the walk reads next, given the entry that it has just read."""
    mode = draw.choose(_MODES[difficulty - 1])
    bench = Bench(draw, mode)
    gva = canonical(draw, mode)
    bench.map(gva, 12, _LEAF, dict.fromkeys(range(1, 6), _UPPER))
    steps, _ = bench.walk(gva)
    number = draw.below(len(steps) - 1)
    step, after = steps[number], steps[number + 1]
    size, base = bench.format.entry_bytes, after.address & ~0xFFF
    return Problem(
        Number(base=16),
        after.address,
        {
            "gva": f"{gva:#x}",
            "mode": mode,
            "name": LEVEL_NAMES[step.level],
            "entry": f"{step.entry:#x}",
        },
        {
            "flags-kept": step.entry + after.index * size,
            "index-not-scaled": base + after.index,
            "wrong-level": base + step.index * size,
            "entry-size": base + after.index * (12 - size),
        },
        steps=told(steps[number : number + 2]),
    )


@kind("walk.stop")
def stop(draw: Draw, difficulty: int) -> Problem:
    """At which entry a walk ends, and why."""
    mode = "5-level" if difficulty == 3 else "4-level"
    bench = Bench(draw, mode)
    gva = canonical(draw, mode)
    levels = bench.format.levels
    bench.map(gva, 12, _LEAF, dict.fromkeys(range(1, 6), _UPPER))
    steps, _ = bench.walk(gva)
    how = draw.choose(("absent", "reserved", "arrives", "absent"))
    broken = draw.choose(steps[1:] if difficulty == 1 else steps)
    closed = steps[draw.below(max(1, steps.index(broken)))] if difficulty > 1 else None
    if closed is not None and closed is not broken:  # no right is missed on the way down
        bench.put(closed.address, closed.entry & ~(WRITABLE | USER))
    if how != "arrives":
        bad = broken.entry & ~PRESENT if how == "absent" else broken.entry | 1 << 48
        bench.put(broken.address, bad)
    walked, found = bench.walk(gva)
    answer = f"L{found.level}" if isinstance(found, Fault) else "arrives"
    options: dict[str, Words] = {
        f"L{level}": Said("course.stops", {"name": LEVEL_NAMES[level]})
        for level in range(levels, 0, -1)
    }
    options["arrives"] = Said("course.arrives")
    mistaken = {}
    if closed is not None and closed is not broken:
        mistaken["rights-stop-a-walk"] = f"L{closed.level}"
    if answer != "arrives":
        mistaken["leaf-decides"] = "arrives"
    return Problem(
        picked(draw, options),
        answer,
        {"gva": f"{gva:#x}", "mode": mode},
        mistaken,
        _listing(bench, steps),
        told(walked),
    )


def _listing(bench: Bench, steps: list[Step]) -> tuple[Words, ...]:
    """The entries on the way of ``steps`` as they are now, by their names."""
    return tuple(
        f"{LEVEL_NAMES[step.level]:<6} {bench.ram.load(bench.home(step.address)):#018x}"
        for step in steps
    )


@kind("walk.rights")
def rights(draw: Draw, difficulty: int) -> Problem:
    """What all levels together allow."""
    bench = Bench(draw, "5-level" if difficulty == 3 else "4-level")
    gva = canonical(draw, bench.format.name)
    each = {
        level: PRESENT | ACCESSED | draw.choose((OPEN, OPEN, PRESENT | WRITABLE, PRESENT | USER))
        for level in range(1, bench.format.levels + 1)
    }
    for level in each:
        each[level] |= XD if draw.chance(10 * difficulty) else 0
    bench.map(gva, 12, each[1], each)
    steps, found = bench.walk(gva)
    names = ("write", "user", "execute")

    def named(writable: object, user: object, executable: object) -> frozenset[str]:
        flags = zip(names, (writable, user, executable), strict=True)
        return frozenset(name for name, granted in flags if granted)

    def by(*entries: int) -> frozenset[str]:
        """What somebody says who looks at these entries only, and takes what any of them gives."""
        return named(
            any(one & WRITABLE for one in entries),
            any(one & USER for one in entries),
            any(not one & XD for one in entries),
        )

    assert isinstance(found, Mapped)  # noqa: S101  it was mapped just now
    granted = found.rights
    entries = [step.entry for step in steps]
    return Problem(
        Bits(names),
        named(granted & WRITE, granted & USER_RIGHT, granted & EXECUTE),
        {"gva": f"{gva:#x}"},
        {
            "leaf-decides-rights": by(entries[-1]),
            "any-level-grants": by(*entries),
            "top-decides-rights": by(entries[0]),
        },
        _listing(bench, steps),
        told(steps),
    )


KINDS = (physical, following, stop, rights)
