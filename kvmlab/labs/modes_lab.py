"""One program under several designs: what shadow paging, EPT and others cost, side by side.

The lab asks `study` for rows and `figures` for what to show of them.  A run goes in slices between
which the kernel serves the browser, so that progress moves and Stop works.
"""

import asyncio
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from types import MappingProxyType
from typing import Any, ClassVar

import ipywidgets as widgets

from kvmlab.base.errors import BadChoice
from kvmlab.figures import crossing as crossing_figures
from kvmlab.figures import modes as figures
from kvmlab.figures.curves import Curves
from kvmlab.figures.lecture import Lecture, modes_lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.figures.traps import most_exits, traps_scene
from kvmlab.labs.charts import Bars, Lines
from kvmlab.labs.guard import guarded
from kvmlab.labs.modes_controls import ALL, AMOUNTS, OWN, VCPUS, ModesControls
from kvmlab.labs.turns import turn_of_others
from kvmlab.machine import Machine
from kvmlab.management.domain import virDomain
from kvmlab.study.compare import Row
from kvmlab.study.comparison import (
    MACHINE,
    Comparison,
    Key,
    Slices,
    comparison_code,
    usual_plan,
)
from kvmlab.study.costs import model_named
from kvmlab.study.own_process import OwnProcess
from kvmlab.study.share import Plan
from kvmlab.text import say, speaking

Job = Generator[None, None, None]

LARGE = 1_000_000  # bytes of a file that takes a while to read
BLINK = 0.1  # seconds between two movements of the progress bar


class ModesLab(ModesControls):
    """A comparison that a learner toggles: the trace, how much of it, and which designs.

    ``rows`` are the rows shown, at the prices of ``costs``.  Results are kept as long as the lab
    lives, so a design that has run once is shown at once.  With a machine or domain of your own,
    the program is the process that runs in it: the pages that it has used (`OwnProcess`).
    """

    NAME = "modes"
    BEGINNING: ClassVar[Plan] = MappingProxyType(usual_plan())

    def __init__(
        self, trace: str | Machine | virDomain = "sort", share: str = "", **chosen: object
    ) -> None:
        """Run ``trace``, a shipped name or a path, and show it; ``records`` None means all.

        Raises what the trace's reader or `OwnProcess` refuses, and as `Lab` does.
        """
        self._look = None if isinstance(trace, str) else OwnProcess(trace)
        if self._look:
            trace, chosen = MACHINE, {**_found(self._look), **chosen}
        self.rows: list[Row] = []
        self._asked: list[Key] = []
        self._done = Comparison(self._look)
        self._job: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._drawn: tuple[Bars, Lines] | None = None
        self.charts = widgets.VBox(layout=widgets.Layout(width="100%"))
        if chosen.get("records", 1) is None:
            chosen["records"] = ALL
        if "designs" in chosen:
            chosen["designs"] = list(chosen["designs"])  # type: ignore[call-overload]
        super().__init__(share, trace=trace, **chosen)
        self.add_class("kvm-modes")
        if self.plan["records"] in range(1, AMOUNTS[1] + 1):
            self.finish()  # short enough to be there with the cell; what is longer shows progress

    def __repr__(self) -> str:
        """What is shown: the same text each time."""
        shown = (f"{row.mmu} {row.total.all_references}/{row.total.all_exits}" for row in self.rows)
        what = f"{self.rows[0].trace!r}, {self.rows[0].records} records; " if self.rows else ""
        return f"ModesLab({what}references/exits: {', '.join(shown) or 'none'})"

    def finish(self) -> None:
        """Complete what is running, if anything is; then ``rows`` are those asked for."""
        for _ in self._job or ():
            pass

    @guarded
    def look_again(self, _button: object = None) -> None:
        """Run anew what a process of one's own has used by now."""
        if self._look is None:
            raise BadChoice(say("modes.own.none"))
        self._look.again()
        self._arrive(self.plan)
        with speaking(self._language):
            self._show(0)

    # -- from the plan to rows ----------------------------------------------------------------

    def _reach(self, plan: dict[str, Any]) -> None:
        """Begin what ``plan`` asks for, in place of what is running; what has run is there."""
        if not plan["trace"]:
            raise BadChoice(say("modes.control.file.hint"))
        prices = model_named(plan["costs"])
        with self._reading(plan):
            asked, self._shown_traps = self._done.asked(plan), self._done.traps(plan)
        self._cycles = self._done.cycles(plan["tried"], prices)
        self._prices = prices
        self._halt()  # also when what is shown is asked for again: it must not be replaced later
        if asked == self._asked:
            self.rows = [replace(row, prices=prices) for row in self.rows]
            return
        work = self._work(self._done.run(plan), asked)
        next(work, None)  # what has run before is shown without delay
        if asked == self._asked:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no browser to serve meanwhile
            for _ in work:
                pass
        else:
            self._job = self._guarded(work)
            self._task = loop.create_task(_in_slices(self._job))

    @contextmanager
    def _reading(self, plan: dict[str, Any]) -> Iterator[None]:
        """A time in which a large file may be read for the first time: then that is said."""
        if self._done.unread(plan) < LARGE:
            yield
            return
        self._halt()
        with speaking(str(plan["language"])):
            self.progress.value = escape(say("modes.reading.file", file=plan["trace"]))
        try:
            yield
        finally:
            self.progress.value = ""

    def _work(self, run: Slices, asked: list[Key]) -> Job:
        """Run what has not run yet and show how far it is; then the rows are those asked for."""
        moved = time.monotonic()
        while True:
            try:
                mmu, done, total = next(run)
            except StopIteration as end:
                rows = end.value
                break
            if total > AMOUNTS[1] or time.monotonic() - moved > BLINK:
                moved = time.monotonic()
                self._show_progress(mmu, done, total)
            yield
        self.rows = [replace(row, prices=self._prices) for row in rows]
        self._asked = asked

    def _guarded(self, job: Job) -> Job:
        """The rest of the work; what goes wrong becomes a message, and what was shown stays."""
        with self.notice.watching():
            try:
                yield from job
            finally:
                self.progress.value = ""
            with speaking(self._language):
                self._show(0)

    def _halt(self) -> None:
        if self._job:
            self._job.close()
            self._job = None
            self.progress.value = ""  # a job that has not begun yet cannot clean up itself

    @guarded
    def _stopped(self, _button: object = None) -> None:
        self._halt()
        with speaking(self._language):
            self.progress.value = escape(say("modes.stopped"))

    # -- showing --------------------------------------------------------------------------

    def _views(self) -> list[widgets.Widget]:
        return [self.charts, self.player]

    def _scene(self) -> Scene:
        names = [figures.design(row.mmu) for row in self.rows]
        first = most_exits(names, [row.total.all_exits for row in self.rows])
        scene = traps_scene(self._shown_traps, figures.sentence(self.rows), first)
        scene.without = [] if self.trace.value == OWN else ["file"]
        return scene

    def _facts(self) -> list[str]:
        plan: dict[str, Any] = self.plan
        found = crossing_figures.found(self._cycles, plan["tried"], plan["calm"])
        return [figures.sentence(self.rows), *self._own_facts(), *found]

    def _own_facts(self) -> list[str]:
        own = self._look
        if own is None:
            return []
        return [
            say(
                "modes.own.fact",
                pages=figures.number(own.pages),
                written=figures.number(own.written),
            )
        ]

    def _tables(self) -> list[Table]:
        return [*([figures.table(self.rows)] if self.rows else []), self._curves().table()]

    def _curves(self) -> Curves:
        plan: dict[str, Any] = self.plan
        return crossing_figures.curves(self._cycles, plan["tried"])

    def _draw_charts(self) -> None:
        bars = figures.CHARTS[str(self.plan["chart"])](self.rows)
        curves = self._curves()
        if self._drawn:
            self._drawn[0].show(bars)
            self._drawn[1].show(curves)
            return
        try:
            self._drawn = Bars(bars), Lines(curves)
        except ImportError:
            self.charts.children = [widgets.HTML(escape(say("modes.nochart")))]
        else:
            self.charts.children = self._drawn

    def _show_progress(self, mmu: str, done: int, total: int) -> None:
        numbers = {"done": figures.number(done), "total": figures.number(total)}
        with speaking(self._language):
            words = escape(say("modes.progress", design=figures.design(mmu), **numbers))
        bar = f'<progress max="{total}" value="{done}" aria-label="{words}"></progress>'
        self.progress.value = f"{bar} {words}"

    def _lecture(self) -> Lecture:
        self.finish()
        plan: dict[str, Any] = self.plan
        return modes_lecture(
            self.rows, self._shown_traps, self._cycles, plan["tried"], plan["calm"]
        )

    def _code(self, plan: dict[str, Any]) -> str:
        return comparison_code(plan)


def _found(own: OwnProcess) -> dict[str, object]:
    """What the controls show of a machine of one's own."""
    return {"kpti": own.kpti, "vcpus": own.vcpus if own.vcpus in VCPUS else 1}


async def _in_slices(job: Job) -> None:
    """Do ``job``, giving the browser its turn between two slices."""
    for _ in job:
        await turn_of_others()
