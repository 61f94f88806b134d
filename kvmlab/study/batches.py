"""Make the accesses of a program, and spend time only on those that can change something.

Most accesses repeat the one before: the same page, found in the first-level TLB as its set's most
recently used.  Such an access changes nothing at all, so a batch of them is a number.  Which ones
they are is found for thousands of accesses at once (`events`).  Of the rest most are hits too,
and change only the order of use in their set; everything else is an attempt by the CPU as it
stands, with its walks, faults and exits.

After a fault or an exit nothing is taken for granted: the kernel has used the TLB itself.
"""

from collections.abc import Iterable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.hardware.batch_pages import Ints
from kvmlab.hardware.batch_quiet import make_quietly
from kvmlab.hardware.batch_tlb import L1
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR4_PKE, CR4_PKS
from kvmlab.hardware.records import EXECUTE, READ, USER, WRITE, Kind, TlbLookups
from kvmlab.hardware.tlb import ArrayShape, Geometry, Place
from kvmlab.hardware.vmcs import Instruction

_PLANNED = 5_000  # accesses that are looked at together: a fault makes the plan void
_LEAST = 150  # attempts that take longer than to take over the TLB and give it back
_CALM = 30_000  # accesses without a fault or exit after which as many more are expected
_FARTHEST = 1 << 19  # accesses of one quiet stretch
_WORTH, _FILL = 60_000, 350  # accesses that repay a stretch; so many does one miss of L1 stand for
_USER_CPL = 3
_SHIFTS = (12, 21, 22, 30)
_NEEDS = MappingProxyType({READ: USER, WRITE: USER | WRITE, EXECUTE: USER | EXECUTE})
"""The rights that a user's access must find in a cached translation (see `permissions`)."""


class Batches:
    """Makes user-mode accesses of the process that runs on ``cpu``: kinds and addresses.

    Its mappings are of pages of 1 << ``shift`` bytes.
    """

    def __init__(
        self, cpu: Cpu, kinds: NDArray[np.uint8], addresses: NDArray[np.uint64], shift: int
    ) -> None:
        self._cpu, self._kinds = cpu, kinds
        self._addresses = addresses.view(np.int64)
        self._sets = sets_of(cpu.tlb.geometry, shift)
        self._context, self._reach = cpu.context, 0  # how far to look for a quiet stretch
        self._calm = 0  # accesses since the last interruption
        # Where the first level holds each page, for data and for fetches.
        self._places: tuple[dict[int, Place], dict[int, Place]] = ({}, {})

    def run(self, start: int, stop: int) -> None:
        """Make the accesses from ``start`` up to ``stop``, with all their faults served."""
        cpu = self._cpu
        cpu.cpl = _USER_CPL
        if cpu.context is not self._context:
            self._forget()
        try:
            while start < stop:
                start += self._quietly(start, stop)
                end = min(start + (1 if self._reach else _PLANNED), stop)
                start = self._until_interrupted(start, end)
        finally:
            cpu.cpl = 0

    def _quietly(self, start: int, stop: int) -> int:
        """Make what is quiet of the next accesses at once, where that is worth its trouble.

        It is where many would be attempts, and where so many come together that looking for
        `events` among them takes longer.
        """
        reach = self._reach or (self._calm if self._calm >= _CALM else 0)
        part = slice(start, min(start + min(reach, _FARTHEST), stop))
        gva, kinds = self._addresses[part], self._kinds[part]
        made = make_quietly(self._cpu, gva, kinds, _LEAST)
        self._reach = 0
        if made is None:
            self._calm *= not reach
            return 0
        self._calm = self._calm + len(made) if len(made) == len(gva) else 0
        if len(made) + _FILL * np.count_nonzero(made.where != L1) >= _WORTH:
            self._reach = 2 * len(made)
        return len(made)

    def _until_interrupted(self, start: int, stop: int) -> int:
        """Make accesses until one is stopped and served; returns which one comes next."""
        kinds, addresses = self._kinds[start:stop], self._addresses[start:stop]
        some = events(addresses >> PAGE_SHIFT, kinds, *self._sets)
        made = zip(
            some.tolist(), addresses.take(some).tolist(), kinds.take(some).tolist(), strict=True
        )
        attempts, last = self._attempts(made)
        following = stop if last is None else start + last + 1
        self._calm = self._calm + stop - start if last is None else 0
        if attempts >= _LEAST:
            self._reach = _PLANNED
        hits = following - start - attempts
        if hits:
            self._cpu.tap(TlbLookups(user=True, where="L1", count=hits))
        return following

    def _attempts(self, made: Iterable[tuple[int, int, int]]) -> tuple[int, int | None]:
        """How many of these accesses the CPU had to attempt, and which one was interrupted."""
        cpu, attempts, interrupted = self._cpu, 0, None
        keyed = cpu.controls.cr4 & (CR4_PKE | CR4_PKS)
        places = self._places
        for number, gva, kind in made:
            held = places[kind == EXECUTE].get(gva >> PAGE_SHIFT)
            if held is not None and not keyed:
                ways, key = held
                entry = ways.pop(key, None)
                if entry is not None:
                    ways[key] = entry  # now the most recently used
                    needs = _NEEDS[kind]
                    if entry.allows & kind and entry.rights & needs == needs:
                        continue
            attempts += 1
            if not self._attempt(gva, Kind(kind)):
                interrupted = number
                self._forget()
                break
            found = cpu.tlb.place(gva, cpu.context.tags, fetch=kind == EXECUTE)
            if found is not None:
                places[kind == EXECUTE][gva >> PAGE_SHIFT] = found
        return attempts, interrupted

    def _forget(self) -> None:
        """The kernel ran: it may have used and filled the TLB for these very pages."""
        self._context = self._cpu.context
        for places in self._places:
            places.clear()

    def _attempt(self, gva: int, kind: Kind) -> bool:
        """Make one access; whether it arrived at once, without fault or exit."""
        cpu = self._cpu
        outcome = cpu.attempt(gva, kind)
        if isinstance(outcome, int):
            return True
        if not cpu.serve(outcome, Instruction(kind, gva, 1)):
            cpu.access(gva, kind)
        return False


def events(
    pages: Ints, kinds: NDArray[np.uint8], data_sets: int | None, fetch_sets: int | None
) -> Ints:
    """The accesses, rising, that are no mere repetition for a TLB with so many sets (`sets_of`).

    A repetition is of a page that its set was asked for the last time, and since then in a way
    that it was asked before: a hit that changes no order.  ``fetch_sets`` is 0 where fetches
    share the sets of the data; None, where nothing is held, makes an event of every access.
    """
    if data_sets is None or fetch_sets is None or not len(pages):
        return np.arange(len(pages))
    asked = pages << 1  # what the TLB is asked for, and which side of it
    if fetch_sets:
        asked |= kinds == int(EXECUTE)
    fresh = np.ones(len(pages), np.bool_)
    np.not_equal(asked[1:], asked[:-1], out=fresh[1:])
    fresh[1:] |= kinds[1:] != kinds[:-1]
    some = fresh.nonzero()[0]
    order = _own(asked.take(some), data_sets, fetch_sets).argsort(kind="stable")
    some = some.take(order)
    ask, kind = asked.take(some), kinds.take(some)
    run = np.zeros(len(some), np.int64)  # of accesses to a set that ask for the same page
    np.cumsum(ask[1:] != ask[:-1], out=run[1:])
    run <<= 3
    run |= kind
    every = np.arange(len(some))
    first = np.empty(int(run.max()) + 1, np.int64)  # of a run and a kind
    first[run[::-1]] = every[::-1]  # of those alike the last one stays, which is the first
    found: Ints = some.take((first.take(run) == every).nonzero()[0])
    found.sort()
    return found


def _own(asked: Ints, data_sets: int, fetch_sets: int) -> NDArray[np.uint16]:
    """Which set is asked: a small number, twice that of the set, and one more for a fetch's own."""
    if not fetch_sets:
        return (asked & 2 * data_sets - 1).astype(np.uint16)
    sets = np.where(asked & 1, 2 * fetch_sets - 1, 2 * data_sets - 1)
    return (asked & sets).astype(np.uint16)


def sets_of(geometry: Geometry, shift: int) -> tuple[int | None, int | None]:
    """The sets among which pages of up to ``shift`` are spread, for data and for fetches.

    0 for fetches: they share those of the data.  Pages of several sizes may meet in a set however
    far apart they are, so all of them count as one set.  None: not all sizes are held.
    """
    fetch = _sets(geometry.fetch, shift) if geometry.fetch else 0
    return _sets(geometry.data, shift), fetch


def _sets(arrays: tuple[ArrayShape, ...], shift: int) -> int | None:
    for size in _SHIFTS:
        if size <= shift and not any(size in one.shifts for one in arrays):
            return None
    if shift > PAGE_SHIFT:
        return 1
    return next(one.sets for one in arrays if PAGE_SHIFT in one.shifts)
