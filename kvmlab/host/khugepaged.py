"""khugepaged: it looks through memory and copies small pages together into huge ones.

Linux, mm/khugepaged.c: hpage_collapse_scan_pmd(), collapse_huge_page().  The defaults are the
kernel's.  With ``max_ptes_none`` at 511 one live page is enough, so that what a balloon has given
back of such a range is allocated again.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.clock import MILLISECOND, Clock
from kvmlab.base.errors import OutOfMemory, ProcessKilled
from kvmlab.host.address_space import AddressSpace
from kvmlab.host.areas import Area, base_of_huge, huge_fits
from kvmlab.host.huge_pages import ORDER, PIECES
from kvmlab.host.page_table import ACCESSED, LARGE, PAGE, WRITABLE, Leaf
from kvmlab.host.parts import Parts
from kvmlab.host.records import HostCollapsed
from kvmlab.linux.frames import Role
from kvmlab.linux.records import VmEvent

_SIZE = PIECES << PAGE_SHIFT


@dataclass(slots=True)
class Settings:
    """/sys/kernel/mm/transparent_hugepage/khugepaged."""

    pages_to_scan: int = 8 * PIECES
    scan_sleep_millisecs: int = 10_000
    alloc_sleep_millisecs: int = 60_000
    max_ptes_none: int = PIECES - 1
    max_ptes_swap: int = PIECES // 8
    max_ptes_shared: int = PIECES // 2


class Khugepaged:
    """The daemon of one host, over the processes in ``spaces``."""

    def __init__(self, parts: Parts, spaces: Sequence[AddressSpace], settings: Settings) -> None:
        self._parts, self._spaces, self.settings = parts, spaces, settings
        self._cursor = (0, 0)  # the process's number and the HVA to go on from

    def start(self, clock: Clock) -> None:
        """Scan now and then, for as long as ``clock`` runs."""

        def wake() -> None:
            fine = self.scan()
            settings = self.settings
            pause = settings.scan_sleep_millisecs if fine else settings.alloc_sleep_millisecs
            clock.after(pause * MILLISECOND, wake)

        clock.after(self.settings.scan_sleep_millisecs * MILLISECOND, wake)

    def scan(self) -> bool:
        """Look at ``pages_to_scan`` pages; False if a huge page was wanted and there was none."""
        ranges = self._ranges()
        ahead = [one for one in ranges if (one[0].number, one[2]) >= self._cursor]
        if not ahead:
            ahead = ranges  # a new round
        count = max(1, self.settings.pages_to_scan // PIECES)
        for space, _area, base in ahead[:count]:
            self._cursor = (space.number, base + _SIZE)
            try:
                with suppress(ProcessKilled):
                    self._try(space, base)
            except OutOfMemory:
                self._parts.tap(VmEvent("thp_collapse_alloc_failed"))
                return False
        return True

    def _ranges(self) -> list[tuple[AddressSpace, Area, int]]:
        """Every aligned 2 MiB in which huge pages are wanted, in the order of the scan."""
        return [
            (space, area, base)
            for space in self._spaces
            for area in space.areas
            if self._parts.huge.wanted(area) and area.shift == PAGE_SHIFT
            for base in range(base_of_huge(area.start + _SIZE - 1), area.end, _SIZE)
            if huge_fits(area, base)
        ]

    def _try(self, space: AddressSpace, base: int) -> None:
        leaves = list(space.table.between(base, base + _SIZE)) if space.alive else []
        if not leaves or leaves[0].level == 2 or not self._worth(leaves):
            return
        for leaf in leaves:
            space.fault_in(leaf.hva, write=False)  # what is in swap comes back first
        pfn = space.frame(ORDER, light=True)
        now = list(space.table.between(base, base + _SIZE))
        if len(now) != len(leaves) or not all(leaf.present for leaf in now):
            self._parts.memory.free(pfn, ORDER)  # reclaim took some of them meanwhile
            return
        self._copy(space, base, now, pfn)

    def _worth(self, leaves: list[Leaf]) -> bool:
        """Whether the limits on empty, swapped and shared entries hold, and it is in use."""
        frames, settings = self._parts.memory.frames, self.settings
        present = [leaf for leaf in leaves if leaf.present]
        swapped = len(leaves) - len(present)
        shared = sum(frames.role[leaf.pfn] == Role.KSM for leaf in present)
        young = sum(
            bool(leaf.entry & ACCESSED) or bool(frames.referenced[leaf.pfn]) for leaf in present
        )
        return (
            PIECES - len(leaves) <= settings.max_ptes_none
            and swapped <= settings.max_ptes_swap
            and shared <= settings.max_ptes_shared
            and not any(self._parts.huge.is_piece(leaf.pfn) for leaf in present)
            and any(leaf.entry & WRITABLE for leaf in present)
            and young >= (PIECES // 2 if swapped else 1)
        )

    def _copy(self, space: AddressSpace, base: int, leaves: list[Leaf], pfn: int) -> None:
        space.notify(base, base + _SIZE)
        contents = self._parts.memory.contents
        for leaf in leaves:
            contents.write(pfn + (leaf.hva - base >> PAGE_SHIFT), contents.read(leaf.pfn))
            space.discard.take_out(leaf)
        address = space.table.collapse(base)
        space.map_page(base, pfn, address, PAGE | LARGE)
        self._parts.tap(VmEvent("thp_collapse_alloc"))
        self._parts.tap(HostCollapsed(base, pfn << PAGE_SHIFT, PIECES - len(leaves)))
