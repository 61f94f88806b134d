"""Inflate and deflate: the lab of the balloon."""

from collections.abc import Callable
from html import escape
from types import MappingProxyType

import ipywidgets

from kvmlab.base.errors import BadChoice
from kvmlab.figures.balloon import balloon_curves, balloon_scene, buddy_table, numbers_table
from kvmlab.figures.balloon_diagnosis import diagnoses, summary
from kvmlab.figures.curves import Curves
from kvmlab.figures.lecture import Lecture, balloon_lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.labs.charts import LinesPlace
from kvmlab.labs.stepped import SteppedLab
from kvmlab.machine import Machine
from kvmlab.management.domain import virDomain
from kvmlab.study.inflation import VERBS, Inflation
from kvmlab.study.inflation_beginning import CHOICES, DOMAIN, MIB, RAM, Beginning, usual_plan
from kvmlab.study.inflation_look import Look
from kvmlab.study.inflation_moments import Moment
from kvmlab.study.story import Story
from kvmlab.text import count, say

WAITS = (1, 10)  # seconds
OWN_CODE = """\
from kvmlab.study.inflation_look import Look

look = Look(domain)  # your own, or your machine
look.again()  # what happened since: look.moments"""
WIDE = MappingProxyType({"description_width": "initial"})


class BalloonLab(SteppedLab):
    """A guest of 16 MiB, its balloon, and what its host really gets back.

    The desk follows the player: it shows the numbers of the step where the learner is, and not
    those behind a question that is still open.  Scripts read ``experiment`` and ``moment``.
    With a domain or machine of your own, each look shows what happened since the one before.
    """

    NAME = "balloon"
    BEGINNING = MappingProxyType(usual_plan())

    def __init__(
        self, own: virDomain | Machine | None = None, share: str = "", **chosen: object
    ) -> None:
        """The lab, or looks at ``own``.  Raises `BadChoice` for one that cannot be looked at."""
        self._look: Look | None = Look(own) if own is not None else None
        super().__init__(share, **chosen)

    # -- controls -----------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        self.charts = LinesPlace()
        self.desk.add_class("kvm-modes")
        self._follow_steps()
        if self._look:
            self.again = self._button("lab.own.again", self.look_again)
            return [self._row(self.again)]
        self._story = Story(lambda plan: Inflation(Beginning.of(plan)), VERBS)
        setting = [self._choice(name) for name in CHOICES]
        return [self._row(*setting), self._row(*self._deeds())]

    def _choice(self, name: str) -> ipywidgets.Widget:
        """The control of one thing that the beginning says."""
        control: ipywidgets.Widget
        if isinstance(CHOICES[name][0], bool):
            control = self._toggle(f"lab.balloon.{name}")
        else:
            control = ipywidgets.Dropdown(
                options=[(str(value), value) for value in CHOICES[name]],
                value=getattr(Beginning(), name),
                style=dict(WIDE),
                layout=ipywidgets.Layout(width="max-content"),
            )
            self._words.on(control, f"lab.balloon.{name}")
            self._words.options(control, lambda: _options(name))
        setattr(self, name, control)
        return self._bind(name, control)

    def _deeds(self) -> list[ipywidgets.Widget]:
        words = self._words
        self.target = ipywidgets.IntSlider(
            value=RAM // MIB,
            min=1,
            max=RAM // MIB,
            continuous_update=False,
            style=dict(WIDE),
            layout=ipywidgets.Layout(width="320px", max_width="100%"),
        )
        words.on(self.target, "lab.balloon.target")
        self.target.observe(lambda change: self._wish(change.new), names="value")
        self.buttons = {
            verb: self._button(f"lab.balloon.do.{verb}", self._doer(verb))
            for verb in ("grow", "shrink", "work", "read", "modprobe")
        }
        self.waits = {
            seconds: self._button(f"lab.balloon.do.wait.{seconds}", self._doer("wait", seconds))
            for seconds in WAITS
        }
        return [self.target, *self.waits.values(), *self.buttons.values()]

    def _doer(self, verb: str, *values: object) -> Callable[[object], None]:
        return lambda _button: self.do(verb, *values)

    def _wish(self, mib: int) -> None:
        """A target was chosen."""
        if not self._words.busy:
            self.do("setmem", mib * 1024)

    def _follow(self) -> None:
        """The target shown is the one that was asked for last."""
        super()._follow()
        if self._look:
            return
        target = self.experiment.history[-1].target
        with self._words.replacing():
            self.target.value = -(-target // MIB)

    # -- what is seen ---------------------------------------------------------------------------

    def _reach(self, plan: dict[str, object]) -> None:
        if self._look is None:
            self.experiment: Inflation | Look = self._story.reach(plan)
            return
        if any(plan[name] != self.BEGINNING[name] for name in (*CHOICES, "did")):
            raise BadChoice(say("lab.own.guest"))
        self.experiment = self._look

    def _scene(self) -> Scene:
        did = self.experiment
        telling = balloon_scene(did.moments, did.deed, did.beginning)
        self._shown = telling.shown
        return telling.scene

    @property
    def moment(self) -> Moment:
        """What is shown."""
        return self.experiment.moments[self.at]

    @property
    def dommemstat(self) -> str:
        """What ``virsh dommemstat`` printed last, by the moment shown."""
        return self.moment.stats or self.experiment.moments[0].stats

    def _facts(self) -> list[str]:
        more = [count("balloon.ahead", self.ahead)] if self.ahead else []
        return [summary(self.moment), *more, *diagnoses(self._seen(), self.experiment.beginning)]

    def _middle(self) -> str:
        if not self.dommemstat:  # no libvirt knows this machine
            return ""
        name = escape(f"virsh dommemstat {self._look.name if self._look else DOMAIN}")
        return (
            f'<section class="kvmlab-panel" aria-label="{name}"><strong>{name}</strong>'
            f'<pre tabindex="0" class="kvmlab-dommemstat">{escape(self.dommemstat)}</pre></section>'
        )

    def _tables(self) -> list[Table]:
        first, now = self.experiment.moments[0], self.moment
        return [numbers_table(first, now), buddy_table(first, now), self._curves().table()]

    def _seen(self) -> list[Moment]:
        """Everything up to the moment shown."""
        did = self.experiment
        return did.history[: len(did.history) - len(did.moments) + 1 + self.at]

    def _curves(self) -> Curves:
        return balloon_curves(self._seen())

    def _views(self) -> list[ipywidgets.Widget]:
        return [self.player]

    def _below(self) -> list[ipywidgets.Widget]:
        return [self.charts]

    def _draw_charts(self) -> None:
        self.charts.show(self._curves())

    def _lecture(self) -> Lecture:
        return balloon_lecture(self.experiment)

    def _code(self, plan: dict[str, object]) -> str:
        if self._look:
            return OWN_CODE
        usual = Beginning()
        chosen = [f"{n}={plan[n]!r}" for n in CHOICES if plan[n] != getattr(usual, n)]
        deeds = [deed for deed in self._did() if isinstance(deed, list)]
        lines = [
            "from kvmlab.management.virsh import virsh",
            "from kvmlab.study.inflation import Inflation",
            "from kvmlab.study.inflation_beginning import Beginning",
            "",
            f"experiment = Inflation(Beginning({', '.join(chosen)}))",
            *(f"experiment.{verb}({', '.join(map(repr, given))})" for verb, *given in deeds),
            f'print(virsh(experiment.connection, "dommemstat {DOMAIN}").out)',
        ]
        return "\n".join(lines)


def _options(name: str) -> list[tuple[str, object]]:
    """The choices of one control, in words where they are not sizes."""
    if name in ("driver", "backing"):
        return [(say(f"lab.balloon.{name}.{value}"), value) for value in CHOICES[name]]
    if name == "period":
        return [
            (say("lab.balloon.period.none") if not value else f"{value} s", value)
            for value in CHOICES[name]
        ]
    return [
        (f"{value} MiB" if value else say("lab.balloon.none"), value) for value in CHOICES[name]
    ]
