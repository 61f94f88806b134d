"""The memory of one kernel: allocation with its watermarks, reclaim, swap and the OOM killer.

Linux, mm/page_alloc.c: get_page_from_freelist(), __alloc_pages_slowpath().
"""

from collections.abc import Callable

import numpy as np

from kvmlab.base.errors import MachineCheck, OutOfMemory
from kvmlab.base.tap import Tap
from kvmlab.linux.buddy import Buddy
from kvmlab.linux.frames import NOWHERE, SWAP_BACKED, Frames, Pages, Role, runs
from kvmlab.linux.huge_pages import HugePages
from kvmlab.linux.lru import Lists, Lru
from kvmlab.linux.mapping import Contents, Mapping
from kvmlab.linux.oom import Killable, worst
from kvmlab.linux.records import KswapdWoken, OomKill, VmEvent
from kvmlab.linux.swap import Swap
from kvmlab.linux.vmscan import SWAP_CLUSTER_MAX, Reclaim
from kvmlab.linux.zone import Zone

_MAX_RECLAIM_RETRIES = 16
_COSTLY_ORDER = 3  # PAGE_ALLOC_COSTLY_ORDER: above it an allocation fails rather than kills


class Memory:
    """Frames, their descriptors and lists, over a buddy allocator."""

    def __init__(
        self,
        buddy: Buddy,
        contents: Contents,
        tap: Tap,
        *,
        swap: Swap | None = None,
        min_free_kbytes: int | None = None,
    ) -> None:
        self.buddy, self.contents, self._tap = buddy, contents, tap
        self.zone = Zone(buddy.total, min_free_kbytes)
        self.frames = Frames(buddy.end)
        self.lists = Lists(self.frames)
        self.swap = swap or Swap()
        self.mappings: list[Mapping] = []
        self.processes: list[Killable] = []
        self._dying: Killable | None = None  # killed, and still on its way out of the kernel
        self.oom_notifiers: list[Callable[[], int]] = []  # a balloon that can give pages back
        self.shrinkers: list[Callable[[], int]] = []  # caches of the kernel: pages freed
        self.huge = HugePages(self)
        self.wake_kswapd: Callable[[], None] = _asleep
        self.reclaim = Reclaim(
            self.frames,
            self.lists,
            self.swap,
            self.mappings,
            contents,
            self.free_pages,
            lambda: (self.buddy.free_frames, self.zone.marks.high),
            tap,
        )

    def tell(self, record: object) -> None:
        """Say that something happened, through the tap of this kernel."""
        self._tap(record)

    def listen(self, tap: Tap) -> Tap:
        """Say to ``tap`` alone what happens from now on; returns who has heard of it so far."""
        before, self._tap = self._tap, tap
        self.reclaim.tap = tap
        return before

    def register(self, mapping: Mapping) -> int:
        """Make an owner of pages known; returns its number."""
        self.mappings.append(mapping)
        return len(self.mappings) - 1

    # -- allocation -----------------------------------------------------------------------

    def alloc(self, role: Role, order: int = 0, *, light: bool = False) -> int:
        """The first frame of a block for ``role``, reclaiming and at last killing for it.

        ``light`` is __GFP_NORETRY: one attempt at reclaim, nobody is killed.  Raises
        `OutOfMemory` if that, or a block larger than 8 frames, finds nothing.
        """
        if self.buddy.free_frames - (1 << order) < self.zone.marks.low:
            self._wake()
        if not self._fits(order):
            self._direct(order, light)
        pfn = self.buddy.alloc(order)
        self.frames.take(pfn, order, role)
        return pfn

    def spare_block(self, role: Role, order: int, *, wake: bool) -> int:
        """The same, if a block is free above the min mark: nothing is reclaimed for it.

        Where there is none, kswapd is woken if that is asked for.  Raises `OutOfMemory`.
        """
        if not self._fits(order):
            if wake:
                self._wake()
            raise self._none(order)
        pfn = self.buddy.alloc(order)
        self.frames.take(pfn, order, role)
        return pfn

    def alloc_pages(self, role: Role, count: int) -> Pages:
        """So many single frames, as `alloc` gives them where no watermark is in the way."""
        pages = self.buddy.alloc_frames(count)
        self.frames.take_pages(pages, role)
        return pages

    def add_page(self, pfn: int, mapping: int, index: int, lru: Lru) -> None:
        """A page belongs to ``mapping`` at ``index`` and may be reclaimed from now on."""
        self.frames.mapping[pfn], self.frames.index[pfn] = mapping, index
        self.lists.add(np.array([pfn]), lru)

    def own(self, pages: Pages, mapping: int, index: int) -> None:
        """Pages belong to ``mapping``, at ``index`` and what follows it."""
        self.frames.mapping[pages] = mapping
        self.frames.index[pages] = np.arange(index, index + len(pages))

    def free(self, pfn: int, order: int = 0) -> None:
        """Give a block back, its contents forgotten."""
        if self.frames.lru[pfn] != NOWHERE:
            self.lists.remove(np.array([pfn]))
        self.contents.clear(pfn, 1 << order)
        self.frames.release(pfn, order)
        self.buddy.free(pfn, order)

    def free_pages(self, pages: Pages) -> None:
        """Give many pages of one frame each back, as `free` does one by one."""
        self.lists.remove(pages)
        self.frames.role[pages] = Role.FREE
        for first, count in runs(np.sort(pages, kind="stable")):
            self.contents.clear(first, count)
            self.buddy.free_run(first, count)

    def mark_accessed(self, pfn: int) -> None:
        """A page was used other than through an entry: the second time activates it."""
        here = self.frames.lru[pfn]
        if not self.frames.referenced[pfn]:
            self.frames.put("referenced", pfn, value=True)
        elif here in (Lru.INACTIVE_ANON, Lru.INACTIVE_FILE):
            self.frames.put("referenced", pfn, value=False)
            page = np.array([pfn])
            self.lists.remove(page)
            self.lists.add(page, Lru(here | 1))

    def swap_in(self, slot: int, pfn: int) -> None:
        """Fill a frame from swap; the slot loses one user."""
        self.contents.write(pfn, self.swap.load(slot))
        self.swap.release(slot)
        self._tap(VmEvent("pswpin"))

    # -- when memory is short -------------------------------------------------------------

    def balance(self) -> None:
        """What kswapd does when it was woken: reclaim until the high mark (balance_pgdat())."""
        failures = 0
        high = self.zone.marks.high
        while self.buddy.free_frames < high and failures < _MAX_RECLAIM_RETRIES:
            want = max(high - self.buddy.free_frames, SWAP_CLUSTER_MAX)
            failures = 0 if self._shrink(want, "kswapd") else failures + 1

    def _wake(self) -> None:
        self._tap(KswapdWoken(self.buddy.free_frames, self.zone.marks.low))
        self.wake_kswapd()

    def _none(self, order: int) -> OutOfMemory:
        return OutOfMemory(
            f"no block of {1 << order} free frames: {self.buddy.free_frames} are free, "
            f"the min watermark is {self.zone.marks.min}"
        )

    def _fits(self, order: int) -> bool:
        enough = self.buddy.free_frames - (1 << order) >= self.zone.marks.min
        return enough and self.buddy.has(order)

    def _direct(self, order: int, light: bool) -> None:
        """Reclaim on behalf of an allocation (__alloc_pages_slowpath())."""
        self._tap(VmEvent("allocstall"))
        failures = 0
        while True:
            progress = self._shrink(max(SWAP_CLUSTER_MAX, 1 << order), "direct")
            if self._fits(order):
                return
            failures = 0 if progress else failures + 1
            costly = order > _COSTLY_ORDER and failures
            if light or costly:
                raise self._none(order)
            if failures > _MAX_RECLAIM_RETRIES:
                if not self._out_of_memory():
                    return
                failures = 0

    def _shrink(self, want: int, by: str) -> int:
        reclaimed = self.reclaim.shrink(want, by)
        return reclaimed + sum(shrink() for shrink in self.shrinkers)

    def _out_of_memory(self) -> bool:
        """Ask those who can give pages back; else kill the worst process (out_of_memory()).

        False if the reserves must do until the killed process is gone.
        """
        if sum(notify() for notify in self.oom_notifiers):
            return True
        if self._dying and self._dying.rss + self._dying.swap_entries:
            return False  # what serves its fault needs one frame more (tsk_is_oom_victim())
        found = worst(self.processes, self.zone.managed + self.swap.total)
        if found is None:
            raise MachineCheck("Kernel panic - not syncing: System is deadlocked on memory")
        victim, points = found
        self._tap(VmEvent("oom_kill"))
        self._tap(OomKill(victim.name, points, victim.rss, victim.swap_entries, victim.table_pages))
        self.processes.remove(victim)
        gone = victim.kill()
        self._dying = None if gone else victim
        return gone

    def lru_of(self, role: Role, *, active: bool = False) -> Lru:
        """The list on which a page of ``role`` starts."""
        first = Lru.INACTIVE_ANON if role in SWAP_BACKED else Lru.INACTIVE_FILE
        return Lru(first | active)


def _asleep() -> None:
    """No daemon runs: allocations reclaim for themselves once the min mark is reached."""
