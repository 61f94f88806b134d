"""Run a guest in its steady state on a design, and count from the moment when it is warm."""

from dataclasses import dataclass

import numpy as np

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.hardware.records import Kind
from kvmlab.hardware.tlb import Geometry
from kvmlab.machine import Machine
from kvmlab.study.batches import Batches
from kvmlab.study.compare import HOST_PER_GUEST
from kvmlab.study.costs import CostTable
from kvmlab.study.counters import Counters, Tally
from kvmlab.workloads.programs import PAGE, Runner
from kvmlab.workloads.steady import ROUND, Steady

ROUNDS, WARM = 8, 1
"""Rounds that are counted, and those before them that are not."""

LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """What one design did in the counted rounds."""

    mmu: str
    accesses: int
    total: Tally

    def end_to_end(self, prices: CostTable) -> int:
        """Cycles of accesses, walks and exits."""
        return prices.end_to_end(self.accesses, self.total)


def measure(
    program: Steady, mmu: str, policy: str, geometry: Geometry, rounds: int = ROUNDS
) -> Measured:
    """Run ``program`` on a fresh machine of the design ``mmu``; raises what `Machine` refuses.

    What ran before the first counted round (the mappings, each page's first touch, a round to warm
    TLBs and walk caches) is not counted.
    """
    counters = Counters()
    memory = LEAST_MEMORY
    while memory < 8 * program.pages * PAGE:  # two processes, their tables, and as much again
        memory *= 2
    machine = Machine(
        mmu,
        guest_memory=memory,
        host_memory=HOST_PER_GUEST * memory,
        policy=policy,
        geometry=geometry,
        tap=counters,
    )
    runner = Runner(machine)
    runner.run(program.prepare())
    done = 0
    for step in program.rounds(WARM + rounds):
        if done == WARM * ROUND and isinstance(step, np.ndarray):
            counters.clear()
        if isinstance(step, np.ndarray):
            _write(machine, step)
            done += len(step)
        else:
            runner.run([step])
    return Measured(mmu, rounds * ROUND, counters.total)


def _write(machine: Machine, addresses: np.ndarray) -> None:
    kinds = np.full(len(addresses), Kind.WRITE, np.uint8)
    Batches(machine.cpu, kinds, addresses, PAGE_SHIFT).run(0, len(addresses))
