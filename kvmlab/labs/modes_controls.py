"""The controls of the lab of the designs, and what they may say."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from kvmlab import workloads
from kvmlab.base.errors import BadChoice
from kvmlab.figures import modes as figures
from kvmlab.figures.costs import model_names
from kvmlab.kvm.policy import POLICIES, policy_named
from kvmlab.labs.guard import guarded
from kvmlab.labs.lab import Lab
from kvmlab.machine import DESIGNS
from kvmlab.study.comparison import MACHINE
from kvmlab.study.costs import MODELS, model_named
from kvmlab.study.crossing import CALM
from kvmlab.study.own_process import OwnProcess
from kvmlab.study.share import Plan
from kvmlab.text import say, speaking

OWN = "own"  # the choice of a file of the learner's own
AMOUNTS = (20_000, 100_000)
ALL = 0  # the choice of all records; None would be no choice at all
VCPUS = (1, 2, 4)


class ModesControls(Lab):
    """Trace, designs, prices and the rest, as widgets; the lab that has them does the running."""

    _look: OwnProcess | None  # at a machine of the learner's own, if the lab is for that
    _source = ""  # the trace that the controls show

    @abstractmethod
    def look_again(self, _button: object = None) -> None:
        """Run anew what a process of one's own has used by now."""

    @abstractmethod
    def _stopped(self, _button: object = None) -> None:
        """Run no further."""

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
