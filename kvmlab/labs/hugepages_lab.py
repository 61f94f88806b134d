"""4K, THP, hugetlbfs in guest and host: the lab of huge pages."""

from collections.abc import Callable
from html import escape
from types import MappingProxyType

import ipywidgets

from kvmlab.base.errors import BadChoice
from kvmlab.figures.hugepages import hugepages_scene
from kvmlab.figures.hugepages_words import (
    buddy_table,
    diagnoses,
    latency_chart,
    latency_reasons,
    latency_table,
    numbers_table,
    reach_table,
    served_chart,
    served_table,
    summary,
)
from kvmlab.figures.lecture import Lecture, hugepages_lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.hardware.geometries import geometry_key
from kvmlab.labs.charts import Bars, warmed
from kvmlab.labs.controls import choice
from kvmlab.labs.stepped import SteppedLab
from kvmlab.machine import Machine
from kvmlab.management.domain import virDomain
from kvmlab.study.hugepages import VERBS, HugePages, compared
from kvmlab.study.hugepages_beginning import CHARTS, CHOICES, Beginning, usual_plan
from kvmlab.study.hugepages_look import PagesLook
from kvmlab.study.hugepages_moments import Moment
from kvmlab.study.hugepages_served import Served
from kvmlab.study.share import Plan
from kvmlab.study.story import Story
from kvmlab.text import say

OWN_CODE = """\
from kvmlab.study.hugepages_look import PagesLook

look = PagesLook(domain)  # your own, or your machine
look.again()  # look.moments: how it was, and how it is"""
LOOK = 2  # the step at which EPT is looked at, if it is
WAIT = 10  # seconds: khugepaged wakes so often


class HugePagesLab(SteppedLab):
    """A guest of 20 MiB (of 3 GiB with pages of 1G), its pages, and those of its host.

    The desk follows the player: no number stands there that is still asked for.  Scripts read
    ``experiment`` and ``moment``.  A guest of your own is looked at as it is, and compared with
    the look before.
    """

    NAME = "hugepages"
    BEGINNING = MappingProxyType(usual_plan())

    def __init__(
        self, own: virDomain | Machine | None = None, share: str = "", **chosen: object
    ) -> None:
        """The lab, or looks at ``own``.  Raises `BadChoice` for one that cannot be looked at."""
        self._look: PagesLook | None = PagesLook(own) if own is not None else None
        super().__init__(share, **chosen)
        self._warm = None if self._look else warmed()  # its chart comes late

    # -- controls -----------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        self._chart: Bars | None = None
        self._charted: object = None
        self._empty = ipywidgets.HTML()
        self._empty.add_class("kvm-modes")
        self.charts = ipywidgets.VBox()
        self.desk.add_class("kvm-modes")
        self._follow_steps()
        if self._look:
            self.again = self._button("lab.own.again", self.look_again)
            return [self._row(self.again)]
        self._story = Story(lambda plan: HugePages(Beginning.of(plan)), VERBS)
        setting = [self._choice(name) for name in CHOICES]
        self.chart = choice(self._words, "lab.huge.chart", CHARTS, _charts)
        self._bind("chart", self.chart)
        self.buttons = {
            verb: self._button(f"lab.huge.do.{verb}", self._doer(verb, *([WAIT] * len(one.takes))))
            for verb, one in VERBS.items()
        }
        return [self._row(*setting, self.chart), self._row(*self.buttons.values())]

    def _choice(self, name: str) -> ipywidgets.Widget:
        """The control of one thing that the beginning says."""
        control: ipywidgets.Widget
        if isinstance(CHOICES[name][0], bool):
            control = self._toggle(f"lab.huge.{name}")
        else:
            key = f"lab.huge.{name}"
            control = choice(self._words, key, CHOICES[name], lambda: _options(name))
        setattr(self, name, control)
        return self._bind(name, control)

    def _doer(self, verb: str, *values: object) -> Callable[[object], None]:
        return lambda _button: self.do(verb, *values)

    # -- what is seen ---------------------------------------------------------------------------

    def _checked(self, plan: Plan) -> dict[str, object]:
        checked = super()._checked(plan)
        if checked["chart"] not in CHARTS:
            raise BadChoice(f"chart is one of {', '.join(CHARTS)}, not {checked['chart']!r:.40}")
        return checked

    def _reach(self, plan: dict[str, object]) -> None:
        told = ("chart", "language")  # which change no machine
        if self._look is None:
            reached = self._story.reach({k: v for k, v in plan.items() if k not in told})
            self.experiment: HugePages | PagesLook = reached
            return
        if any(plan[name] != self.BEGINNING[name] for name in (*CHOICES, "did")):
            raise BadChoice(say("lab.own.guest"))
        self.experiment = self._look

    def _scene(self) -> Scene:
        did = self.experiment
        telling = hugepages_scene(did.moments, did.deed, did.beginning)
        self._shown = telling.shown
        return telling.scene

    @property
    def moment(self) -> Moment:
        """What is shown: nothing of a deed before its step, or behind an open question."""
        return self.experiment.moments[self.at]

    def _facts(self) -> list[str]:
        if not self._looked:
            return [summary(self.moment, looked=False)]
        facts = [summary(self.moment), *diagnoses(self.moment, self.experiment.beginning)]
        return facts + (latency_reasons(self._rows()) if self.plan["chart"] == "latency" else [])

    @property
    def _looked(self) -> bool:
        """Whether nothing of EPT is still asked for, or kept for the step that looks at it."""
        if not self.at or len(self._shown) <= LOOK:
            return True
        asked = self.player.scene["steps"][LOOK]["ask"] is not None
        return self.player.step == LOOK and (not asked or LOOK in self._settled)

    def _tables(self) -> list[Table]:
        first, now = self.experiment.moments[0], self.moment
        tables = [numbers_table(first, now), buddy_table(first, now)]
        tables.append(reach_table(self.experiment.tlb))
        if rows := self._rows():
            chart = served_chart(rows[:-1], rows[-1])
            tables += [served_table(chart, rows), latency_table(chart, rows)]
        return tables

    def _rows(self) -> list[Served]:
        """What requests cost with the usual pairs, and last, as served so far, with mine."""
        did = self.experiment
        seen = did.history if self.moment is did.history[-1] else did.history[:-1]
        mine = next((one.served for one in reversed(seen) if one.served), None)
        return [*compared(geometry_key(did.tlb)), mine] if mine else []

    def _views(self) -> list[ipywidgets.Widget]:
        return [self.player]

    def _below(self) -> list[ipywidgets.Widget]:
        return [self.charts]

    def _draw_charts(self) -> None:
        if self._look:  # nobody sends it requests
            return
        rows = self._rows()
        if not rows:
            self._charted = None
            self._place(self._line("huge.chart.none"))
            return
        draw = latency_chart if self.plan["chart"] == "latency" else served_chart
        key = (self._language, draw, *rows)
        if key == self._charted:
            return
        self._charted = key
        chart = draw(rows[:-1], rows[-1])
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
        self._empty.value = escape(say(key))
        return self._empty

    def _place(self, widget: ipywidgets.Widget) -> None:
        if self.charts.children != (widget,):
            self.charts.children = (widget,)

    def _lecture(self) -> Lecture:
        return hugepages_lecture(self.experiment)

    def _code(self, plan: dict[str, object]) -> str:
        if self._look:
            return OWN_CODE
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


def _charts() -> list[tuple[str, str]]:
    return [(say(f"lab.huge.chart.{name}"), name) for name in CHARTS]


def _options(name: str) -> list[tuple[str, object]]:
    """The choices of one control, in words where they are not names of the field."""
    values = CHOICES[name]
    if name in ("guest", "host"):
        return [(say(f"huge.page.{value}"), value) for value in values]
    if name == "offset":
        return [(say("lab.huge.kib", number=value), value) for value in values]
    return [(str(value), value) for value in values]
