"""Many VMs on one host for a day: the lab of overcommitment."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from html import escape
from types import MappingProxyType

import ipywidgets

from kvmlab.figures.curves import Curves
from kvmlab.figures.lecture import Lecture, overcommit_lecture
from kvmlab.figures.overcommit import (
    day_scene,
    memory_curves,
    placed_sentence,
    price_sentences,
    traffic_curves,
    vm_table,
)
from kvmlab.figures.scene import Scene, Table
from kvmlab.labs.charts import LinesPlace
from kvmlab.labs.stepped import SteppedLab
from kvmlab.labs.turns import turn_of_others
from kvmlab.management.balloon_manager import Manager
from kvmlab.study.overcommit import (
    CHOICES,
    HOURS,
    MOST_VMS,
    OWN,
    Day,
    Setting,
    Tick,
    usual_plan,
)
from kvmlab.text import count, say, speaking

AT_ONCE = 0.02  # seconds of a day's work before the first hours of it are shown
SLICE = 0.04
CHARTS = ("memory", "traffic")
WIDE = MappingProxyType({"description_width": "initial"})


class OvercommitLab(SteppedLab):
    """A host of 32 GiB, nova's ratio, and a day of the VMs that it let in.

    A day that takes long goes on in slices; `finish` completes it.  Scripts read ``day``.
    ``manager`` is a balloon manager of the learner's own (management/balloon_manager.py).
    """

    NAME = "overcommit"
    BEGINNING = MappingProxyType(usual_plan())

    def __init__(self, share: str = "", manager: Manager | str = "none", **chosen: object) -> None:
        """As `Lab`; raises what ``manager`` raises, if that is a function."""
        self._own = None if isinstance(manager, str) else manager
        self._day: Day | None = None
        self._job: Iterator[Tick] | None = None
        self._task: asyncio.Task[None] | None = None
        named = manager if isinstance(manager, str) else OWN
        super().__init__(share, manager=named, **chosen)

    @property
    def day(self) -> Day:
        """The experiment."""
        assert self._day is not None  # noqa: S101  made by the first `_reach`
        return self._day

    @property
    def tick(self) -> Tick:
        """What is shown of it."""
        return self.day.ticks[self.at]

    def finish(self) -> None:
        """Complete the day, if it is not over yet; raises what a manager of one's own raises."""
        if self._job:
            try:
                self._advance(float("inf"))
            finally:
                self._end()

    # -- controls -----------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        words = self._words
        self.charts = LinesPlace()
        self.desk.add_class("kvm-modes")
        wide = ipywidgets.Layout(width="360px", max_width="100%")
        given = {"continuous_update": False, "style": dict(WIDE), "layout": wide}
        self.ratio = ipywidgets.FloatSlider(value=1.5, min=1.0, max=3.0, step=0.1, **given)
        self.ratio.readout_format = ".1f"
        self.wanted = ipywidgets.IntSlider(value=16, min=1, max=MOST_VMS, **given)
        self.names = ipywidgets.Text(**given)
        self.ksm = self._toggle("lab.overcommit.ksm")
        for name in ("ratio", "wanted", "names"):
            words.on(getattr(self, name), f"lab.overcommit.{name}")
        lists = {**{n: CHOICES[n] for n in CHOICES if n != "ksm"}, "chart": CHARTS}
        if not self._own:
            lists["manager"] = tuple(one for one in lists["manager"] if one != OWN)
        for name, values in lists.items():
            setattr(self, name, self._list(name, values))
        for name in (*(one.name for one in fields(Setting)), "chart"):
            self._bind(name, getattr(self, name))
        self._make_progress()
        self._follow_steps()
        return [
            self._row(self.ratio, self.wanted),
            self._row(*(getattr(self, name) for name in lists if name != "chart"), self.ksm),
            self._row(self.names, self.chart),
            self._row(self.progress, self.done, self.stop),
        ]

    def _list(self, name: str, values: tuple[object, ...]) -> ipywidgets.Dropdown:
        control = ipywidgets.Dropdown(
            options=[(str(value), value) for value in values],
            value=usual_plan()[name],
            style=dict(WIDE),
            layout=ipywidgets.Layout(width="max-content"),
        )
        self._words.on(control, f"lab.overcommit.{name}")
        if isinstance(values[0], str):
            options: Callable[[], list[tuple[str, object]]] = lambda: [  # noqa: E731
                (say(f"lab.overcommit.{name}.{value}"), value) for value in values
            ]
            self._words.options(control, options)
        return control

    def _make_progress(self) -> None:
        self.progress = ipywidgets.FloatProgress(max=1.0, layout={"width": "240px"})
        self.done = ipywidgets.HTML()
        self.stop = self._button("lab.overcommit.stop", lambda _button: self._halt(told=True))
        for one in (self.progress, self.done, self.stop):
            one.layout.display = "none"

    # -- the day --------------------------------------------------------------------------------

    def _reach(self, plan: dict[str, object]) -> None:
        setting = Setting.of(plan)
        if self._day and self._day.setting == setting:
            return
        day = Day(setting, self._own)
        self._halt()
        self._day, self._job = day, day.run()
        self._advance(AT_ONCE if _looping() else float("inf"))

    def _advance(self, seconds: float) -> None:
        """Go on with the day for so long, at least by an hour."""
        until = time.monotonic() + seconds
        for _tick in self._job or ():
            if time.monotonic() > until:
                return
        self._job = None

    def _halt(self, *, told: bool = False) -> None:
        """Leave the day as far as it is."""
        if self._task:
            self._task.cancel()
        self._task = self._job = None
        if told:
            with speaking(self._language):
                self.done.value = escape(say("lab.overcommit.stopped", hour=self._until))
        self.progress.layout.display = self.stop.layout.display = "none"
        self.done.layout.display = None if told else "none"

    @property
    def _until(self) -> str:
        return f"{self.day.ticks[-1].hour}:00"

    async def _go_on(self) -> None:
        """The rest of the day, slice by slice, with the browser's turn between two."""
        with self.notice.watching():
            try:
                while self._job:
                    await turn_of_others()
                    self._advance(SLICE)
                    if self._job:
                        self._tell_progress()
            except Exception:
                self._task = None
                self._end()  # the hours before are shown, and whatever is chosen next is a new day
                raise
            self._task = None
            self._end()

    def _end(self) -> None:
        """Nothing more will come of the day: show what there is of it."""
        self._halt()
        with speaking(self._language):
            self._show(self.player.step)

    def _tell_progress(self) -> None:
        for one in (self.progress, self.done, self.stop):
            one.layout.display = None
        self.progress.value = self.day.ticks[-1].hour / HOURS
        with speaking(self._language):
            self.done.value = escape(say("lab.overcommit.progress", hour=self._until))

    # -- what is seen ---------------------------------------------------------------------------

    def _show(self, step: int) -> None:
        super()._show(step)
        if self._job and not self._task and _looping():
            self._task = asyncio.get_running_loop().create_task(self._go_on())

    def _scene(self) -> Scene:
        day = self.day
        self._shown = range(len(day.ticks))
        return day_scene(day.setting, day.placed, day.ticks)

    def _facts(self) -> list[str]:
        day = self.day
        if self._hidden:
            return [count("overcommit.ahead", self.ahead)]
        told = [placed_sentence(day.setting, day.placed)]
        told += price_sentences(day.placed, day.ticks[: self.at + 1])
        return told + ([count("overcommit.ahead", self.ahead)] if self.ahead else [])

    def _tables(self) -> list[Table]:
        return [] if self._hidden else [vm_table(self.tick), self._curves().table(HOURS + 1)]

    @property
    def _hidden(self) -> bool:
        """Whether the first question is open: then there is nothing before it to show."""
        steps = self.player.scene["steps"]
        return self.player.step == 0 and bool(steps[0]["ask"]) and 0 not in self._settled

    @property
    def ahead(self) -> int:
        """How many hours are still to come, be they computed yet or not."""
        return HOURS - self.player.step if self._job else super().ahead

    def _curves(self) -> Curves:
        draw = traffic_curves if self.plan["chart"] == "traffic" else memory_curves
        return draw(self.day.ticks[: self.at + 1])

    def _below(self) -> list[ipywidgets.Widget]:
        return [self.charts]

    def _draw_charts(self) -> None:
        self.charts.show(self._curves())

    def _lecture(self) -> Lecture:
        self.finish()
        return overcommit_lecture(self.day)

    def _code(self, plan: dict[str, object]) -> str:
        setting, usual = Setting.of(plan), Setting()
        names = [one.name for one in fields(Setting)]
        chosen = [
            f"{name}={getattr(setting, name)!r}"
            for name in names
            if getattr(setting, name) != getattr(usual, name)
        ]
        own = ", manager" if setting.manager == OWN else ""
        return "\n".join(
            [
                "from kvmlab.study.overcommit import Day, Setting",
                "",
                *(["# manager is the function that you gave to the lab"] if own else []),
                f"day = Day(Setting({', '.join(chosen)}){own})",
                "for tick in day.run():",
                "    print(tick.hour, tick.free, tick.swapped, tick.killed)",
            ]
        )


def _looping() -> bool:
    """Whether a browser is served meanwhile."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
