"""A store in memory that answers requests, as Redis does: random places, a few for each request.

A request follows pointers: a bucket of the hash table, its entry, the key, the value.  What that
costs is counted by the engine and priced by `study.costs`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.study.batches import Batches
from kvmlab.study.costs import GRADED
from kvmlab.study.counters import Counters, Tally

REQUESTS, HOPS = 100, 4
ACCESSES = REQUESTS * HOPS
TIMED = 250  # requests timed one by one
_RANKS = (125, 225, 248)  # of them, by the nearest rank: p50, p90, p99
_LINE = 64
_SEED = 7


@dataclass(frozen=True, slots=True)
class Served:
    """What `REQUESTS` requests came to, in cycles for each but for ``tally``."""

    tally: Tally
    data: int
    guest: int  # entries of the guest's tables
    ept: int
    cached: int  # hits of the caches that shorten walks
    exits: int
    latencies: tuple[int, ...] = ()  # cycles of one request: p50, p90 and p99 of `TIMED`

    @property
    def misses(self) -> int:
        """Accesses that no TLB knew."""
        return self.tally.lookups["miss"]

    @property
    def cycles(self) -> int:
        """Cycles for one request."""
        return self.data + self.guest + self.ept + self.cached + self.exits


def serve(machine: Machine, pages: NDArray[np.int64], shift: int | None) -> Served:
    """Requests to the 4 KiB pages that begin at ``pages`` (GVAs), mapped by 1 << ``shift`` bytes.

    Where pages of several sizes map them, ``shift`` is None.  As many as are counted come
    first, to warm up; `TIMED` single requests come last.
    """
    dice = np.random.default_rng(_SEED)
    lines = dice.integers(0, PAGE_SIZE // _LINE, 2 * ACCESSES) * _LINE
    places = (pages[dice.integers(0, len(pages), 2 * ACCESSES)] + lines).astype(np.uint64)
    _read(machine, places[:ACCESSES], shift)
    counters, tap = Counters(), machine.cpu.tap
    machine.cpu.tap = counters
    try:
        _read(machine, places[ACCESSES:], shift)
    finally:
        machine.cpu.tap = tap
    lines = dice.integers(0, PAGE_SIZE // _LINE, (TIMED, HOPS)) * _LINE
    timed = pages[dice.integers(0, len(pages), (TIMED, HOPS))] + lines
    return replace(_priced(counters.program), latencies=_latencies(machine, timed))


def _latencies(machine: Machine, requests: NDArray[np.int64]) -> tuple[int, ...]:
    """Cycles at `_RANKS` of requests made one by one: the data, walks and exits of their hops."""
    took, tap = [], machine.cpu.tap
    try:
        for places in requests.tolist():
            counters = Counters()
            machine.cpu.tap = counters
            for gva in places:
                machine.guest.touch(gva, Kind.READ)
            took.append(GRADED.end_to_end(HOPS, counters.program))
    finally:
        machine.cpu.tap = tap
    took.sort()
    return tuple(took[rank - 1] for rank in _RANKS)


def _read(machine: Machine, places: NDArray[np.uint64], shift: int | None) -> None:
    """Make the accesses: together, which takes pages of one size, or one by one."""
    if shift is None:
        for gva in places.tolist():
            machine.guest.touch(gva, Kind.READ)
    else:
        kinds = np.full(len(places), int(Kind.READ), np.uint8)
        Batches(machine.cpu, kinds, places, shift).run(0, len(places))


def _priced(tally: Tally) -> Served:
    cycles = GRADED.cycles(tally)
    return Served(
        tally,
        HOPS * GRADED.rows["access"].cycles,
        cycles.references.get("guest", 0) // REQUESTS,
        cycles.references.get("ept", 0) // REQUESTS,
        cycles.cached // REQUESTS,
        sum(cycles.exits.values()) // REQUESTS,
    )
