"""Run a guest in its steady state on a design, and count from the moment when it is warm."""

from collections.abc import Iterable
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
from kvmlab.workloads.steady import ROUND, Steady, Step

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

    What ran before the first counted round (the mappings, two passes over all pages, a round to
    warm TLBs and walk caches) is not counted.  The host's timer ticks after each pass and round.
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
    for _ in range(2):  # between the two ticks agile paging finds the tables at rest
        _run(machine, runner, program.pass_over())
        machine.tick()
    stream = program.rounds()
    for number in range(WARM + rounds):
        if number == WARM:
            counters.clear()
        _run(machine, runner, next(stream))
        machine.tick()
    return Measured(mmu, rounds * ROUND, counters.total)


def _run(machine: Machine, runner: Runner, steps: Iterable[Step]) -> None:
    for step in steps:
        if isinstance(step, np.ndarray):
            kinds = np.full(len(step), Kind.WRITE, np.uint8)
            Batches(machine.cpu, kinds, step, PAGE_SHIFT).run(0, len(step))
        else:
            runner.run([step])
