"""The LRU lists: active and inactive, of anonymous memory and of page cache.

Linux, include/linux/mmzone.h: enum lru_list, and mm/swap.c.  A list is a queue of (page, stamp)
pairs in NumPy arrays; an entry whose stamp is not the page's own any more is a ghost and is
dropped when the queue's front is read.  So moving a batch to the head of a list is one append,
and taking a batch from its tail is one slice.
"""

from collections import deque
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from kvmlab.linux.frames import NOWHERE, Frames, Pages

_SLACK = 4096  # ghosts worth keeping before a queue is swept


class Lru(IntEnum):
    """The lists, numbered as in the kernel; + 1 is active, + 2 is file."""

    INACTIVE_ANON = 0
    ACTIVE_ANON = 1
    INACTIVE_FILE = 2
    ACTIVE_FILE = 3

    @property
    def kind(self) -> str:
        """``anon`` or ``file``."""
        return "file" if self >= Lru.INACTIVE_FILE else "anon"


class Lists:
    """The LRU lists over ``frames``; sizes are in frames of 4 KiB."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._queues: list[deque[tuple[Pages, NDArray[np.int64]]]] = [deque() for _ in Lru]
        self._lengths = [0] * len(Lru)  # entries, ghosts included
        self._live = [0] * len(Lru)  # entries without ghosts
        self.size = [0] * len(Lru)
        self._stamps = 1

    def add(self, pages: Pages, lru: Lru) -> None:
        """Put pages that are on no list at the head of ``lru``, the last one nearest to it."""
        if not len(pages):
            return
        frames = self._frames
        stamps = np.arange(self._stamps, self._stamps + len(pages))
        self._stamps += len(pages)
        frames.lru[pages] = lru
        frames.stamp[pages] = stamps
        self._append(lru, pages, stamps)
        self._live[lru] += len(pages)
        self.size[lru] += int(frames.sizes(pages).sum())

    def remove(self, pages: Pages) -> None:
        """Take pages off whatever lists they are on."""
        where = self._frames.lru[pages]
        for lru in Lru:
            here = pages[where == lru]
            if len(here):
                self._forget(here, lru)

    def tail(self, lru: Lru, count: int) -> Pages:
        """Take up to ``count`` pages off the tail of ``lru``, the oldest first."""
        queue, frames = self._queues[lru], self._frames
        taken: list[Pages] = []
        while queue and count:
            pages, stamps = queue.popleft()
            self._lengths[lru] -= len(pages)
            alive = np.flatnonzero((frames.stamp[pages] == stamps) & (frames.lru[pages] == lru))
            if len(alive) > count:
                rest = alive[count]
                queue.appendleft((pages[rest:], stamps[rest:]))
                self._lengths[lru] += len(pages) - int(rest)
                alive = alive[:count]
            taken.append(pages[alive])
            count -= len(alive)
        found = np.concatenate(taken) if taken else np.empty(0, np.int64)
        self._forget(found, lru)
        return found

    def pages(self, lru: Lru) -> Pages:
        """All pages of a list, the oldest first."""
        here = np.flatnonzero(self._frames.lru == lru)
        return here[np.argsort(self._frames.stamp[here])]

    def _forget(self, pages: Pages, lru: Lru) -> None:
        self._frames.lru[pages] = NOWHERE
        self._live[lru] -= len(pages)
        self.size[lru] -= int(self._frames.sizes(pages).sum())

    def _append(self, lru: Lru, pages: Pages, stamps: NDArray[np.int64]) -> None:
        self._queues[lru].append((pages, stamps))
        self._lengths[lru] += len(pages)
        if len(self._queues[lru]) > _SLACK or self._lengths[lru] > 2 * self._live[lru] + _SLACK:
            alive = self.pages(lru)
            self._queues[lru] = deque([(alive, self._frames.stamp[alive])])
            self._lengths[lru] = len(alive)
