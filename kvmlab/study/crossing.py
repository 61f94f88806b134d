"""Where two designs cross: a program that changes its tables, and then leaves them alone.

It maps, touches and unmaps a few pages, which costs a shadowed guest exits, and then makes random
accesses to more pages than a small TLB holds, which costs a walk each.  How many accesses there are
for one change decides which design is cheaper (Gandhi et al., Agile Paging, ISCA 2016, section 2).
"""

from collections.abc import Iterator

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.geometries import geometry_named
from kvmlab.machine import Machine
from kvmlab.study.counters import Counters, Tally
from kvmlab.workloads.programs import HEAP, PAGE, Operation, Runner, populate, random_access, remap

PAGES, CHANGED = 32, 8
ELSEWHERE = 2 * HEAP
TLB = "8x4"  # 8 entries, and no walk caches: most random accesses to 32 pages miss
CALM = tuple(1 << n for n in range(11))
"""Accesses for one change of the tables, as a learner may choose them."""


def crossing(mmu: str, calm: int, *, seed: int = 1) -> Tally:
    """What ``calm`` accesses after one change of the tables cost under ``mmu``.

    Raises `BadChoice` for a number that is not among `CALM`, and what `Machine` refuses.
    """
    if calm not in CALM:
        raise BadChoice(f"accesses for one change are one of {', '.join(map(str, CALM))}")
    counters = Counters()
    machine = Machine(
        mmu,
        guest_memory="16M",
        host_memory="64M",
        geometry=geometry_named(TLB),
        tap=counters,
    )
    runner = Runner(machine)
    runner.run(populate(HEAP, PAGES * PAGE))
    runner.run(remap(ELSEWHERE, CHANGED, populate=False))  # so that EPT knows the frames
    counters.clear()
    runner.run(_program(calm, seed))
    return counters.program + counters.kernel


def _program(calm: int, seed: int) -> Iterator[Operation]:
    yield from remap(ELSEWHERE, CHANGED, populate=False)
    yield from random_access(seed, HEAP, PAGES * PAGE, calm)
