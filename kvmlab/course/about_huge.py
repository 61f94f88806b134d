"""Questions on pages of other sizes: tables, THP splits, pools of hugetlbfs."""

from functools import cache

from kvmlab.base.tap import silent
from kvmlab.course import runs
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Sequence, kind
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.host.records import HostSplit
from kvmlab.kvm.policy import NAIVE

_MIB = 1 << 20
_HUGE = 2 * _MIB
_PIECES = 512


@kind("huge.tables")
def tables(draw: Draw, difficulty: int) -> Problem:
    """How many pages of tables a process needs for pages that lie apart."""
    pages = draw.between(2, 4 + 2 * difficulty)
    step = draw.choose((4096, 1 << 21) if difficulty == 1 else (4096, 1 << 21, 1 << 30, 1 << 39))
    answer = runs.path_tables(step)[pages - 1]
    apart = {4096: "page", 1 << 21: "table", 1 << 30: "directory", 1 << 39: "pointers"}[step]
    return Problem(
        Number("pages"),
        answer,
        {"pages": pages, "apart": Said(f"course.steps.{apart}")},
        {
            "whole-paths": 4 * pages,
            "one-page-each": pages,
            "root-forgotten": answer - 1,
            "one-path": 4,
        },
        steps=(Said("course.told.tree", {"pages": answer}),),
    )


@cache
def _discarded(pieces: int, blocks: int) -> tuple[int, int, int]:
    """Drop so many 4 KiB pieces of each of some huge pages.

    Returns the frames that the host has free for it, by how many RSS fell, and huge entries split.
    """
    records: list[object] = []
    host = Host(Ram(32 * _MIB), records.append, min_free_kbytes=256)
    space = host.process()
    hva = -(-space.mmap((blocks + 1) * _HUGE) // _HUGE) * _HUGE
    space.advise_huge(hva, wanted=True)
    space.populate(hva, blocks * _HUGE)
    free, rss = host.buddy.free_frames, space.rss
    for block in range(blocks):
        last = hva + block * _HUGE + (pieces - 1) * 4096
        space.madvise_dontneed(hva + block * _HUGE, (pieces - 1) * 4096)
        space.madvise_dontneed(last, 4096)
    split = sum(isinstance(one, HostSplit) for one in records)
    return host.buddy.free_frames - free, rss - space.rss, split


_PARTS = (2, 8, 64, 256, 511, 512)


@kind("huge.discard")
def discard(draw: Draw, difficulty: int) -> Problem:
    """What the host gets for pieces of transparent huge pages: at once, in KiB."""
    pieces, blocks = draw.choose(_PARTS), draw.between(2, 2 + difficulty)
    frames, rss, split = _discarded(pieces, blocks)
    return Problem(
        Number("KiB"),
        frames * 4,
        {"pieces": pieces, "blocks": blocks},
        {
            "pieces-free-at-once": pieces * blocks * 4,
            "whole-page-freed": blocks * 2048,
            "huge-never-freed": 0,
            "rest-freed": (_PIECES - pieces) * blocks * 4,
        },
        steps=(
            Said("course.told.discard", {"rss": rss * 4, "split": split}),
            Said("course.told.free", {"free": frames * 4}),
        ),
    )


@kind("huge.leaves")
def leaves(draw: Draw, difficulty: int) -> Problem:
    """How many leaf entries map a range of THP after pieces of it were dropped."""
    pieces, blocks = draw.choose(_PARTS[:-1]), draw.between(2, 2 + difficulty)
    hit = draw.between(1, blocks)
    _, rss, split = _discarded(pieces, hit)
    whole = blocks - hit
    left = whole + _PIECES * split - rss
    return Problem(
        Number("entries"),
        left,
        {"pieces": pieces, "blocks": blocks, "hit": hit},
        {
            "huge-entries-stay": blocks,
            "split-forgets-dropped": whole + _PIECES * hit,
            "entry-gone": whole,
            "all-split": _PIECES * blocks - pieces * hit,
        },
        steps=(Said("course.told.discard", {"rss": rss * 4, "split": split}),),
    )


@cache
def _pool(first: int, used: int, second: int, overcommit: int) -> tuple[int, int, int]:
    """Total, free and surplus pages after a pool of ``first``, ``used``, was set to ``second``."""
    host = Host(Ram(64 * _MIB), silent, min_free_kbytes=256)
    pool = host.hugetlb[21]
    pool.overcommit = overcommit
    pool.set_nr(first)
    pool.reserve(used)
    for _ in range(used):
        pool.alloc()
    pool.set_nr(second)
    return pool.total, pool.free, pool.surplus


@kind("huge.pool")
def pool(draw: Draw, difficulty: int) -> Problem:
    """Total, free and surplus pages of hugetlbfs after nr_hugepages was changed."""
    first = draw.between(4, 10)
    used = draw.between(1, first)
    overcommit = draw.between(1, 4) if difficulty == 3 else 0
    used += draw.between(0, overcommit)
    second = draw.between(0, 12)
    found = _pool(first, used, second, overcommit)
    spare = max(0, second - used)
    return Problem(
        Sequence(3),
        found,
        {"first": first, "used": used, "second": second, "overcommit": overcommit},
        {
            "pool-always-as-told": (second, spare, 0),
            "pool-takes-pages-in-use": (second, 0, 0),
            "pool-cannot-shrink": (max(first, second), max(first, second) - used, 0),
            "free-is-total": (found[0], found[0], found[2]),
        },
        steps=(
            Said(
                "course.told.pool",
                dict(zip(("total", "free", "surplus"), found, strict=True)),
            ),
        ),
    )


@kind("huge.violations")
def backing(draw: Draw, difficulty: int) -> Problem:
    """How many fewer EPT violations huge backing costs."""
    pages = draw.between(2, 8 * difficulty)
    small, large = (
        len(runs.touches("ept", NAIVE.name, pages, page, again=False)) for page in ("4K", "2M")
    )
    return Problem(
        Number("exits"),
        small - large,
        {"pages": pages},
        {
            "huge-saves-nothing": 0,
            "one-huge-violation": pages - 1,
            "huge-saves-references": 5 * pages,
        },
        steps=(Said("course.told.backing", {"small": small, "large": large}),),
    )


KINDS = (tables, discard, leaves, pool, backing)
