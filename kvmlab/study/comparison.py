"""A comparison that remembers what has run: rows, first traps and crossings by what was asked.

Running goes in slices, as `compare.study` does, so that whoever asks can show progress or stop.
"""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvmlab import workloads
from kvmlab.kvm.policy import NAIVE
from kvmlab.machine import MMUS
from kvmlab.study.compare import Row, study
from kvmlab.study.costs import GRADED, CostTable
from kvmlab.study.counters import Tally
from kvmlab.study.crossing import crossing
from kvmlab.study.traps import Trap, first_traps
from kvmlab.workloads.trace import Trace

SHADOWING = ("shadow", "l2-shadow")  # the designs that have a shadow policy
CROSSED = ("shadow", "ept")  # the designs whose crossing is looked for
Plan = Mapping[str, Any]  # with trace, records (0: all), designs, policy, costs, kpti, vcpus
Key = tuple[Any, ...]
Slices = Generator[tuple[str, int, int], None, list[Row]]
"""Yields the design, accesses done and accesses in all; returns the rows."""


def usual_plan() -> dict[str, Any]:
    """What a learner sees first, of all that can be chosen."""
    return {
        "trace": "sort",
        "records": 100_000,
        "designs": list(MMUS),
        "policy": NAIVE.name,
        "costs": GRADED.name,
        "kpti": False,
        "vcpus": 1,
        "chart": "references",
        "calm": 64,
        "tried": [1, 64],
        "language": "en",
    }


class Comparison:
    """What was run so far, each once."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._traps: dict[Key, list[Trap]] = {}
        self._crossings: dict[tuple[str, int], Tally] = {}
        self._loaded: tuple[Key, Trace] | None = None

    def asked(self, plan: Plan) -> list[Key]:
        """What tells the rows of ``plan`` from others; raises what the trace's reader refuses."""
        part = self._part(plan)[0]
        return [(*part, mmu, *sorted(options(plan, mmu).items())) for mmu in plan["designs"]]

    def run(self, plan: Plan) -> Slices:
        """The rows of ``plan``, in the order of its designs; those that ran are there at once."""
        trace, keys = self._part(plan)[1], self.asked(plan)
        for mmu, key in zip(plan["designs"], keys, strict=True):
            if key not in self._rows:
                self._rows[key] = yield from _told(mmu, study(trace, mmu, **options(plan, mmu)))
        return [self._rows[key] for key in keys]

    def traps(self, plan: Plan) -> list[Trap]:
        """The first traps of the program of ``plan`` under shadow paging."""
        part, trace = self._part(plan)
        chosen = options(plan, "shadow")
        key = (*part, *sorted(chosen.items()))
        if key not in self._traps:
            self._traps[key] = first_traps(trace, **chosen)
        return self._traps[key]

    def cycles(self, tried: Sequence[int], prices: CostTable) -> dict[str, list[int]]:
        """What one change of the tables comes to under some designs, at each value ``tried``."""
        found: dict[str, list[int]] = {}
        for mmu in CROSSED:
            for calm in tried:
                if (mmu, calm) not in self._crossings:
                    self._crossings[mmu, calm] = crossing(mmu, calm)
                found.setdefault(mmu, []).append(prices.cycles(self._crossings[mmu, calm]).total)
        return found

    def unread(self, plan: Plan) -> int:
        """How many bytes the file of ``plan`` has, if it is one that has not been read yet."""
        known = _version(plan["trace"])
        if not known[1] or (self._loaded and self._loaded[0] == known):
            return 0
        return Path(plan["trace"]).stat().st_size

    def _part(self, plan: Plan) -> tuple[Key, Trace]:
        """As much of the trace as ``plan`` wants, and what tells it from others."""
        source, records = plan["trace"], plan["records"]
        known = _version(source)
        if not self._loaded or self._loaded[0] != known:
            own = source not in workloads.SHIPPED
            trace = workloads.trace_named(source) if own else workloads.shipped(source)
            self._loaded = known, trace
        whole = self._loaded[1]
        part = whole.head(records) if records else whole
        return (*known, len(part)), part


def _version(source: str) -> tuple[str, int]:
    """The name of a trace and, of a file, when it was changed last; otherwise 0."""
    own = source not in workloads.SHIPPED and Path(source).is_file()
    return source, Path(source).stat().st_mtime_ns if own else 0


def _told(
    mmu: str, run: Generator[tuple[int, int], None, Row]
) -> Generator[tuple[str, int, int], None, Row]:
    """One design to its end, each slice with the design's name."""
    while True:
        try:
            done, total = next(run)
        except StopIteration as end:
            row: Row = end.value
            return row
        yield mmu, done, total


def options(plan: Plan, mmu: str) -> dict[str, Any]:
    """What the machine is told besides its design; what is usual is left out."""
    found = {"policy": plan["policy"]} if mmu in SHADOWING else {}
    found |= {"kpti": True} if plan["kpti"] else {}
    alone = plan["vcpus"] == 1 or mmu.startswith("l2-")
    return found | ({} if alone else {"vcpus": plan["vcpus"]})


def comparison_code(plan: Plan) -> str:
    """Lines of Python that make the rows of ``plan``."""
    part = f".head({plan['records']})" if plan["records"] else ""
    read = "shipped" if plan["trace"] in workloads.SHIPPED else "trace_named"
    chosen = "".join(f"    {mmu!r}: {options(plan, mmu)!r},\n" for mmu in plan["designs"])
    return (
        "from kvmlab import workloads\n"
        "from kvmlab.study.compare import compare\n"
        "from kvmlab.study.costs import model_named\n\n"
        f"trace = workloads.{read}({plan['trace']!r}){part}\n"
        f"prices = model_named({plan['costs']!r})\n"
        f"designs = {{\n{chosen}}}\n"
        "rows = [\n"
        "    row\n"
        "    for mmu, options in designs.items()\n"
        "    for row in compare(trace, [mmu], prices=prices, **options)\n"
        "]"
    )
