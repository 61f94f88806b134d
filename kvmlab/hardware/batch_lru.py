"""Exact least-recently-used sets for a million references: a cascade of one-entry stages.

Position k of an LRU stack changes only at references that none of the positions before it
answered, and then takes over what position k-1 held.  So a set of W ways is W stages of one entry
each, and a stage is one comparison of the array of references with itself, shifted by one:

    tags     A B A C B      what the stage before let through
    holds    - A B A C      position 0: the tag before
    hit      . . . . .      A, met again after B, is not in position 0 ...
    holds    - - A B A      position 1: what was pushed out of position 0
    hit      . . A . .      ... but here: its stack distance is 1

What a stage answers is left out of the next.  The stage's number is the stack distance, so one
pass gives the hits of every smaller associativity too (Mattson et al., 1970).

All sets go through the stages together, one behind the other in one array: tags of different
sets differ, so nothing can match across a border.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.batch_pages import Ints

FEW = 8
"""Where less than one in so many is answered by a stage, those are passed over and not cut out."""

_EMPTY = -(1 << 30)
_FAR = 1 << 31
_BACK = 4  # how far back one looks for a repetition: measured
Tags = NDArray[np.int64 | np.int32]
Distances = NDArray[np.unsignedinteger[Any]]


class LruArray:
    """The tags of a set-associative array with ``sets`` (a power of two) of ``ways`` each.

    The low bits of a tag choose its set.
    """

    def __init__(self, sets: int, ways: int) -> None:
        self.sets, self.ways = sets, ways
        empty = _EMPTY + np.arange(sets * ways, dtype=np.int64)  # tags that no reference has
        self.held: Ints = empty.reshape(sets, ways)  # the most recent first

    def feed(self, tags: Ints) -> Distances:
        """Refer to ``tags`` (not negative) in order; the stack distance of each.

        Distances of 0 to ``ways`` - 1 are hits; ``ways`` is a miss, after which the tag is held.
        """
        distance: Distances = np.zeros(len(tags), np.uint8 if self.ways < 1 << 8 else np.uint16)
        if len(tags):
            base = self._base(tags)
            narrow = tags if base is None else (tags - base).astype(np.int32)
            place = self._not_repeated(narrow)
            some = narrow if place is None else narrow.take(place)
            self.held -= (base or 0) * (self.held >= 0)
            found = self._cascade(some, distance.dtype)
            self.held += (base or 0) * (self.held >= 0)
            if place is None:
                return found
            distance[place] = found
        return distance

    def _base(self, tags: Ints) -> int | None:
        """What to take from all tags so that 32 bits hold them (half the memory, half the time).

        None where they lie too far apart.  It leaves the bits that choose a set.
        """
        real = self.held[self.held >= 0]
        low = int(min(tags.min(), real.min(initial=tags[0]))) & ~(self.sets - 1)
        high = int(max(tags.max(), real.max(initial=0)))
        return low if high - low < _FAR else None

    def _not_repeated(self, tags: Tags) -> Ints | None:
        """The references that are not to the tag which their set was asked for the last time.

        Not all of them: the last few references are looked at, of all sets, which finds most of
        a program's.  What is left out has distance 0 and changes nothing.  None: all are left.
        """
        fresh = np.ones(len(tags), np.bool_)
        np.not_equal(tags[1:], tags[:-1], out=fresh[1:])
        place = np.flatnonzero(fresh)
        if (len(tags) - len(place)) * FEW < len(tags):
            return None  # chance, not a program: not worth looking further
        left = tags.take(place)
        own = (left & self.sets - 1).astype(self._narrow)
        new = np.ones(len(left), np.bool_)
        clear = np.ones(len(left), np.bool_)  # of its set: all references in between
        for back in range(2, min(_BACK, len(left) - 1) + 1):
            clear[back:] &= own[back:] != own[1 : 1 - back]
            new[back:] &= ~((left[back:] == left[:-back]) & clear[back:])
        return place.take(np.flatnonzero(new))

    def _cascade(self, tags: Tags, kind: np.dtype[Any]) -> Distances:
        """The distance of each of ``tags``."""
        own = np.arange(self.sets, dtype=np.int64)
        before = self.held[:, ::-1].reshape(-1)  # what is held, referred to again, oldest first
        probes = -1 - own  # at the end of each set: they show what is held then
        sets = (np.repeat(own, self.ways), tags & self.sets - 1, own)
        narrow = np.concatenate(sets, dtype=self._narrow, casting="unsafe")
        order = np.argsort(narrow, kind="stable")  # of bytes: a radix sort
        every = np.concatenate((before, tags, probes), dtype=tags.dtype, casting="unsafe")
        every = every.take(order)
        ends = np.flatnonzero(order >= len(before) + len(tags))
        found = np.full(len(every), self.ways, kind)  # a miss, unless a stage answers
        left = _Left(every, order, ends, self.ways)
        for stage in range(self.ways):
            holds = left.holds()
            self.held[:, stage] = holds.take(left.ends)
            hits = np.flatnonzero(left.tag == holds)
            if len(hits):
                found[left.origin.take(hits)] = stage
            left.leave_out(hits)
        return found[len(before) : len(before) + len(tags)]

    @property
    def _narrow(self) -> type[np.uint8] | type[np.uint16] | type[np.int64]:
        if self.sets <= 1 << 8:
            return np.uint8
        return np.uint16 if self.sets <= 1 << 16 else np.int64


class _Left:
    """The references that no stage has answered yet, and what the next stage holds for each."""

    def __init__(self, tag: Tags, origin: Ints, ends: Ints, ways: int) -> None:
        self.tag, self.origin, self.ends = tag, origin, ends
        self._ways = ways
        self._push(tag)

    def _push(self, pushed: Tags) -> None:
        """Begin a row of stages: ``pushed`` is what each reference pushes on to the next one.

        A stage is a view of the row, one further to the left than the stage before.
        """
        self._row = np.empty(len(pushed) + self._ways, pushed.dtype)
        self._row[: self._ways] = _EMPTY - 1
        self._row[self._ways :] = pushed
        self._start = self._ways
        self._passed = np.zeros(0, np.int64)  # answered, but still there
        self._before = self._passed  # the reference before each run of those

    def holds(self) -> Tags:
        """What the stage holds when each reference comes: what the one before pushed."""
        self._start -= 1
        return self._row[self._start : self._start + len(self.tag)]

    def leave_out(self, hits: Ints) -> None:
        """What a stage answered pushes nothing on."""
        holds = self._row[self._start : self._start + len(self.tag)]
        if (len(hits) + len(self._passed)) * FEW >= len(self.tag):
            self._cut_out(hits, holds)
            return
        if len(hits):
            passed = np.concatenate((self._passed, hits))
            passed.sort(kind="stable")
            head = np.empty(len(passed), np.bool_)
            head[0] = True
            np.not_equal(passed[1:], passed[:-1] + 1, out=head[1:])
            run = np.cumsum(head) - 1
            self._passed, self._before = passed, (passed[head] - 1).take(run)
        if len(self._passed):  # behind them the next stage holds what it held before them
            holds[self._passed] = holds.take(self._before)

    def _cut_out(self, hits: Ints, holds: Tags) -> None:
        keep = np.ones(len(self.tag), np.bool_)
        keep[hits] = False
        keep[self._passed] = False
        kept = np.flatnonzero(keep)
        self.ends = np.searchsorted(kept, self.ends)
        self.tag, self.origin = self.tag.take(kept), self.origin.take(kept)
        self._push(holds.take(kept))
