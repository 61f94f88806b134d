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

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.batch_pages import Bools, Ints, chunks

FEW = 8
"""Where less than one in so many is answered by a stage, those are passed over and not cut out."""

NOTHING = -(1 << 30)
"""In place of a tag where none is held."""
_FAR = 1 << 31
_CHUNK = 1 << 17  # references that are looked through for repetitions at a time
_ENOUGH = 1 << 16  # of what is left of them is worth a cascade: its tags cost each one
_SAMPLE = 1 << 12
_NEAR, _FURTHER = 2, 5  # how far back one looks for a repetition: measured
Tags = NDArray[np.int64 | np.int32]
Distances = NDArray[np.unsignedinteger[Any]]


class LruArray:
    """The tags of a set-associative array with ``sets`` (a power of two) of ``ways`` each.

    The low bits of a tag choose its set.
    """

    def __init__(self, sets: int, ways: int) -> None:
        self.sets, self.ways = sets, ways
        self.held: Ints = np.full((sets, ways), NOTHING)  # the most recent first
        self._kind = np.dtype(np.uint8 if ways < 1 << 8 else np.uint16)

    def feed(self, tags: Ints) -> Distances:
        """Refer to ``tags`` (not negative) in order; the stack distance of each.

        Distances of 0 to ``ways`` - 1 are hits; ``ways`` is a miss, after which the tag is held.
        """
        place = not_repeated(tags, self.sets)
        if place is None:
            return self._refer(tags, exact=True)
        distance: Distances = np.zeros(len(tags), self._kind)
        distance[place] = self._refer(tags.take(place), exact=True)
        return distance

    def misses(self, count: int, tags_of: Callable[[slice], Ints]) -> Ints:
        """Refer to ``count`` tags in order; which of them were not held, rising.

        ``tags_of`` gives a part of them: they need not be in memory all at once.
        """
        missed: list[Ints] = []
        waiting: list[tuple[int, Ints, Ints | None]] = []
        for part in chunks(count, _CHUNK):
            tags = tags_of(part)
            place = not_repeated(tags, self.sets)
            waiting.append((part.start, tags if place is None else tags.take(place), place))
            if part.stop == count or sum(len(one[1]) for one in waiting) >= _ENOUGH:
                distances = self._refer(_joined([one[1] for one in waiting]), exact=False)
                for start, tags, place in waiting:
                    found = np.flatnonzero(distances[: len(tags)] == self.ways)
                    distances = distances[len(tags) :]
                    missed.append(found if place is None else place.take(found))
                    missed[-1] += start
                waiting = []
        return _joined(missed) if missed else np.zeros(0, np.int64)

    def _refer(self, tags: Ints, *, exact: bool) -> Distances:
        """As `feed`, for tags of which `not_repeated` has taken out what it finds.

        Unless ``exact``, a hit may have any distance of a hit.
        """
        if not len(tags):
            return np.zeros(0, self._kind)
        base = self._base(tags)
        if base is None:
            return self._cascade(tags, exact=exact)
        self.held -= base * (self.held >= 0)
        found = self._cascade((tags - base).astype(np.int32), exact=exact)
        self.held += base * (self.held >= 0)
        return found

    def _base(self, tags: Ints) -> int | None:
        """What to take from all tags so that 32 bits hold them (half the memory, half the time).

        None where they lie too far apart.  It leaves the bits that choose a set.
        """
        real = self.held[self.held >= 0]
        low = int(min(tags.min(), real.min(initial=tags[0]))) & ~(self.sets - 1)
        high = int(max(tags.max(), real.max(initial=0)))
        return low if high - low < _FAR else None

    def _cascade(self, tags: Tags, *, exact: bool) -> Distances:
        """The distance of each of ``tags``, or of hits 0 where most are hits anyway."""
        own = np.arange(self.sets, dtype=np.int64)
        before = self.held[:, ::-1].reshape(-1)  # what is held, referred to again, oldest first
        before = before.take(np.flatnonzero(before >= 0))
        probes = -1 - own  # at the end of each set: they show what is held then
        sets = (before & self.sets - 1, tags & self.sets - 1, own)
        narrow = np.concatenate(sets, dtype=_narrow(self.sets), casting="unsafe")
        order = np.argsort(narrow, kind="stable")  # of bytes: a radix sort
        every = np.concatenate((before, tags, probes), dtype=tags.dtype, casting="unsafe")
        every = every.take(order)
        ends = np.flatnonzero(order >= len(before) + len(tags))
        found = np.full(len(every), self.ways, self._kind)  # a miss, unless a stage answers
        left = _Left(every, order.astype(np.int32), ends, self.ways)
        for stage in range(self.ways):
            holds = left.holds()
            last = holds.take(left.ends)
            real = (last >= 0) & (last & self.sets - 1 == own)  # not of the set before
            self.held[:, stage] = np.where(real, last, NOTHING)
            same = left.tag == holds
            if not stage and 2 * np.count_nonzero(same) < len(same):
                exact = True  # it is less work to say so of hits than of misses
            hits = np.flatnonzero(same)
            if exact and len(hits):
                found[left.origin.take(hits)] = stage
            left.leave_out(same, hits)
        if not exact:
            found[:] = 0
            found[left.unanswered()] = self.ways
        return found[len(before) : len(before) + len(tags)]


def not_repeated(tags: Ints, sets: int) -> Ints | None:
    """The references that are not to the tag which their set was asked for the last time.

    Not all of them: the last few references are looked at, of all sets, which finds most of
    a program's.  What is left out has distance 0 and changes nothing, so what is left is looked
    through again, and reaches further.  None: all are left.
    """
    some = tags[:_SAMPLE]
    if (len(some) - len(_fresh(some, sets, _NEAR))) * FEW < len(some):
        return None  # chance, not a program: not worth looking at all of them
    place = _fresh(tags, sets, _NEAR)
    return place.take(_fresh(tags.take(place), sets, _FURTHER))


def _fresh(tags: Ints, sets: int, reach: int) -> Ints:
    """References that repeat none of the last ``reach``, with their set left alone since."""
    own = np.bitwise_and(tags.astype(_narrow(sets)), sets - 1)
    again = np.zeros(len(tags), np.bool_)
    np.equal(tags[1:], tags[:-1], out=again[1:])
    clear = np.ones(len(tags), np.bool_)  # of its set: all references in between
    for back in range(2, min(reach, len(tags) - 1) + 1):
        clear[back:] &= own[back:] != own[1 : 1 - back]
        same = tags[back:] == tags[:-back]
        same &= clear[back:]
        again[back:] |= same
    return np.flatnonzero(~again)


def _joined(parts: list[Ints]) -> Ints:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _narrow(sets: int) -> type[np.uint8] | type[np.uint16] | type[np.int64]:
    """The smallest type that tells so many sets apart."""
    if sets <= 1 << 8:
        return np.uint8
    return np.uint16 if sets <= 1 << 16 else np.int64


class _Left:
    """The references that no stage has answered yet, and what the next stage holds for each."""

    def __init__(self, tag: Tags, origin: NDArray[np.int32], ends: Ints, ways: int) -> None:
        self.tag, self.origin, self.ends = tag, origin, ends
        self._ways = ways
        self._push(tag)

    def _push(self, pushed: Tags) -> None:
        """Begin a row of stages: ``pushed`` is what each reference pushes on to the next one.

        A stage is a view of the row, one further to the left than the stage before.
        """
        self._row = np.empty(len(pushed) + self._ways, pushed.dtype)
        self._row[: self._ways] = NOTHING
        self._row[self._ways :] = pushed
        self._start = self._ways
        self._passed = np.zeros(0, np.int64)  # answered, but still there
        self._before = self._passed  # the reference before each run of those

    def holds(self) -> Tags:
        """What the stage holds when each reference comes: what the one before pushed."""
        self._start -= 1
        return self._row[self._start : self._start + len(self.tag)]

    def unanswered(self) -> NDArray[np.int32]:
        """Where those come from that no stage answered."""
        keep = np.ones(len(self.tag), np.bool_)
        keep[self._passed] = False
        return self.origin.take(np.flatnonzero(keep))

    def leave_out(self, same: Bools, hits: Ints) -> None:
        """What a stage answered (``hits``: it is the ``same`` as it holds) pushes nothing on."""
        holds = self._row[self._start : self._start + len(self.tag)]
        if (len(hits) + len(self._passed)) * FEW >= len(self.tag):
            self._cut_out(same, holds)
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

    def _cut_out(self, same: Bools, holds: Tags) -> None:
        same[self._passed] = True
        kept = np.flatnonzero(~same)
        self.ends = np.searchsorted(kept, self.ends)
        self.tag, self.origin = self.tag.take(kept), self.origin.take(kept)
        self._push(holds.take(kept))
