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
from kvmlab.study.own_process import OwnProcess
from kvmlab.study.traps import Trap, first_traps
from kvmlab.workloads.trace import Trace

SHADOWING = ("shadow", "l2-shadow")  # the designs that have a shadow policy
MACHINE = "my machine"  # the trace of a plan that is about a machine of one's own
CROSSED = ("shadow", "ept")  # the designs whose crossing is looked for
Plan = Mapping[str, Any]  # with trace, records (0: all), designs, policy, costs, kpti, vcpus
Key = tuple[Any, ...]
Slices = Generator[tuple[str, int, int], None, list[Row]]
"""Yields the design, accesses done and accesses in all; returns the rows."""


def usual_plan() -> dict[str, Any]:
    """What a learner sees first, of all that can be chosen."""
    return {
        "trace": "sort",
        "records": 20_000,  # so that any other design answers at once
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
    """What was run so far, each once; with ``own``, of a machine of one's own."""

    def __init__(self, own: OwnProcess | None = None) -> None:
        self._own = own
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
                self._rows[key] = yield from _told(
                    mmu, study(trace, mmu, **self._options(plan, mmu))
                )
        return [self._rows[key] for key in keys]

    def traps(self, plan: Plan) -> list[Trap]:
        """The first traps of the program of ``plan`` under shadow paging."""
        part, trace = self._part(plan)
        key = (*part, *sorted(options(plan, "shadow").items()))
        if key not in self._traps:
            self._traps[key] = first_traps(trace, **self._options(plan, "shadow"))
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
        known = self._version(plan["trace"])
        if self._own or not known[1] or (self._loaded and self._loaded[0] == known):
            return 0
        return Path(plan["trace"]).stat().st_size

    def _options(self, plan: Plan, mmu: str) -> dict[str, Any]:
        return {**(self._own.options if self._own else {}), **options(plan, mmu)}

    def _part(self, plan: Plan) -> tuple[Key, Trace]:
        """As much of the trace as ``plan`` wants, and what tells it from others."""
        source, records = plan["trace"], plan["records"]
        known = self._version(source)
        if not self._loaded or self._loaded[0] != known:
            self._loaded = known, self._own.trace if self._own else _trace(source)
        whole = self._loaded[1]
        part = whole.head(records) if records else whole
        return (*known, len(part)), part

    def _version(self, source: str) -> tuple[str, int]:
        """The name of a trace and which of its versions: a file's last change, a machine's look."""
        if self._own:
            return source, self._own.looks
        own = source not in workloads.SHIPPED and Path(source).is_file()
        return source, Path(source).stat().st_mtime_ns if own else 0


def _trace(source: str) -> Trace:
    own = source not in workloads.SHIPPED
    return workloads.trace_named(source) if own else workloads.shipped(source)


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
    """Lines of Python that make the rows of ``plan``; of a machine of one's own, ``machine``."""
    own = plan["trace"] == MACHINE
    part = f".head({plan['records']})" if plan["records"] else ""
    read = "shipped" if plan["trace"] in workloads.SHIPPED else "trace_named"
    chosen = [f"    {mmu!r}: {options(plan, mmu)!r}," for mmu in plan["designs"]]
    lines = [
        *([] if own else ["from kvmlab import workloads"]),
        "from kvmlab.study.compare import compare",
        "from kvmlab.study.costs import model_named",
        *(["from kvmlab.study.own_process import OwnProcess"] if own else []),
        "",
        *(["own = OwnProcess(machine)  # your own, or your domain"] if own else []),
        f"trace = own.trace{part}" if own else f"trace = workloads.{read}({plan['trace']!r}){part}",
        f"prices = model_named({plan['costs']!r})",
        *("designs = {", *chosen, "}"),
        "rows = [",
        "    row",
        "    for mmu, options in designs.items()",
        f"    for row in compare(trace, [mmu], prices=prices, {'**own.options, ' * own}**options)",
        "]",
    ]
    return "\n".join(lines)
