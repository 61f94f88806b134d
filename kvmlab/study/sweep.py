"""Run the cells of a grid on any executor, and keep what is finished whatever happens.

A cell is finished when its line is in the journal.  A cell that fails is finished too: its reason
is its result.  When a worker dies, its cell is run again where the executor does that itself
(Dask); on this machine each cell that was lost is run alone, so that one that kills its process
is told from those that died with it.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kvmlab import __version__
from kvmlab.base.addresses import parse_size, size_text
from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.study.cells import Parcel, Task, digest, row_of, run_task
from kvmlab.study.compare import Row
from kvmlab.study.executors import local, usual_jobs
from kvmlab.study.grid import Axes, Cell, Grid, grid
from kvmlab.study.journal import Journal, Line
from kvmlab.workloads.trace import Trace

AHEAD = 2
"""Cells that wait in an executor for each one that runs: it is never idle, and holds few traces."""

Progress = Callable[[int, int], None]
"""Told how many cells are finished, and how many there are; raise from it to stop."""


class SweepStopped(KvmlabError):
    """The executor went away; what was finished is in the journal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep found: in the grid's order, whatever order the cells ended in."""

    done: list[tuple[Cell, Row]]
    failed: list[tuple[Cell, str]]
    skipped: list[tuple[Cell, str]]


def sweep(
    traces: Sequence[Trace],
    axes: Axes | None = None,
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    journal: str | Path | None = None,
    retry: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run every cell of ``axes`` on every trace that ``journal`` does not have yet.

    Cells run on ``executor``, ``jobs`` at a time; without one, in so many processes on this machine
    (default: one a CPU).  With ``retry`` cells that failed are run again.  Raises what `grid` and
    `Journal` refuse, `SweepStopped` when the executor given went away, and `OSError` when the
    journal cannot be written: then too what is in it stays.
    """
    jobs = _checked(jobs)
    plan = grid(traces, axes or Axes())
    opened = Journal(journal, header(traces, axes or Axes())) if journal else nullcontext()
    with opened as book:
        run = _Run(plan, {trace.name: trace for trace in traces}, book, progress, retry)
        if executor:
            lost = run.on(executor, jobs, run.missing())
            if lost:
                raise SweepStopped(
                    f"the executor went away: {run.finished} of {len(plan.cells)} cells are "
                    "finished; the same sweep goes on from its journal"
                )
        else:
            run.here(jobs)
    return run.outcome()


def header(traces: Sequence[Trace], axes: Axes) -> dict[str, Any]:
    """Which sweep it is: what is run, and on what, as plain data."""
    told = [{"name": one.name, "records": len(one), "sha256": digest(one)} for one in traces]
    pages = {
        side: [size_text(parse_size(page)) for page in getattr(axes, side)]
        for side in ("guest_pages", "host_pages")
    }
    return {"version": __version__, "traces": told, **asdict(axes), **pages}


def _checked(jobs: int | None) -> int:
    if jobs is None:
        return usual_jobs()
    if jobs < 1:
        raise BadChoice(f"{jobs} cells at a time are too few; choose 1 or more")
    return jobs


class _Run:
    """One run of a sweep: which cells are finished, and who is told."""

    def __init__(
        self,
        plan: Grid,
        traces: dict[str, Trace],
        journal: Journal | None,
        progress: Progress | None,
        retry: bool,
    ) -> None:
        self._plan, self._journal, self._progress = plan, journal, progress
        self._traces = traces
        self._parcels: dict[str, Parcel] = {}
        self._found: dict[str, Line] = {}
        cells = {_key(cell.to_json()) for cell in plan.cells}
        for line in journal.finished if journal else ():
            key = _key(line["cell"])
            if key in cells and (not retry or "failed" not in line):
                self._found[key] = line

    @property
    def finished(self) -> int:
        """How many cells have a result."""
        return len(self._found)

    def missing(self) -> list[Cell]:
        """The cells that have none."""
        return [cell for cell in self._plan.cells if _key(cell.to_json()) not in self._found]

    def here(self, jobs: int) -> None:
        """Run all that is missing on this machine; what a dying process took along runs alone."""
        missing = self.missing()
        while missing:
            with local(min(jobs, len(missing))) as executor:
                lost = self.on(executor, jobs, missing)
            for cell in lost[: AHEAD * jobs]:  # one of those that ran, or waited to
                self._alone(cell)
            missing = self.missing()

    def _alone(self, cell: Cell) -> None:
        """Run ``cell`` in a process of its own: if that dies, the cell is what killed it."""
        with local(2) as executor:
            if self.on(executor, 1, [cell]):
                self._keep({"cell": cell.to_json(), "failed": "its process was killed"})

    def on(self, executor: Executor, jobs: int, cells: Iterable[Cell]) -> list[Cell]:
        """Run ``cells``; returns those that were lost with the executor, and then runs no more."""
        self._tell()
        ended: SimpleQueue[Future[Line]] = SimpleQueue()
        waiting: dict[Future[Line], Cell] = {}
        coming, lost = deque(cells), list[Cell]()
        try:
            while waiting or (coming and not lost):
                while coming and not lost and ended.empty() and len(waiting) < AHEAD * jobs:
                    try:
                        future = executor.submit(run_task, self._task(coming[0]))
                    except Exception:  # noqa: BLE001  broken, shut down, or without its cluster
                        lost.append(coming[0])
                        break
                    waiting[future] = coming.popleft()
                    future.add_done_callback(ended.put)
                if waiting:
                    lost += self._take(ended.get(), waiting)
        finally:
            for future in waiting:  # an interrupt, or a full disk: nobody waits for these
                future.cancel()
        return lost

    def _take(self, future: Future[Line], waiting: dict[Future[Line], Cell]) -> list[Cell]:
        """Keep what has ended; returns the cell if it was lost."""
        cell = waiting.pop(future)
        line = _line(future, cell)
        if line is None:
            return [cell]
        self._keep(line)
        return []

    def _task(self, cell: Cell) -> Task:
        if cell.trace not in self._parcels:
            self._parcels[cell.trace] = Parcel.of(self._traces[cell.trace])
        return Task(cell, self._parcels[cell.trace], self._plan.cells[cell])

    def _keep(self, line: Line) -> None:
        if self._journal:
            self._journal.append(line)
        self._found[_key(line["cell"])] = line
        self._tell()

    def _tell(self) -> None:
        if self._progress:
            self._progress(self.finished, len(self._plan.cells))

    def outcome(self) -> Outcome:
        """What was found, in the grid's order."""
        outcome = Outcome([], [], list(self._plan.skipped))
        for cell in self._plan.cells:
            line = self._found[_key(cell.to_json())]
            if "failed" in line:
                outcome.failed.append((cell, line["failed"]))
            else:
                outcome.done.append((cell, row_of(cell, line["counts"])))
        return outcome


def _key(cell: dict[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)


def _line(future: Future[Line], cell: Cell) -> Line | None:
    """The line of a cell that ended; None if it did not, because its executor went away."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        return None
    except Exception as error:  # noqa: BLE001  the executor gave up on this cell alone
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return {"cell": cell.to_json(), "failed": told[:300]}
