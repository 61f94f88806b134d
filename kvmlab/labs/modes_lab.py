"""One program under several designs: what shadow paging, EPT and others cost, side by side.

The lab asks `study` for rows and `figures.modes` for what to show of them.  A run goes in slices
between which the kernel serves the browser, so that progress moves and Stop works.
"""

import asyncio
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from html import escape
from pathlib import Path

import ipywidgets as widgets

from kvmlab import workloads
from kvmlab.figures import modes as figures
from kvmlab.figures.costs import model_names
from kvmlab.kvm.policy import NAIVE, POLICIES, policy_named
from kvmlab.labs.charts import Bars, columns
from kvmlab.labs.guard import Notice, guarded
from kvmlab.labs.markup import STYLE, table_html
from kvmlab.labs.player import Player
from kvmlab.labs.words import Words, language_control
from kvmlab.machine import DESIGNS, MMUS
from kvmlab.study.compare import Row, Study, study
from kvmlab.study.costs import GRADED, MODELS, model_named
from kvmlab.text import say, speaking
from kvmlab.workloads.trace import Trace

Job = Generator[None, None, None]
State = tuple[str, int]  # a trace's name or path, and when its file last changed

OWN = "own"  # the choice of a file of the learner's own
SHADOWING = ("shadow", "l2-shadow")  # the designs that have a shadow policy
AMOUNTS = (20_000, 100_000)
ALL = 0  # the choice of all records; None would be no choice at all
BLINK = 0.1  # seconds between two movements of the progress bar


class ModesLab(widgets.VBox):
    """A comparison that a learner toggles: the trace, how much of it, and which designs.

    ``rows`` are the rows shown, at the prices of ``costs``.  Results are kept as long as the lab
    lives, so a design that has run once is shown at once.  Bad input changes nothing but the
    notice.
    """

    def __init__(
        self,
        trace: str = "sort",
        records: int | None = AMOUNTS[1],
        designs: Iterable[str] = MMUS,
        policy: str = NAIVE.name,
        costs: str = GRADED.name,
    ) -> None:
        """Run ``trace``, a shipped name or a path, and show it; ``records`` None means all.

        ``policy`` is the shadow MMU's (kvm/policy.py), ``costs`` a cost model (study/costs.py).
        """
        self.rows: list[Row] = []
        self._results: dict[tuple[State, int, str, str], Row] = {}
        self._loaded: tuple[State, Trace] | None = None
        self._job: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._bars: list[Bars] = []
        self._words, self.language = Words(), language_control("en")
        self._make_trace(trace, records)
        self._make_choices(set(designs), policy_named(policy).name, model_named(costs).name)
        self._make_outputs()
        self._words.speak()
        super().__init__(
            [
                _line(self.trace, self.file, self.records, self.language),
                _line(*self.designs.values()),
                _line(self.policy, self.costs),
                _line(self.progress, self.done, self.stop),
                self.notice,
                self.sentence,
                self.charts,
                self.table,
                Player(),  # shows nothing, and keeps JupyterLab's shortcuts off the lists
            ]
        )
        self.add_class("kvmlab-lab")
        self.add_class("kvm-modes")
        self._observe()
        self._run()
        self.finish()

    def __repr__(self) -> str:
        """What is shown: the same text each time."""
        shown = (f"{row.mmu} {row.total.all_references}/{row.total.all_exits}" for row in self.rows)
        what = f"{self.rows[0].trace!r}, {self.rows[0].records} records; " if self.rows else ""
        return f"ModesLab({what}references/exits: {', '.join(shown) or 'none'})"

    def finish(self) -> None:
        """Complete what is running, if anything is; then ``rows`` are those asked for."""
        for _ in self._job or ():
            pass

    # -- making ---------------------------------------------------------------------------

    def _make_trace(self, trace: str, records: int | None) -> None:
        own, words = trace not in workloads.SHIPPED, self._words
        wide = {"description_width": "initial"}
        self.trace = _dropdown((*reversed(workloads.SHIPPED), OWN), OWN if own else trace)
        words.on(self.trace, "modes.control.trace")
        words.options(self.trace, _trace_names)
        self.file = widgets.Text(
            value=trace if own else "",
            continuous_update=False,
            style=wide,
            layout=widgets.Layout(width="360px", display=None if own else "none"),
        )
        words.on(self.file, "modes.control.file")
        words.on(self.file, "modes.control.file.hint", "placeholder")
        amounts = sorted({*AMOUNTS, records or AMOUNTS[0]})
        self.records = _dropdown((*amounts, ALL), records or ALL)
        words.on(self.records, "modes.control.records")
        words.options(self.records, lambda: _amount_names(amounts))

    def _make_choices(self, designs: set[str], policy: str, costs: str) -> None:
        words = self._words
        self.designs = {mmu: self._checkbox(mmu, chosen=mmu in designs) for mmu in DESIGNS}
        self.policy = _dropdown([one.name for one in POLICIES], policy)
        words.on(self.policy, "modes.control.policy")
        words.options(self.policy, _policy_names)
        self.costs = _dropdown([one.name for one in MODELS], costs)
        words.on(self.costs, "modes.control.costs")
        words.options(self.costs, model_names)

    def _checkbox(self, mmu: str, *, chosen: bool) -> widgets.Checkbox:
        layout = widgets.Layout(width="max-content", margin="2px 16px 2px 2px")
        box = widgets.Checkbox(value=chosen, indent=False, layout=layout)
        return self._words.on(box, f"design.{mmu}")

    def _make_outputs(self) -> None:
        self.progress = widgets.FloatProgress(max=1.0, layout=widgets.Layout(width="240px"))
        self.done = widgets.HTML()
        self.stop = self._words.on(widgets.Button(), "modes.control.stop")
        self.notice = Notice()
        self.sentence = widgets.HTML()
        self.sentence.add_class("kvm-modes-sentence")
        self.charts = widgets.GridBox(
            layout=widgets.Layout(
                grid_gap="16px",
                width="100%",
            )
        )
        self.table = widgets.HTML()

    def _observe(self) -> None:
        controls = (self.trace, self.file, self.records, self.policy, *self.designs.values())
        for control in controls:
            control.observe(lambda _change: self._run(), names="value")
        self.costs.observe(self._reprice, names="value")
        self.language.observe(self._speak, names="value")
        self.stop.on_click(lambda _button: self._stopped())

    # -- running --------------------------------------------------------------------------

    def _run(self) -> None:
        """Begin what the controls ask for, in place of what is running."""
        if self._words.busy:
            return
        self._halt()
        self.file.layout.display = None if self.trace.value == OWN else "none"
        self._job = self._guarded()
        next(self._job, None)  # what has run before is shown without delay
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no browser to serve meanwhile
            self.finish()
        else:
            self._task = loop.create_task(_in_slices(self._job))

    def _halt(self) -> None:
        if self._job:
            self._job.close()

    def _stopped(self) -> None:
        self._halt()
        with self._spoken():
            self.done.value = escape(say("modes.stopped"))
        self.done.layout.display = None

    def _guarded(self) -> Job:
        """The work; what goes wrong in it becomes a message, and what was shown stays."""
        try:
            with self.notice.watching():
                yield from self._work()
        finally:
            self._show_progress(None)

    def _work(self) -> Job:
        source = self.file.value.strip() if self.trace.value == OWN else self.trace.value
        if not source:
            return
        state, trace = self._read(source)
        records = self.records.value
        part = trace.head(records) if records else trace
        wanted = []
        for mmu in [mmu for mmu, box in self.designs.items() if box.value]:
            options = {"policy": self.policy.value} if mmu in SHADOWING else {}
            key = state, len(part), mmu, options.get("policy", "")
            if key not in self._results:
                self._results[key] = yield from self._watched(mmu, study(part, mmu, **options))
            wanted.append(key)
        self._show([self._results[key] for key in wanted])

    def _read(self, source: str) -> tuple[State, Trace]:
        """The trace, read again only if its file has changed."""
        own = self.trace.value == OWN
        changed = Path(source).stat().st_mtime_ns if own and Path(source).is_file() else 0
        if not self._loaded or self._loaded[0] != (source, changed):
            trace = workloads.trace_named(source) if own else workloads.shipped(source)
            self._loaded = (source, changed), trace
        return self._loaded

    def _watched(self, mmu: str, run: Study) -> Generator[None, None, Row]:
        """Run one design to its end, in slices, and show how far it is."""
        moved = time.monotonic()
        while True:
            try:
                done, total = next(run)
            except StopIteration as end:
                return end.value
            if not done or time.monotonic() - moved > BLINK:
                moved = time.monotonic()
                self._show_progress(done / total, mmu, done, total)
            yield

    # -- showing --------------------------------------------------------------------------

    @guarded
    def _speak(self, _change: object = None) -> None:
        """Say everything in the language chosen; nothing is run again."""
        self.notice.language = self.language.value
        with self._spoken():
            self._words.speak()
            self._tell(self.rows)

    def _spoken(self) -> AbstractContextManager[None]:
        return speaking(self.language.value)

    @guarded
    def _reprice(self, _change: object = None) -> None:
        """The same counts at other prices; nothing is run again."""
        if not self._words.busy:
            self._show(self.rows)

    def _show(self, rows: list[Row]) -> None:
        prices = model_named(self.costs.value)
        self.rows = [replace(row, prices=prices) for row in rows]
        with self._spoken():
            self._tell(self.rows)

    def _tell(self, rows: list[Row]) -> None:
        self.sentence.value = f'<p role="status">{escape(figures.sentence(rows))}</p>'
        self.table.value = STYLE + (table_html(figures.table(rows)) if rows else "")
        self.charts.layout.display = None if rows else "none"
        if rows:
            self._show_charts([figures.references(rows), figures.exits(rows), figures.cycles(rows)])

    def _show_charts(self, charts: list[figures.Chart]) -> None:
        self.charts.layout.grid_template_columns = columns(charts)
        if self._bars:
            for bars, chart in zip(self._bars, charts, strict=True):
                bars.show(chart)
            return
        try:
            self._bars = [Bars(chart) for chart in charts]
        except ImportError:
            self.charts.children = [widgets.HTML(escape(say("modes.nochart")))]
        else:
            self.charts.children = self._bars

    def _show_progress(
        self, share: float | None, mmu: str = "", done: int = 0, total: int = 0
    ) -> None:
        for one in (self.progress, self.done, self.stop):
            one.layout.display = "none" if share is None else None
        self.progress.value = share or 0.0
        if share is not None:
            numbers = {"done": figures.number(done), "total": figures.number(total)}
            with self._spoken():
                words = say("modes.progress", design=figures.design(mmu), **numbers)
            self.done.value = escape(words)


async def _in_slices(job: Job) -> None:
    """Do ``job``, giving the browser its turn between two slices."""
    for _ in job:
        await asyncio.sleep(0)


def _dropdown(options: Sequence[object], value: object) -> widgets.Dropdown:
    return widgets.Dropdown(
        options=options,
        value=value,
        style={"description_width": "initial"},
        layout=widgets.Layout(width="max-content", max_width="calc(100% - 4px)"),
    )


def _trace_names() -> list[tuple[str, str]]:
    shipped = [(name, name) for name in reversed(workloads.SHIPPED)]
    return [*shipped, (say("modes.control.own"), OWN)]


def _amount_names(amounts: Sequence[int]) -> list[tuple[str, int]]:
    first = [(say("modes.control.first", number=figures.number(n)), n) for n in amounts]
    return [*first, (say("modes.control.all"), ALL)]


def _policy_names() -> list[tuple[str, str]]:
    return [(say(f"modes.policy.option.{one.name}"), one.name) for one in POLICIES]


def _line(*controls: widgets.Widget) -> widgets.Box:
    """Controls side by side, on as many lines as the width asks for."""
    layout = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 16px")
    return widgets.Box(controls, layout=layout)
