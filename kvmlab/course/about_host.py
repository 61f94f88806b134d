"""Questions on what the host's kernel does when memory is short: KSM, swap, the OOM killer."""

from contextlib import suppress
from functools import cache

from kvmlab.base.errors import OutOfMemory, ProcessKilled
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Sequence, Words, kind, picked
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.host.ksm import RUN
from kvmlab.host.records import HostSwappedOut
from kvmlab.linux.oom import OOM_SCORE_ADJ_MIN
from kvmlab.linux.records import OomKill

_MIB = 1 << 20
_PAGE = 4096
_CHUNK = _MIB // 16
_KSM_MOST = 256  # Linux' default max_page_sharing, far above what is asked here


@cache
def _merged(guests: int, same: int, own: int, writes: int) -> tuple[int, int, int]:
    """pages_shared, pages_sharing and frames saved after two scans and some writes.

    Each guest has ``same`` pages with the contents that the others have too, and ``own`` ones.
    """
    host = Host(Ram(16 * _MIB), lambda _record: None, min_free_kbytes=256)
    spaces = []
    for number in range(guests):
        space = host.process(f"guest {number}")
        hva = space.mmap(_MIB)
        space.advise_mergeable(hva, wanted=True)
        for page in range(same + own):
            value = 1 + page if page < same else 1000 * (number + 1) + page
            host.ram.store(space.fault_in(hva + page * _PAGE).address, value)
        spaces.append((space, hva))
    host.ksm.run = RUN
    free = host.buddy.free_frames
    while host.ksm.full_scans < 3:
        host.ksm.scan(_KSM_MOST)
    space, hva = spaces[0]
    for page in range(writes):
        host.ram.store(space.fault_in(hva + page * _PAGE).address, 77_000 + page)
    return host.ksm.pages_shared, host.ksm.pages_sharing, host.buddy.free_frames - free


def _guests(draw: Draw, difficulty: int) -> tuple[int, int, int, int]:
    guests, same = draw.between(2, 2 + difficulty), draw.choose((3, 5, 8, 12))
    own = draw.choose((0, 2, 5)) if difficulty > 1 else 0
    writes = draw.between(1, 3) if difficulty == 3 else 0
    return guests, same, own, writes


def _values(guests: int, same: int, own: int, writes: int) -> dict[str, object]:
    return {"guests": guests, "same": same, "own": own, "writes": writes}


@kind("ksm.counters")
def counters(draw: Draw, difficulty: int) -> Problem:
    """pages_shared and pages_sharing."""
    shape = _guests(draw, difficulty)
    guests, same, own, _ = shape
    shared, sharing, saved = _merged(*shape)
    return Problem(
        Sequence(2),
        (shared, sharing),
        _values(*shape),
        {
            "sharing-counts-all": (shared, shared + sharing),
            "shared-counts-sharers": (shared + sharing, sharing),
            "ksm-swapped": (sharing, shared),
            "write-changes-nothing": (same, same * (guests - 1)),
            "own-pages-merge": (same + own, (same + own) * (guests - 1)),
        },
        steps=(
            Said("course.told.ksm", {"shared": shared, "sharing": sharing, "saved": saved * 4}),
        ),
    )


@kind("ksm.saved")
def saved(draw: Draw, difficulty: int) -> Problem:
    """How much memory the host has free for KSM, in KiB."""
    shape = _guests(draw, difficulty)
    guests, same, own, writes = shape
    shared, sharing, frames = _merged(*shape)
    return Problem(
        Number("KiB"),
        frames * 4,
        _values(*shape),
        {
            "all-copies-freed": same * guests * 4,
            "one-copy-freed": same * 4,
            "write-changes-nothing": same * (guests - 1) * 4,
            "own-pages-merge": (same + own) * (guests - 1) * 4,
            "saved-in-pages": frames,
            "writer-frees-more": (same * (guests - 1) + writes) * 4,
        },
        steps=(
            Said("course.told.ksm", {"shared": shared, "sharing": sharing, "saved": frames * 4}),
        ),
    )


@cache
def _overcommitted(memory: int, swap: int, guests: int, each: int, touched: int) -> tuple[str, int]:
    """What becomes of guests of ``each`` KiB that touch a part: how it ends, and pages swapped."""
    records: list[object] = []
    host = Host(Ram(memory << 10), records.append, swap=swap << 10, min_free_kbytes=64)
    spaces = []
    try:
        for number in range(guests):
            space = host.process(f"guest {number}")
            spaces.append((space, space.mmap(each << 10)))
    except OutOfMemory:
        return "refused", 0
    for start in range(0, touched << 10, _CHUNK):
        for space, hva in spaces:
            with suppress(ProcessKilled):
                space.populate(hva + start, _CHUNK)
            out = sum(isinstance(one, HostSwappedOut) for one in records)
            if any(isinstance(one, OomKill) for one in records):
                return "killed", out
    return ("swaps" if out else "fits"), out


_ENDS = ("fits", "swaps", "killed", "refused")


@kind("swap.outcome")
def outcome(draw: Draw, difficulty: int) -> Problem:
    """How it ends if guests are promised more than the host has, and touch it."""
    memory = 3072
    while True:
        swap = draw.choose((0, 1024, 4096) if difficulty > 1 else (0, 4096))
        guests, each = draw.between(2, 4), draw.choose((1024, 1536))
        touched = draw.choose((256, 512, 1024))
        used = guests * touched
        # Clear of what the kernel itself needs, which nobody should have to know.
        if used <= memory - 1792 or memory <= used <= memory + swap - 1024 or used >= memory + swap:
            break
    found, out = _overcommitted(memory, swap, guests, each, touched)
    options: dict[str, Words] = {one: Said(f"course.overcommit.{one}") for one in _ENDS}
    return Problem(
        picked(draw, options),
        found,
        {"memory": memory, "swap": swap, "guests": guests, "each": each, "touched": touched},
        {
            "promises-are-refused": "refused",
            "promises-are-used": (
                "fits" if guests * each <= memory else "swaps" if swap else "killed"
            ),
            "swap-forgotten": "killed" if used > memory else found,
            "swap-endless": "swaps" if used > memory else found,
        },
        steps=(Said("course.told.swapped", {"used": used, "out": out}),),
    )


@kind("swap.victim")
def victim(draw: Draw, difficulty: int) -> Problem:
    """Whom the host's OOM killer takes."""
    chosen = draw.sample((1, 2, 4, 5, 7)[: 3 + difficulty], 2 + difficulty)
    first = draw.below(len(chosen))
    sizes = (*chosen[first:], *chosen[:first])
    spared = difficulty > 1 and draw.chance(50)
    number, points = _killed(sizes, spared=spared)
    names = [f"vm{one}" for one in range(len(sizes))]
    options: dict[str, Words] = {name: name for name in names}
    chunk = _CHUNK >> 10
    given: tuple[Words, ...] = tuple(
        Said(
            "course.vm",
            {
                "name": name,
                "touched": size * chunk,
                "adjust": -1000 if spared and size == max(sizes) else 0,
            },
        )
        for name, size in zip(names, sizes, strict=True)
    )
    return Problem(
        picked(draw, options),
        names[number],
        {"promised": _PROMISED >> 10},
        {
            "adjustment-ignored": names[sizes.index(max(sizes))],
            "last-to-ask-dies": names[-1],
            "smallest-dies": names[sizes.index(min(sizes))],
        },
        given,
        (Said("course.told.killed", {"name": names[number], "points": points}),),
    )


_PROMISED = _MIB // 2


@cache
def _killed(sizes: tuple[int, ...], *, spared: bool) -> tuple[int, int]:
    """The first victim, by its number, and its points, once all have touched their memory.

    ``spared``: the largest has an oom_score_adj of -1000.
    """
    records: list[object] = []
    host = Host(Ram(sum(sizes) * _CHUNK + _MIB + _MIB // 4), records.append, min_free_kbytes=64)
    for number, size in enumerate(sizes):
        space = host.process(str(number))
        space.populate(space.mmap(_PROMISED), size * _CHUNK)
        space.oom_score_adj = OOM_SCORE_ADJ_MIN if spared and size == max(sizes) else 0
    asking = host.process("backup")
    asking.oom_score_adj = OOM_SCORE_ADJ_MIN
    asking.populate(asking.mmap(_PROMISED), _PROMISED)
    first = next(one for one in records if isinstance(one, OomKill))
    return int(first.victim), first.badness


KINDS = (counters, saved, outcome, victim)
