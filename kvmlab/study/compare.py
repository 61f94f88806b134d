"""Compare designs: the same program, the same accesses, three ways to translate.

Each design gets a fresh machine.  Counting starts when the process is about to run: boot, and
what spawning it cost, are not counted.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypedDict, Unpack

from kvmlab.base.addresses import PAGE_SIZE, parse_size
from kvmlab.base.errors import BadChoice, TraceError
from kvmlab.hardware.tlb import Geometry
from kvmlab.kvm.policy import NAIVE
from kvmlab.machine import DESIGNS, MMUS, Machine
from kvmlab.study.costs import GRADED, CostTable, Cycles
from kvmlab.study.counters import TABLES, Counters, Tally
from kvmlab.study.replay import (
    Accesses,
    LongAccesses,
    accesses,
    guest_memory_for,
    memory_for,
    replay,
)
from kvmlab.workloads.long_trace import LongTrace
from kvmlab.workloads.programs import Runner, Touch
from kvmlab.workloads.storms import Scenario
from kvmlab.workloads.trace import Trace

HOST_PER_GUEST = 4
"""How many times the guest's memory the host has, unless an option says otherwise."""

_OPERATIONS = 1_000  # of a program between two reports of progress

Progress = Callable[[str, int, int], None]
"""Told the design, accesses done and accesses in all; raise from it to stop."""


class Options(TypedDict, total=False):
    """What may be said about the machine; what is left out is as `Machine` has it, or as needed."""

    guest_memory: str | int
    host_memory: str | int
    guest_levels: int
    host_levels: int
    guest_page: str | int
    host_page: str | int
    policy: str
    kpti: bool
    vcpus: int
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Row:
    """What one design cost on one trace."""

    trace: str
    mmu: str
    records: int  # of the trace
    accesses: int  # by the program; a record that crosses a page makes two
    program: Tally
    kernel: Tally
    table_bytes: dict[str, int]  # when the program ended
    shadow_bytes_peak: int
    policy: str = NAIVE.name  # of the shadow MMU (kvm/policy.py); other designs have none
    prices: CostTable = GRADED
    calls: bool = False  # whether it was a program's operations, so its records are those

    @property
    def total(self) -> Tally:
        """Program and guest kernel together."""
        return self.program + self.kernel

    @property
    def cycles(self) -> Cycles:
        """What references and exits come to, by the row's table of costs."""
        return self.prices.cycles(self.total)

    def to_json(self) -> dict[str, Any]:
        """The row as plain data; the keys are an interface that others build on.

        ``cycles`` are those of ``prices``, the model and what was edited in it (study/costs.py).
        """
        return {
            "trace": self.trace,
            "mmu": self.mmu,
            "records": self.records,
            "accesses": self.accesses,
            **costs(self.total),
            "table_bytes": {table: self.table_bytes.get(table, 0) for table in TABLES},
            "shadow_bytes_peak": self.shadow_bytes_peak,
            "cycles": self.cycles.total,
            "cycles_of": {
                "references": self.cycles.references,
                "cached": self.cycles.cached,
                "exits": self.cycles.exits,
            },
            "costs": {"model": self.prices.name, "edited": dict(self.prices.edited)},
            "policy": self.policy if self.mmu in ("shadow", "l2-shadow") else None,
            "program": costs(self.program),
            "kernel": costs(self.kernel),
        }


Study = Generator[tuple[int, int], None, Row]


def costs(tally: Tally) -> dict[str, Any]:
    """A tally as plain data."""
    return {
        "tlb_lookups": sum(tally.lookups.values()),
        "tlb_hits": {level: tally.lookups[level] for level in ("L1", "L2")},
        "tlb_misses": tally.lookups["miss"],
        "references": dict(tally.references),
        "exits": tally.by_reason,
        "exits_served": tally.by_deed,
        "page_faults": tally.page_faults,
    }


def compare(
    trace: Trace | LongTrace | Scenario,
    mmus: Iterable[str] = MMUS,
    progress: Progress | None = None,
    prices: CostTable = GRADED,
    **options: Unpack[Options],
) -> list[Row]:
    """One row a design, in the order of ``mmus``, at ``prices``.

    ``options`` go to `Machine`.

    Raises `BadChoice` for an unknown design and `TraceError` for a trace without records,
    before anything runs.
    """
    chosen = list(mmus)
    for mmu in chosen:
        _check(trace, mmu)
    if isinstance(trace, Scenario):
        runs = [(mmu, _play(trace, mmu, options.copy())) for mmu in chosen]
    else:
        what = _accesses(trace)
        _fit(what, options)
        runs = [(mmu, _study(trace, what, mmu, options.copy())) for mmu in chosen]
    return [replace(_finish(mmu, run, progress), prices=prices) for mmu, run in runs]


def study(trace: Trace | LongTrace | Scenario, mmu: str, **options: Unpack[Options]) -> Study:
    """Replay ``trace`` under one design: yields (accesses done, accesses in all), returns the row.

    Of a `Scenario`, operations are what is done.

    Between two yields nothing runs, so a caller can show progress, do other work, or stop by
    asking for no more.  Raises `BadChoice` and `TraceError` at once.
    """
    _check(trace, mmu)
    if isinstance(trace, Scenario):
        return _play(trace, mmu, options)
    return _study(trace, _accesses(trace), mmu, options)


def _check(trace: Trace | LongTrace | Scenario, mmu: str) -> None:
    if mmu not in DESIGNS:
        raise BadChoice(f"design {mmu!r} is unknown; choose from {', '.join(DESIGNS)}")
    if not len(trace):
        raise TraceError(f"trace {trace.name!r} has no records to replay")


def _fit(what: Accesses | LongAccesses, options: Options) -> None:
    """Give the machine as much memory as the program needs, unless an option says how much."""
    if "guest_memory" not in options:
        options["guest_memory"] = guest_memory_for(what, options.get("guest_page", "4K"))
    options.setdefault("host_memory", HOST_PER_GUEST * parse_size(options["guest_memory"]))


def _accesses(trace: Trace | LongTrace) -> Accesses | LongAccesses:
    return LongAccesses(trace) if isinstance(trace, LongTrace) else accesses(trace)


def _study(
    trace: Trace | LongTrace, what: Accesses | LongAccesses, mmu: str, options: Options
) -> Study:
    counters, page = Counters(), options.get("guest_page", "4K")
    _fit(what, options)
    machine = Machine(mmu=mmu, tap=counters, **options)
    shadow_bytes = 0
    for done in replay(machine, what, page):
        if not done:
            counters.clear()
            shadow_bytes = machine.table_bytes()["shadow"]
        yield done, len(what)
    return Row(
        trace=trace.name,
        mmu=mmu,
        records=len(trace),
        accesses=len(what),
        program=counters.program,
        kernel=counters.kernel,
        table_bytes=machine.table_bytes(),
        shadow_bytes_peak=shadow_bytes + counters.shadow_pages_peak * PAGE_SIZE,
        policy=options.get("policy", NAIVE.name),
    )


def _play(scenario: Scenario, mmu: str, options: Options) -> Study:
    """The same for a program that calls its kernel: counting starts when its first process runs.

    Its own mappings are of 4 KiB pages; raises `BadChoice` for others.
    """
    if parse_size(options.get("guest_page", "4K")) != PAGE_SIZE:
        raise BadChoice(f"{scenario.name} maps pages of 4K; other sizes are for traces")
    counters = Counters()
    guest = options.setdefault("guest_memory", memory_for(scenario.pages * PAGE_SIZE))
    options.setdefault("host_memory", HOST_PER_GUEST * parse_size(guest))
    machine = Machine(mmu=mmu, tap=counters, **options)
    runner = Runner(machine)
    counters.clear()
    shadow_bytes = machine.table_bytes()["shadow"]
    operations, done, total, touches = scenario.operations(), 0, len(scenario), 0
    yield done, total
    while some := list(islice(operations, _OPERATIONS)):
        done += runner.run(some)
        touches += sum(isinstance(one, Touch) for one in some)
        machine.tick()
        yield done, total
    return Row(
        trace=scenario.name,
        mmu=mmu,
        records=done,
        accesses=touches,
        program=counters.program,
        kernel=counters.kernel,
        table_bytes=machine.table_bytes(),
        shadow_bytes_peak=shadow_bytes + counters.shadow_pages_peak * PAGE_SIZE,
        policy=options.get("policy", NAIVE.name),
        calls=True,
    )


def _finish(mmu: str, run: Study, progress: Progress | None) -> Row:
    """The row of a study that runs to its end."""
    while True:
        try:
            done, total = next(run)
        except StopIteration as end:
            row: Row = end.value
            return row
        if progress:
            progress(mmu, done, total)
