"""The LRU lists: active and inactive, of anonymous memory and of page cache.

Linux, include/linux/mmzone.h: enum lru_list, and mm/swap.c.  A list is a queue of batches of
pages with the stamp of the first, from which the others count on; a page whose stamp is another
by now is a ghost there, and is dropped when the queue's front is read.  So moving a batch to the
head of a list is one append, and taking a batch from its tail is one slice.
"""

from collections import deque
from enum import IntEnum

import numpy as np

from kvmlab.linux.frames import NOWHERE, Frames, Pages

_SLACK = 4096  # ghosts worth keeping before a queue is swept
_LAST_STAMP = (1 << 32) - 1


class Lru(IntEnum):
    """The lists, numbered as in the kernel; + 1 is active, + 2 is file."""

    INACTIVE_ANON = 0
    ACTIVE_ANON = 1
    INACTIVE_FILE = 2
    ACTIVE_FILE = 3

    @property
    def kind(self) -> str:
        """``anon`` or ``file``."""
        return "file" if self >= 2 else "anon"  # a number: a member's name is slow to look up here


class Lists:
    """The LRU lists over ``frames``; sizes are in frames of 4 KiB."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._queues: list[deque[tuple[Pages | range, int]]] = [deque() for _ in Lru]
        self._lengths = [0] * len(Lru)  # entries, ghosts included
        self._live = [0] * len(Lru)  # entries without ghosts
        self.size = [0] * len(Lru)
        self._stamps = 1

    def add(self, pages: Pages, lru: Lru) -> None:
        """Put pages that are on no list at the head of ``lru``, the last one nearest to it."""
        if not len(pages):
            return
        frames = self._frames
        if self._stamps + len(pages) > _LAST_STAMP:
            self._begin_anew()
        frames.lru[pages] = lru
        self._append(lru, pages)
        self._live[lru] += len(pages)
        self.size[lru] += frames.total(pages)
        if len(self._queues[lru]) > _SLACK or self._lengths[lru] > 2 * self._live[lru] + _SLACK:
            self._sweep(lru)

    def remove(self, pages: Pages) -> None:
        """Take pages off whatever lists they are on."""
        where = self._frames.lru[pages]
        for lru in set(where.tolist()) - {NOWHERE}:
            self._forget(pages[where == lru], Lru(lru))

    def tail(self, lru: Lru, count: int) -> Pages:
        """Take up to ``count`` pages off the tail of ``lru``, the oldest first."""
        queue, frames = self._queues[lru], self._frames
        taken: list[Pages] = []
        while queue and count:
            pages, stamps = self._front(lru, count)
            alive = pages[(frames.stamp[pages] == stamps) & (frames.lru[pages] == lru)]
            taken.append(alive)
            count -= len(alive)
        found = np.concatenate(taken) if taken else np.empty(0, np.int64)
        self._forget(found, lru)
        return found

    def _front(self, lru: Lru, count: int) -> tuple[Pages, Pages]:
        """The first ``count`` entries off a queue, ghosts included: pages and stamps."""
        queue, pages, stamps = self._queues[lru], list[int](), list[int]()
        while queue and len(pages) < count:
            kept, first = queue.popleft()
            room = count - len(pages)
            if len(kept) > room:
                queue.appendleft((kept[room:], first + room))
                kept = kept[:room]
            pages += kept if isinstance(kept, range) else kept.tolist()
            stamps += range(first, first + len(kept))
        self._lengths[lru] -= len(pages)
        return np.array(pages, np.int64), np.array(stamps, np.int64)

    def pages(self, lru: Lru) -> Pages:
        """All pages of a list, the oldest first."""
        here = np.flatnonzero(self._frames.lru == lru)
        return here[np.argsort(self._frames.stamp[here])]

    def _forget(self, pages: Pages, lru: Lru) -> None:
        self._frames.lru[pages] = NOWHERE
        self._live[lru] -= len(pages)
        self.size[lru] -= self._frames.total(pages)

    def _append(self, lru: Lru, pages: Pages) -> None:
        """Stamp pages, and put them on a queue; neighbours take no more room than one."""
        first, count = int(pages[0]), len(pages)
        stamps = np.arange(self._stamps, self._stamps + count) if count > 1 else self._stamps
        self._frames.stamp[pages] = stamps
        row = range(first, first + count)
        neighbours = count == 1 or bool((pages[1:] - pages[:-1] == 1).all())
        self._queues[lru].append((row if neighbours else pages, self._stamps))
        self._stamps += count
        self._lengths[lru] += count

    def _sweep(self, lru: Lru) -> None:
        """Drop the ghosts of a list, whose pages are stamped anew, in their order."""
        self._replace(lru, self.pages(lru))

    def _replace(self, lru: Lru, alive: Pages) -> None:
        self._queues[lru].clear()
        self._lengths[lru] = 0
        if len(alive):
            self._append(lru, alive)

    def _begin_anew(self) -> None:
        """The stamps are used up: all pages get small ones, in order."""
        lists = [self.pages(lru) for lru in Lru]
        self._stamps = 1
        for lru, alive in zip(Lru, lists, strict=True):
            self._replace(lru, alive)
