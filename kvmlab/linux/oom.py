"""The OOM killer: whom to kill when nothing can be reclaimed.

Linux, mm/oom_kill.c: oom_badness(), select_bad_process().
"""

from collections.abc import Iterable
from typing import Protocol

OOM_SCORE_ADJ_MIN = -1000  # never to be killed


class Killable(Protocol):
    """A process as the OOM killer sees it; sizes in pages."""

    name: str
    oom_score_adj: int  # -1000 to 1000

    @property
    def rss(self) -> int:
        """Pages that are mapped."""

    @property
    def swap_entries(self) -> int:
        """Pages that are in swap."""

    @property
    def table_pages(self) -> int:
        """Pages of page tables."""

    def kill(self) -> bool:
        """End it; whether its memory is free already.

        It is not while the process itself runs in the kernel: it may then use the reserves below
        the min mark until it gets out (ALLOC_OOM).
        """


def badness(process: Killable, total: int) -> int | None:
    """Its points, of ``total`` pages of RAM and swap; None if it must not be killed."""
    if process.oom_score_adj == OOM_SCORE_ADJ_MIN:
        return None
    points = process.rss + process.swap_entries + process.table_pages
    return points + process.oom_score_adj * (total // 1000)


def worst(processes: Iterable[Killable], total: int) -> tuple[Killable, int] | None:
    """The process with the most points, the last of equals, and its points."""
    found: tuple[Killable, int] | None = None
    for process in processes:
        points = badness(process, total)
        if points is not None and (found is None or points >= found[1]):
            found = process, points
    return found
