"""khugepaged: it looks through memory and copies small pages together into huge ones.

Linux, mm/khugepaged.c: hpage_collapse_scan_pmd(), collapse_huge_page().  The defaults are the
kernel's.  With ``max_ptes_none`` at 511 one live page is enough, so that what a balloon has given
back of such a range is allocated again.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from kvmlab.base.clock import MILLISECOND, Clock
from kvmlab.base.errors import OutOfMemory, ProcessKilled
from kvmlab.linux.huge_pages import HUGE_SIZE, ORDER, PIECES
from kvmlab.linux.memory import Memory
from kvmlab.linux.records import VmEvent


@dataclass(slots=True)
class Settings:
    """/sys/kernel/mm/transparent_hugepage/khugepaged."""

    defrag: bool = True  # whether it reclaims where no block is free
    pages_to_scan: int = 8 * PIECES
    scan_sleep_millisecs: int = 10_000
    alloc_sleep_millisecs: int = 60_000
    max_ptes_none: int = PIECES - 1
    max_ptes_swap: int = PIECES // 8
    max_ptes_shared: int = PIECES // 2


@dataclass(slots=True)
class Small:
    """What a small entry that is not empty says: a page, or (not ``present``) a swap slot."""

    present: bool
    young: bool = False
    writable: bool = False
    shared: bool = False


class Collapsible(Protocol):
    """An address space as khugepaged sees it; every range is 2 MiB, named by its first byte."""

    @property
    def number(self) -> int:
        """Tells it from others; higher ones are scanned later."""

    def huge_ranges(self) -> Iterable[int]:
        """Every range in which huge pages are wanted, in order."""

    def small_entries(self, base: int) -> Sequence[Small]:
        """What a range holds; nothing where a huge page is."""

    def bring_back(self, base: int) -> None:
        """Read what is in swap; raises `OutOfMemory` or `ProcessKilled`."""

    def collapse(self, base: int, pfn: int) -> bool:
        """Let the huge page at frame ``pfn`` take the place of small ones, with their contents.

        False if the range has changed since it was looked at; then nothing is done.
        """


class Khugepaged:
    """The daemon of one kernel; ``spaces`` names the address spaces of the moment."""

    def __init__(
        self,
        memory: Memory,
        spaces: Callable[[], Iterable[Collapsible]],
        run: Callable[[Callable[[], None]], None],
    ) -> None:
        self._memory, self._spaces, self._run = memory, spaces, run
        self.settings = Settings()
        self._cursor = (0, 0)  # the space's number and the address to go on from

    def start(self, clock: Clock) -> None:
        """Scan now and then, for as long as ``clock`` runs."""

        def work() -> None:
            fine = self.scan()
            settings = self.settings
            pause = settings.scan_sleep_millisecs if fine else settings.alloc_sleep_millisecs
            clock.after(pause * MILLISECOND, wake)

        def wake() -> None:
            self._run(work)

        clock.after(self.settings.scan_sleep_millisecs * MILLISECOND, wake)

    def scan(self) -> bool:
        """Look at ``pages_to_scan`` pages; False if a huge page was wanted and there was none."""
        ranges = [(space, base) for space in self._spaces() for base in space.huge_ranges()]
        ahead = [one for one in ranges if (one[0].number, one[1]) >= self._cursor]
        if not ahead:
            ahead = ranges  # a new round
        count = max(1, self.settings.pages_to_scan // PIECES)
        for space, base in ahead[:count]:
            self._cursor = (space.number, base + HUGE_SIZE)
            try:
                with suppress(ProcessKilled):
                    self._try(space, base)
            except OutOfMemory:
                self._memory.tell(VmEvent("thp_collapse_alloc_failed"))
                return False
        return True

    def _try(self, space: Collapsible, base: int) -> None:
        entries = space.small_entries(base)
        if not entries or not self._worth(entries):
            return
        space.bring_back(base)
        pfn = self._memory.huge.alloc(direct=self.settings.defrag)
        if space.collapse(base, pfn):
            self._memory.tell(VmEvent("thp_collapse_alloc"))
        else:
            self._memory.free(pfn, ORDER)

    def _worth(self, entries: Sequence[Small]) -> bool:
        """Whether the limits on empty, swapped and shared entries hold, and it is in use."""
        settings = self.settings
        swapped = sum(not one.present for one in entries)
        young = sum(one.young for one in entries)
        return (
            PIECES - len(entries) <= settings.max_ptes_none
            and swapped <= settings.max_ptes_swap
            and sum(one.shared for one in entries) <= settings.max_ptes_shared
            and any(one.writable for one in entries)
            and young >= (PIECES // 2 if swapped else 1)
        )
