"""One program under several designs: what shadow paging, EPT and others cost, side by side.

The lab asks `study` for rows and `figures` for what to show of them.  A run goes in slices between
which the kernel serves the browser, so that progress moves and Stop works.
"""

import asyncio
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from types import MappingProxyType
from typing import Any, ClassVar

import ipywidgets as widgets

from kvmlab import workloads
from kvmlab.base.errors import BadChoice
from kvmlab.figures import crossing as crossing_figures
from kvmlab.figures import modes as figures
from kvmlab.figures.costs import model_names
from kvmlab.figures.curves import Curves
from kvmlab.figures.lecture import Lecture, modes_lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.figures.traps import most_exits, traps_scene
from kvmlab.kvm.policy import POLICIES, policy_named
from kvmlab.labs.charts import Bars, Lines
from kvmlab.labs.guard import guarded
from kvmlab.labs.lab import Lab
from kvmlab.labs.turns import turn_of_others
from kvmlab.machine import DESIGNS, Machine
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
from kvmlab.study.costs import MODELS, model_named
from kvmlab.study.crossing import CALM
from kvmlab.study.own_process import OwnProcess
from kvmlab.study.share import Plan
from kvmlab.text import say, speaking

Job = Generator[None, None, None]

OWN = "own"  # the choice of a file of the learner's own
AMOUNTS = (20_000, 100_000)
ALL = 0  # the choice of all records; None would be no choice at all
VCPUS = (1, 2, 4)
LARGE = 1_000_000  # bytes of a file that takes a while to read
BLINK = 0.1  # seconds between two movements of the progress bar


class ModesLab(Lab):
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
        self._source = ""  # the trace that the controls show
        self._done = Comparison(self._look)
        self._job: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._drawn: tuple[Bars, Lines] | None = None
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

    # -- controls -------------------------------------------------------------------------

    def _make_controls(self) -> list[widgets.Widget]:
        words = self._words
        self.trace = self._list("trace", (*reversed(workloads.SHIPPED), OWN), _trace_names)
        self.file = widgets.Text(
            continuous_update=False,
            style={"description_width": "initial"},
            layout=widgets.Layout(width="360px"),
        )
        words.on(
            words.on(self.file, "modes.control.file"), "modes.control.file.hint", "placeholder"
        )
        self._amounts = list(AMOUNTS)
        self.records = self._list("records", (*AMOUNTS, ALL), lambda: _amount_names(self._amounts))
        self.policy = self._list("policy", [one.name for one in POLICIES], _policy_names)
        self.costs = self._list("costs", [one.name for one in MODELS], model_names)
        self.vcpus = self._list("vcpus", VCPUS)
        self.chart = self._list("chart", tuple(figures.CHARTS), _chart_names)
        self.calm = widgets.SelectionSlider(
            options=CALM,
            continuous_update=False,
            style={"description_width": "initial"},
            layout=widgets.Layout(flex="0 0 480px", max_width="100%"),
        )
        words.on(self.calm, "modes.control.calm")
        self.designs = {mmu: self._box(f"design.{mmu}") for mmu in DESIGNS}
        self.kpti = self._box("modes.control.kpti")
        for key in ("policy", "costs", "kpti", "vcpus", "chart", "calm", "records"):
            self._bind(key, getattr(self, key))
        self.file.add_class("kvmlab-for-file")
        self.trace.observe(self._choose_trace, "value")
        self.file.observe(lambda change: self._chosen("trace", change.new.strip()), "value")
        for box in self.designs.values():
            box.observe(lambda _: self._chosen("designs", self._boxes()), "value")
        self.progress, self.stop = widgets.HTML(), words.on(widgets.Button(), "modes.control.stop")
        self.stop.add_class("kvmlab-stop")
        self.stop.on_click(self._stopped)
        self.charts = widgets.VBox(layout=widgets.Layout(width="100%"))
        first = [self.trace, self.file, self.records]
        if self._look:
            self.again = self._button("lab.own.again", self.look_again)
            first = [self.again]
        return [
            self._row(*first),
            self._row(*self.designs.values()),
            self._row(self.policy, self.costs),
            self._row(self.kpti, self.vcpus, self.chart, self.calm),
            self._row(self.progress, self.stop),
        ]

    def _list(self, key: str, values: Sequence[object], named: Any = None) -> widgets.Dropdown:  # noqa: ANN401  a function of Words
        control = widgets.Dropdown(
            options=values,
            style={"description_width": "initial"},
            layout=widgets.Layout(width="max-content", max_width="calc(100% - 4px)"),
        )
        self._words.on(control, f"modes.control.{key}")
        return self._words.options(control, named) if named else control

    def _box(self, key: str) -> widgets.Checkbox:
        layout = widgets.Layout(width="max-content", margin="2px 16px 2px 2px")
        return self._words.on(widgets.Checkbox(indent=False, layout=layout), key)

    def _boxes(self) -> list[str]:
        return [mmu for mmu, box in self.designs.items() if box.value]

    @guarded
    def look_again(self, _button: object = None) -> None:
        """Run anew what a process of one's own has used by now."""
        if self._look is None:
            raise BadChoice(say("modes.own.none"))
        self._look.again()
        self._arrive(self.plan)
        with speaking(self._language):
            self._show(0)

    @guarded
    def _choose_trace(self, change: Any) -> None:  # noqa: ANN401  as traitlets makes it
        """Another trace; a file of one's own is first asked for in its field."""
        if self._words.busy:
            return
        source = self.file.value.strip() if change.new == OWN else change.new
        if source and source != self.plan["trace"]:
            self.change(trace=source)
        else:  # only the field of the file comes or goes
            with speaking(self._language):
                self._show(self.player.step)

    def _follow(self) -> None:
        plan: dict[str, Any] = self.plan
        amounts = sorted({*self._amounts, plan["records"]} - {ALL})
        others, self._amounts = self._amounts != amounts, amounts
        with self._words.replacing():
            if others:
                self.records.options = _amount_names(amounts)
            own = plan["trace"] not in workloads.SHIPPED
            if plan["trace"] != self._source:  # else a path that was refused can be mended
                self.trace.value = OWN if own else plan["trace"]
                self._source = plan["trace"]
            if own:
                self.file.value = plan["trace"]
            for mmu, box in self.designs.items():
                box.value = mmu in plan["designs"]
        super()._follow()

    # -- from the plan to rows ----------------------------------------------------------------

    def _checked(self, plan: Plan) -> dict[str, Any]:
        """Values of the right kinds; the value of the slider is among those that were tried."""
        checked: dict[str, Any] = super()._checked(plan)
        if (checked["trace"] == MACHINE) != bool(self._look):
            raise BadChoice(say("lab.own.guest" if self._look else "modes.own.none"))
        policy_named(checked["policy"])
        model_named(checked["costs"])
        kinds = {"designs": DESIGNS, "tried": CALM}
        for key, known in kinds.items():
            if any(one not in known for one in checked[key]):
                raise BadChoice(f"{key} are some of {', '.join(map(str, known))}")
        for key, values in (("chart", tuple(figures.CHARTS)), ("vcpus", VCPUS), ("calm", CALM)):
            if checked[key] not in values:
                raise BadChoice(f"{key} is one of {', '.join(map(str, values))}")
        if checked["records"] < 0:
            raise BadChoice("the number of records is 1 or more, or 0 for all")
        checked["designs"] = [mmu for mmu in DESIGNS if mmu in checked["designs"]]
        checked["tried"] = sorted({*checked["tried"], checked["calm"]})
        return checked

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


def _trace_names() -> list[tuple[str, str]]:
    shipped = [(name, name) for name in reversed(workloads.SHIPPED)]
    return [*shipped, (say("modes.control.own"), OWN)]


def _amount_names(amounts: Sequence[int]) -> list[tuple[str, int]]:
    first = [(say("modes.control.first", number=figures.number(n)), n) for n in amounts]
    return [*first, (say("modes.control.all"), ALL)]


def _policy_names() -> list[tuple[str, str]]:
    return [(say(f"modes.policy.option.{one.name}"), one.name) for one in POLICIES]


def _chart_names() -> list[tuple[str, str]]:
    return [(say(f"modes.chart.{name}"), name) for name in figures.CHARTS]
