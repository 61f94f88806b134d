"""A host of the learner's own and its VMs: the lab of overcommitment as a look."""

from types import MappingProxyType

import ipywidgets

from kvmlab.base.errors import BadChoice
from kvmlab.figures.curves import Curves
from kvmlab.figures.lecture import Lecture, host_lecture
from kvmlab.figures.overcommit_host import guests_table, host_curves, host_scene, look_sentence
from kvmlab.figures.scene import Scene, Table
from kvmlab.labs.charts import LinesPlace
from kvmlab.labs.guard import guarded
from kvmlab.labs.stepped import LAST, SteppedLab
from kvmlab.management.connection import virConnect
from kvmlab.study.overcommit_host import HostLook, Seen
from kvmlab.text import say, speaking

CODE = """\
from kvmlab.study.overcommit_host import HostLook

look = HostLook(connection)  # your own
look.again()  # look.seen: how it was, and how it is"""


def _plan() -> dict[str, object]:
    """Nothing is chosen and nothing done: a look has no more of a plan."""
    return {"did": [], "language": "en"}


class HostLab(SteppedLab):
    """The VMs of a ``connection``: each look is a step.  Scripts read ``host`` and ``seen``."""

    NAME = "overcommit"
    BEGINNING = MappingProxyType(_plan())

    def __init__(self, connection: virConnect, share: str = "", **chosen: object) -> None:
        """Look once.  Raises `BadChoice` for a host that cannot be looked at."""
        self.host = HostLook(connection)
        super().__init__(share, **chosen)

    def _make_controls(self) -> list[ipywidgets.Widget]:
        self.charts = LinesPlace()
        self.desk.add_class("kvm-modes")
        self.again = self._button("lab.own.again", self.look_again)
        self._follow_steps()
        return [self._row(self.again)]

    @guarded
    def look_again(self, _button: object = None) -> None:
        """One look more."""
        self.host.again()
        with speaking(self._language):
            self._show(LAST)

    @property
    def seen(self) -> Seen:
        """The look that is shown."""
        return self.host.seen[self.at]

    def _reach(self, plan: dict[str, object]) -> None:
        if plan["did"]:
            raise BadChoice(say("lab.own.host"))

    def _scene(self) -> Scene:
        self._shown = range(len(self.host.seen))
        return host_scene(self.host.seen)

    def _facts(self) -> list[str]:
        return [look_sentence(self.seen)]

    def _tables(self) -> list[Table]:
        return [guests_table(self.seen), self._curves().table()]

    def _curves(self) -> Curves:
        return host_curves(self.host.seen[: self.at + 1])

    def _below(self) -> list[ipywidgets.Widget]:
        return [self.charts]

    def _draw_charts(self) -> None:
        self.charts.show(self._curves())

    def _lecture(self) -> Lecture:
        return host_lecture(self.host.seen)

    def _code(self, plan: dict[str, object]) -> str:  # noqa: ARG002  a look has no plan
        return CODE
