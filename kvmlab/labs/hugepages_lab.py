"""4K, THP, hugetlbfs in guest and host: the lab of huge pages."""

from collections.abc import Callable
from html import escape
from types import MappingProxyType

import ipywidgets

from kvmlab.figures.hugepages import hugepages_scene
from kvmlab.figures.hugepages_words import (
    buddy_table,
    diagnoses,
    numbers_table,
    reach_table,
    served_chart,
    served_table,
    summary,
)
from kvmlab.figures.scene import Scene, Table
from kvmlab.labs.charts import Bars
from kvmlab.labs.guard import guarded
from kvmlab.labs.lab import Lab
from kvmlab.study.hugepages import VERBS, HugePages, compared
from kvmlab.study.hugepages_beginning import CHOICES, Beginning, usual_plan
from kvmlab.study.hugepages_moments import Moment
from kvmlab.study.hugepages_served import Served
from kvmlab.study.story import Story
from kvmlab.text import say

WAIT = 10  # seconds: khugepaged wakes so often
LAST = 1_000_000  # a step beyond any scene: its last
WIDE = MappingProxyType({"description_width": "initial"})


class HugePagesLab(Lab):
    """A guest of 20 MiB (of 3 GiB with pages of 1G), its pages, and those of its host.

    The desk follows the player: no number stands there that is still asked for.  Scripts read
    ``experiment`` and ``moment``.
    """

    NAME = "hugepages"
    BEGINNING = MappingProxyType(usual_plan())

    # -- controls -----------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        self._story = Story(lambda plan: HugePages(Beginning.of(plan)), VERBS)
        self._settled: set[int] = set()
        self._showing = False
        self._chart: Bars | None = None
        self._charted: object = None
        self.charts = ipywidgets.VBox([ipywidgets.HTML()])
        self.desk.add_class("kvm-modes")
        setting = [self._choice(name) for name in CHOICES]
        self.buttons = {
            verb: self._button(f"lab.huge.do.{verb}", self._doer(verb, *([WAIT] * len(one.takes))))
            for verb, one in VERBS.items()
        }
        self.player.observe(self._stepped, names=["step", "answer"])
        return [self._row(*setting), self._row(*self.buttons.values())]

    def _choice(self, name: str) -> ipywidgets.Widget:
        """The control of one thing that the beginning says."""
        control: ipywidgets.Widget
        if isinstance(CHOICES[name][0], bool):
            control = self._toggle(f"lab.huge.{name}")
        else:
            control = ipywidgets.Dropdown(
                options=[(str(value), value) for value in CHOICES[name]],
                value=getattr(Beginning(), name),
                style=dict(WIDE),
                layout=ipywidgets.Layout(width="max-content"),
            )
            self._words.on(control, f"lab.huge.{name}")
            self._words.options(control, lambda: _options(name))
        setattr(self, name, control)
        return self._bind(name, control)

    def _doer(self, verb: str, *values: object) -> Callable[[object], None]:
        return lambda _button: self.do(verb, *values)

    # -- what is seen ---------------------------------------------------------------------------

    def _reach(self, plan: dict[str, object]) -> None:
        self.experiment = self._story.reach(plan)

    def _scene(self) -> Scene:
        did = self.experiment
        self._telling = hugepages_scene(did.moments, did.deed, did.beginning)
        return self._telling.scene

    def _show(self, step: int) -> None:
        """With questions from the first step on; without, what came of it is there at once."""
        self._settled = set()
        self._showing = True
        try:
            super()._show(step if self.predict.value else LAST)
        finally:
            self._showing = False

    @guarded
    def _stepped(self, change: object) -> None:
        """The learner went to another step, or answered: the numbers follow."""
        if self._showing:
            return
        if getattr(change, "name", "") == "answer" and "step" in self.player.answer:
            self._settled.add(int(self.player.answer["step"]))
        self._retell(change)
        self._draw_charts()

    @property
    def hidden(self) -> bool:
        """Whether a question is open on the step shown."""
        step = self.player.step
        return self.player.scene["steps"][step]["ask"] is not None and step not in self._settled

    @property
    def moment(self) -> Moment:
        """What is shown: nothing behind an open question, and nothing of a deed before it."""
        first_shown = self._telling.shown[self.player.step]
        return self.experiment.moments[0 if self.hidden else first_shown]

    def _facts(self) -> list[str]:
        return [summary(self.moment), *diagnoses(self.moment, self.experiment.beginning)]

    def _tables(self) -> list[Table]:
        first, now = self.experiment.moments[0], self.moment
        tables = [numbers_table(first, now), buddy_table(first, now)]
        tables.append(reach_table(self.experiment.beginning))
        if rows := self._rows():
            tables.append(served_table(served_chart(rows[:-1], rows[-1]), rows))
        return tables

    def _rows(self) -> list[Served]:
        """What requests cost with the usual pairs, and last, as served so far, with mine."""
        did = self.experiment
        seen = did.history[: len(did.history) - 1]
        seen = [*seen, self.moment] if self.moment is did.history[-1] else seen
        mine = next((one.served for one in reversed(seen) if one.served), None)
        return [*compared(did.beginning.geometry), mine] if mine else []

    def _views(self) -> list[ipywidgets.Widget]:
        return [self.player]

    def _below(self) -> list[ipywidgets.Widget]:
        return [self.charts]

    def _draw_charts(self) -> None:
        rows = self._rows()
        if not rows:
            self._charted = None
            self._place(self._line("huge.chart.none"))
            return
        key = (self._language, *rows)
        if key == self._charted:
            return
        self._charted = key
        chart = served_chart(rows[:-1], rows[-1])
        if self._chart:
            self._chart.show(chart)
        else:
            try:
                self._chart = Bars(chart)
            except ImportError:
                self._place(self._line("modes.nochart"))
                return
        self._place(self._chart)

    def _line(self, key: str) -> ipywidgets.HTML:
        """The sentence that stands where a chart will be."""
        if not hasattr(self, "_empty"):
            self._empty = ipywidgets.HTML()
            self._empty.add_class("kvm-modes")
        self._empty.value = escape(say(key))
        return self._empty

    def _place(self, widget: ipywidgets.Widget) -> None:
        if self.charts.children != (widget,):
            self.charts.children = (widget,)

    def _code(self, plan: dict[str, object]) -> str:
        usual = Beginning()
        chosen = [f"{n}={plan[n]!r}" for n in CHOICES if plan[n] != getattr(usual, n)]
        deeds = [deed for deed in self._did() if isinstance(deed, list)]
        lines = [
            "from kvmlab.study.hugepages import HugePages",
            "from kvmlab.study.hugepages_beginning import Beginning",
            "",
            f"experiment = HugePages(Beginning({', '.join(chosen)}))",
            *(f"experiment.{verb}({', '.join(map(repr, given))})" for verb, *given in deeds),
            "moment = experiment.history[-1]",
            "print(moment.touched, moment.rss, moment.hugetlb, moment.ept[moment.at])",
        ]
        return "\n".join(lines)


def _options(name: str) -> list[tuple[str, object]]:
    """The choices of one control, in words where they are not names of the field."""
    values = CHOICES[name]
    if name == "host":
        return [(say(f"huge.page.{value}"), value) for value in values]
    if name == "offset":
        return [(say("lab.huge.kib", number=value), value) for value in values]
    return [(str(value), value) for value in values]
