"""The task ``sharer``: ``share(pages)`` says for each page which page is kept in its place.

What is expected is what KSM makes of these pages on a host of its own.
"""

from collections.abc import Sequence
from typing import Any

from kvmlab.base.tap import silent
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Said, Words
from kvmlab.course.task import Case, expected
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.host.ksm import RUN

_MIB, _PAGE = 1 << 20, 4096


def _contents(draw: Draw) -> list[bytes]:
    """Pages of which some are equal, and some differ in one byte only."""
    count = draw.between(1, 12)
    base = [bytes([draw.below(256)]) * _PAGE for _ in range(draw.between(1, 3))]
    base += [one[:-1] + bytes([one[-1] ^ 1]) for one in base if draw.chance(50)]
    return [draw.choose(base) for _ in range(count)]


def _merged(pages: Sequence[bytes]) -> tuple[int, ...]:
    """For each page the first one that shares a frame with it, after KSM has scanned all."""
    host = Host(Ram(4 * _MIB), silent, min_free_kbytes=64)
    space = host.process()
    start = space.mmap(_MIB)
    space.advise_mergeable(start, wanted=True)
    for number, data in enumerate(pages):
        host.ram.write(space.fault_in(start + number * _PAGE).address, data)
    host.ksm.run = RUN
    while host.ksm.full_scans < 4:
        host.ksm.scan(len(pages) + 1)
    frames = [space.fault_in(start + n * _PAGE, write=False).address for n in range(len(pages))]
    return tuple(frames.index(one) for one in frames)


def share_case(draw: Draw) -> Case:
    """A few pages."""
    pages = _contents(draw)
    kept = _merged(pages)
    values = {"pages": len(pages), "kept": len(set(kept))}
    return Case((list(pages),), kept, Said("course.task.sharer.case", values))


def share_judge(case: Case, got: Any) -> Words | None:  # noqa: ANN401  whatever was returned
    """Pages may be merged exactly where KSM merges them; which of equal ones is kept is free."""
    found = list(got)
    want: tuple[int, ...] = case.expected
    if len(found) != len(want) or any(type(one) is not int for one in found):
        raise TypeError
    if any(not 0 <= one < len(want) for one in found):
        return expected(f"0 .. {len(want) - 1}", str(found))
    first = [found.index(one) for one in found]
    stays = all(want[one] == want[number] for number, one in enumerate(found))
    return None if tuple(first) == want and stays else expected(str(list(want)), str(found))
