"""A store in memory that answers requests, as Redis does: random places, a few for each request.

A request follows pointers: a bucket of the hash table, its entry, the key, the value.  What that
costs is counted by the engine and priced by `study.costs`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.hardware.batch_quiet import Made, make_quietly
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
_USER_CPL = 3
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

    @property
    def saturated(self) -> bool:
        """Whether p90 and p99 both are a request of which every hop walks, each as long."""
        walks = GRADED.cycles(self.tally).total
        if not self.misses or walks % self.misses or len(self.latencies) < len(_RANKS):
            return False
        most = self.data + HOPS * walks // self.misses
        return self.latencies[1:] == (most, most)


def serve(machine: Machine, pages: NDArray[np.int64], shift: int | None) -> Served:
    """Requests to the 4 KiB pages that begin at ``pages`` (GVAs), mapped by 1 << ``shift`` bytes.

    Where pages of several sizes map them, ``shift`` is None.  As many as are counted come
    first, to warm up; `TIMED` single requests come last.
    """
    dice = np.random.default_rng(_SEED)
    lines = dice.integers(0, PAGE_SIZE // _LINE, 2 * ACCESSES) * _LINE
    places = pages[dice.integers(0, len(pages), 2 * ACCESSES)] + lines
    _read(machine, places[:ACCESSES], shift)
    counters, tap = Counters(), machine.cpu.tap
    machine.cpu.tap = counters
    try:
        _read(machine, places[ACCESSES:], shift)
    finally:
        machine.cpu.tap = tap
    lines = dice.integers(0, PAGE_SIZE // _LINE, (TIMED, HOPS)) * _LINE
    timed = pages[dice.integers(0, len(pages), (TIMED, HOPS))] + lines
    made = _quietly(machine, timed.ravel())
    took = sorted(_one_by_one(machine, timed) if made is None else _together(made))
    ranked = tuple(took[rank - 1] for rank in _RANKS)
    return replace(_priced(counters.program), latencies=ranked)


def _one_by_one(machine: Machine, requests: NDArray[np.int64]) -> list[int]:
    """Cycles of each request, made by itself: the data, walks and exits of its hops."""
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
    return took


def _together(made: Made) -> list[int]:
    """The same of requests whose accesses were made at once: no exit is among them."""
    shorter = (made.served.start != 0).astype(np.int64) + made.served.hits
    cycles = shorter * GRADED.rows["cached"].cycles
    for entry, reads in made.reads().items():
        cycles += reads * GRADED.references({entry: 1})
    took = np.full(TIMED, HOPS * GRADED.rows["access"].cycles)
    np.add.at(took, made.missed // HOPS, cycles)
    return [int(one) for one in took]


def _quietly(machine: Machine, places: NDArray[np.int64]) -> Made | None:
    """Make all the accesses at once; None, and nothing is done, if one of them would fault."""
    cpu = machine.cpu
    cpu.cpl = _USER_CPL
    try:
        return make_quietly(cpu, places, _reads(places), len(places))
    finally:
        cpu.cpl = 0


def _read(machine: Machine, places: NDArray[np.int64], shift: int | None) -> None:
    """Make the accesses: at once, else together, which takes pages of one size, or one by one."""
    if _quietly(machine, places) is not None:
        return
    if shift is None:
        for gva in places.tolist():
            machine.guest.touch(gva, Kind.READ)
    else:
        Batches(machine.cpu, _reads(places), places.astype(np.uint64), shift).run(0, len(places))


def _reads(places: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.full(len(places), int(Kind.READ), np.uint8)


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
