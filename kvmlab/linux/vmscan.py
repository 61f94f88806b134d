"""Page reclaim: which pages go when memory is short, and in what order.

Linux 6.1, mm/vmscan.c.  The scan of a list is in batches of SWAP_CLUSTER_MAX; pages get a second
chance by the A bits of their entries and by PG_referenced.  Left out: cgroups, refault distances
(mm/workingset.c) and writeback congestion; dirty page cache is written back at once.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.tap import Tap
from kvmlab.linux.frames import Frames, Pages
from kvmlab.linux.lru import Lists, Lru
from kvmlab.linux.mapping import Contents, Mapping
from kvmlab.linux.records import Deactivated, Scan, VmEvent
from kvmlab.linux.swap import Swap

SWAP_CLUSTER_MAX = 32
_DEF_PRIORITY = 12  # the first pass looks at 1/4096 of each list, the last one at all
_GIB_SHIFT = 18  # pages to GiB
_LISTS = _INACTIVE_ANON, _ACTIVE_ANON, _INACTIVE_FILE, _ACTIVE_FILE = tuple(Lru)


class Reclaim:
    """Shrinks the lists of one kernel; ``spare`` tells (free pages, the high watermark)."""

    def __init__(
        self,
        frames: Frames,
        lists: Lists,
        swap: Swap,
        mappings: Sequence[Mapping],
        contents: Contents,
        release: Callable[[Pages], None],
        spare: Callable[[], tuple[int, int]],
        tap: Tap,
    ) -> None:
        self._frames, self._lists, self._mappings = frames, lists, mappings
        self._contents, self._release, self._spare, self.tap = contents, release, spare, tap
        self.swap = swap
        self.swappiness = 60  # vm.swappiness
        self.batch = SWAP_CLUSTER_MAX  # larger trades the exact order for speed
        self._cost = {"anon": 0, "file": 0}

    def shrink(self, target: int, by: str) -> int:
        """Free about ``target`` pages for ``by`` (kswapd or direct); returns how many it did."""
        reclaimed = 0
        for priority in range(_DEF_PRIORITY, -1, -1):
            reclaimed += self._shrink_lists(priority, target - reclaimed, by)
            if reclaimed >= target:
                break
        return reclaimed

    # -- how much of which list (shrink_lruvec, get_scan_count) ---------------------------

    def _shrink_lists(self, priority: int, target: int, by: str) -> int:
        left = self._scan_counts(priority)
        reclaimed = 0
        evictable = (_INACTIVE_ANON, _ACTIVE_FILE, _INACTIVE_FILE)
        while reclaimed < target and any(left[lru] for lru in evictable):
            for lru in _LISTS:
                count = min(left[lru], self.batch)
                left[lru] -= count
                if not count:
                    continue
                if lru in (_ACTIVE_ANON, _ACTIVE_FILE):
                    if self._inactive_is_low(lru.kind):
                        self._shrink_active(lru, count)
                else:
                    reclaimed += self._shrink_inactive(lru, count, by)
        if self.swap.free and self._inactive_is_low("anon"):
            self._shrink_active(_ACTIVE_ANON, self.batch)  # for the balance of the two lists
        return reclaimed

    def _scan_counts(self, priority: int) -> list[int]:
        """How many pages of each list this pass may look at."""
        counts = [size >> priority for size in self._lists.size]
        if not any(counts):
            return counts
        shares = self._shares(priority)
        parts = [shares[lru.kind] for lru in _LISTS]
        return [count * part // whole for count, (part, whole) in zip(counts, parts, strict=True)]

    def _shares(self, priority: int) -> dict[str, tuple[int, int]]:
        """The fraction of the anonymous lists, and of those of the page cache, to be scanned."""
        size, none, whole = self._lists.size, (0, 1), (1, 1)
        free, high = self._spare()
        files = size[_INACTIVE_FILE] + size[_ACTIVE_FILE]
        if not self.swap.free or not self.swappiness:
            return {"anon": none, "file": whole}
        if not priority:
            return {"anon": whole, "file": whole}
        tiny = files + free <= high and size[_INACTIVE_ANON] >> priority
        if tiny and not self._inactive_is_low("anon"):
            return {"anon": whole, "file": none}
        if size[_INACTIVE_FILE] >> priority and not self._inactive_is_low("file"):
            return {"anon": none, "file": whole}  # cache_trim_mode: cache used once goes first
        total = sum(self._cost.values())
        anon = self.swappiness * (2 * total + 1) // (total + self._cost["anon"] + 1)
        file = (200 - self.swappiness) * (2 * total + 1) // (total + self._cost["file"] + 1)
        return {"anon": (anon, anon + file or 1), "file": (file, anon + file or 1)}

    def _inactive_is_low(self, kind: str) -> bool:
        """Whether too few pages of a kind are inactive to find out which ones are unused."""
        first = _INACTIVE_FILE if kind == "file" else _INACTIVE_ANON
        inactive, active = self._lists.size[first], self._lists.size[first + 1]
        gib = inactive + active >> _GIB_SHIFT
        return inactive * (isqrt(10 * gib) if gib else 1) < active

    # -- one batch ------------------------------------------------------------------------

    def _shrink_active(self, lru: Lru, count: int) -> None:
        """The oldest active pages become inactive, their A bits cleared."""
        pages = self._lists.tail(lru, count)
        if not len(pages):
            return
        self._referenced(pages)
        self._lists.add(pages, Lru(lru - 1))
        self.tap(Deactivated(lru.kind, len(pages)))

    def _shrink_inactive(self, lru: Lru, count: int, by: str) -> int:
        """The oldest inactive pages are activated, kept or reclaimed (shrink_folio_list)."""
        pages = self._lists.tail(lru, count)
        if not len(pages):
            return 0
        scanned = int(self._frames.sizes(pages).sum())
        young = self._referenced(pages)
        again = self._frames.referenced[pages].copy()
        self._frames.put("referenced", pages, young > 0)
        activate = (young > 1) | ((young > 0) & again)  # folio_check_references()
        keep = (young > 0) & ~activate
        victims = self._split(pages[young == 0])
        gone, stuck = self._pageout(victims)
        self._lists.add(pages[keep], lru)
        self._lists.add(stuck, Lru(lru | 1))
        self._lists.add(pages[activate], Lru(lru | 1))
        activated = int(activate.sum()) + len(stuck)
        self._note_cost(lru.kind, scanned - gone)
        self.tap(Scan(by, lru.kind, scanned, gone, activated))
        return gone

    def _split(self, pages: Pages) -> Pages:
        """Huge pages are split before they are swapped out."""
        huge = self._frames.order[pages] > 0
        if not huge.any():
            return pages
        owners = self._frames.mapping[pages].tolist()
        split = [
            self._mappings[owner].split(page)
            for page, owner, whole in zip(pages.tolist(), owners, huge.tolist(), strict=True)
            if whole
        ]
        return np.concatenate([pages[~huge], *split])

    def _pageout(self, pages: Pages) -> tuple[int, Pages]:
        """Evict pages; returns how many are free now, and those that could not go."""
        frames = self._frames
        backed = frames.swap_backed(pages)
        anon, file = pages[backed], pages[~backed]
        slots = self.swap.alloc(len(anon))
        anon, homeless = anon[: len(slots)], anon[len(slots) :]
        ready = np.concatenate([anon, file])
        targets = np.concatenate([slots, np.zeros(len(file), np.int64)])
        gone = self._unmap(ready, targets)
        for slot in targets[~gone & (targets > 0)].tolist():
            self.swap.release(slot)
        out = gone & (targets > 0)
        for page, slot in zip(ready[out].tolist(), targets[out].tolist(), strict=True):
            self.swap.store(slot, self._contents.read(page))
        if out.any():
            self.tap(VmEvent("pswpout", int(out.sum())))
        self._write_back(ready[gone & frames.dirty[ready]])
        self._release(ready[gone])
        return int(gone.sum()), np.concatenate([homeless, ready[~gone]])

    def _write_back(self, pages: Pages) -> None:
        for mine, mapping in self._by_mapping(pages):
            mapping.write_back(pages[mine])
            self.tap(VmEvent("nr_written", len(pages[mine])))
        self._frames.put("dirty", pages, value=False)

    def _note_cost(self, kind: str, rotated: int) -> None:
        """What a kind of memory cost without a gain; old costs fade (lru_note_cost())."""
        self._cost[kind] += rotated
        while sum(self._cost.values()) > sum(self._lists.size) // 4 and any(self._cost.values()):
            self._cost = {one: cost // 2 for one, cost in self._cost.items()}

    # -- asking the owners ----------------------------------------------------------------

    def _by_mapping(self, pages: Pages) -> list[tuple[NDArray[np.bool_], Mapping]]:
        owners = self._frames.mapping[pages]
        return [(owners == one, self._mappings[one]) for one in sorted(set(owners.tolist()))]

    def _referenced(self, pages: Pages) -> NDArray[np.int64]:
        found = np.zeros(len(pages), np.int64)
        for mine, mapping in self._by_mapping(pages):
            found[mine] = mapping.referenced(pages[mine])
        return found

    def _unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        gone = np.zeros(len(pages), np.bool_)
        for mine, mapping in self._by_mapping(pages):
            gone[mine] = mapping.unmap(pages[mine], slots[mine])
        return gone
