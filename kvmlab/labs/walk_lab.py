"""One access through the four address spaces: the lab of the walk."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import ipywidgets

from kvmlab.base.addresses import parse_address
from kvmlab.base.errors import BadChoice
from kvmlab.figures.addresses import hex_text
from kvmlab.figures.costs import cycles_text
from kvmlab.figures.fold import Walk
from kvmlab.figures.lecture import Lecture, walk_lecture, walk_variant
from kvmlab.figures.scene import Scene
from kvmlab.figures.walk import Setting, design_name, read_walk, summary, walk_scene
from kvmlab.hardware.records import Kind
from kvmlab.labs.lab import Lab
from kvmlab.machine import DESIGNS, Chain, Machine
from kvmlab.study.access import (
    BEFORE,
    CACHES,
    GUESTS,
    Request,
    cold_access,
    first_access,
    usual_address,
)
from kvmlab.study.access_code import access_code, own_code
from kvmlab.study.costs import GRADED
from kvmlab.study.share import Plan
from kvmlab.text import say

PAGES = ("4K", "2M", "4M", "1G")
HOST_PAGES = ("4K", "2M", "1G")
HOST_LEVELS = (4, 5)
MAPPINGS = ("all", "read", "none")
KINDS = tuple(kind.name.lower() for kind in Kind)
WITHOUT = MappingProxyType(
    {"native": ("host_levels", "host_page"), "shadow": ("host_levels",)}
)  # the controls of tables that a design does not have
OWN = ("address", "kind", "user", "before", "language")  # what a machine of one's own leaves open


class WalkLab(Lab):
    """One access, each reference numbered in a lattice, step by step.

    The controls are attributes (``lab.design.value = "shadow"``); what the machine did is in
    ``records``, ``walk``, ``chain`` and ``references``.  With a ``machine`` of your own, its
    current process is looked at as it is, and only the address and the access can be chosen.
    """

    NAME = "walk"
    BEGINNING: ClassVar[Plan] = MappingProxyType(
        {
            "design": "ept",
            "address": hex(usual_address(4)),
            "kind": "read",
            "user": True,
            "mapping": "all",
            "guest_levels": 4,
            "guest_page": "4K",
            "host_levels": 4,
            "host_page": "4K",
            "caches": "none",
            "before": "nothing",
            "language": "en",
        }
    )

    def __init__(self, machine: Machine | None = None, share: str = "", **chosen: object) -> None:
        """The lab, with the walk of its first address.

        Raises `BadChoice` without a process, and as `Lab` does for ``share`` and ``chosen``.
        """
        if machine and machine.guest.current is None:
            raise BadChoice(say("lab.walk.process"))
        self._machine = machine
        self._asked: Request | None = None  # what the walk shown was asked by
        if machine:
            levels = machine.guest.tables.format.levels
            chosen = {"guest_levels": levels, "address": hex(usual_address(levels)), **chosen}
        super().__init__(share, **chosen)

    # -- what scripts read ----------------------------------------------------------------

    @property
    def records(self) -> list[object]:
        """The records of the walk shown."""
        return self._recorded.records

    @property
    def walk(self) -> Walk:
        """The walk shown, sorted: its references, its end."""
        return self._walk

    @property
    def references(self) -> int:
        """How many page-table entries the walk read."""
        return len(self._walk.references)

    @property
    def chain(self) -> Chain:
        """The address in the four address spaces."""
        return self._setting.chain

    @property
    def mmu(self) -> str:
        """The design of the walk shown."""
        return self._setting.mmu

    # -- controls -------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        self.design = ipywidgets.RadioButtons(
            options=DESIGNS, orientation="horizontal", layout=ipywidgets.Layout(width="auto")
        )
        self._words.on(self.design, "lab.walk.design")
        self._words.options(self.design, _designs)
        self.design.add_class("kvmlab-design")
        self.address = ipywidgets.Text(
            continuous_update=False,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="256px"),
        )
        self._words.on(self.address, "lab.walk.address")
        self.kind = self._choice("kind", KINDS)
        self.user = self._choice("user", [True, False], ("user", "supervisor"))
        self.mapping = self._choice("mapping", MAPPINGS)
        self.guest_page = self._list("guest_page", PAGES)
        self.host_page = self._list("host_page", HOST_PAGES)
        self.guest_levels = self._list("guest_levels", [(_levels_name(n), n) for n in GUESTS])
        self.host_levels = self._list("host_levels", [(str(n), n) for n in HOST_LEVELS])
        self.caches = self._choice("caches", tuple(CACHES))
        self.before = self._choice("before", BEFORE[::2] if self._machine else BEFORE)
        for key in OWN[:-1] if self._machine else self.BEGINNING:
            if key != "language":
                self._bind(key, getattr(self, key))
        access = [self.address, self.kind, self.user]
        if self._machine:
            return [self._row(*access, self.before)]
        shape = [self.guest_levels, self.guest_page, self.host_levels, self.host_page]
        rows = ([self.design], [*access, self.mapping], shape, [self.caches, self.before])
        return [self._row(*row) for row in rows]

    def _list(self, key: str, options: Sequence[object]) -> ipywidgets.Dropdown:
        control = ipywidgets.Dropdown(
            options=options,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="auto"),
        )
        return self._words.on(control, f"lab.walk.{key}")

    def _choice(
        self, key: str, values: Sequence[object], names: Sequence[str] = ()
    ) -> ipywidgets.Dropdown:
        """A list whose options have words of the catalogue."""
        pairs = list(zip(names or values, values, strict=True))
        words = lambda: [(say(f"lab.walk.{key}.{name}"), value) for name, value in pairs]  # noqa: E731
        return self._words.options(self._list(key, values), words)

    # -- from the plan to the figure --------------------------------------------------------

    def _checked(self, plan: Plan) -> dict[str, Any]:
        """An address that nobody chose fits the guest: it is the usual one of its width."""
        checked: dict[str, Any] = super()._checked(plan)
        usual = {levels: hex(usual_address(levels)) for levels in GUESTS}
        if checked["address"] in usual.values():
            checked["address"] = usual.get(checked["guest_levels"], checked["address"])
        return checked

    def _reach(self, plan: dict[str, Any]) -> None:
        request = _request(plan)
        if request == self._asked:
            return
        recorded = cold_access(self._machine, request) if self._machine else first_access(request)
        setting = Setting.of(recorded.machine, recorded.gva)
        self._walk = read_walk(recorded.records, setting)
        self._recorded, self._setting, self._asked = recorded, setting, request

    def _scene(self) -> Scene:
        recorded = self._recorded
        scene = walk_scene(recorded.records, self._setting, recorded.before, asking=True)
        scene.without = [] if self._machine else list(WITHOUT.get(self.mmu, ()))
        return scene

    def _facts(self) -> list[str]:
        facts = [summary(self._walk, self._setting, self._recorded.before)]
        return facts + ([cycles_text(self._walk, GRADED)] if self._walk.references else [])

    def _lecture(self) -> Lecture:
        if self._machine is None:
            return walk_lecture(_request(self.plan))
        return Lecture(say("page.walk"), walk_variant(self._recorded))

    def _code(self, plan: dict[str, Any]) -> str:
        return own_code(_request(plan)) if self._machine else access_code(_request(plan))

    def __repr__(self) -> str:
        """What is shown, in one line: the same text each time."""
        return (
            f"walk({design_name(self._setting)}, {hex_text(self.chain.gva)}: "
            f"{self._walk.outcome}, {self.references} references)"
        )


def _request(plan: dict[str, Any]) -> Request:
    """What ``plan`` asks for.  Raises `BadAddress`, and `BadChoice` for an access of no kind."""
    given = {key: value for key, value in plan.items() if key not in ("design", "address", "kind")}
    del given["language"]
    if plan["kind"] not in KINDS:
        raise BadChoice(f"an access is one of {', '.join(KINDS)}, not {plan['kind']!r:.40}")
    if plan["mapping"] not in MAPPINGS:
        raise BadChoice(f"a mapping is one of {', '.join(MAPPINGS)}, not {plan['mapping']!r:.40}")
    gva, kind = parse_address(str(plan["address"])), Kind[str(plan["kind"]).upper()]
    return Request(gva=gva, mmu=str(plan["design"]), kind=kind, **given)


def _levels_name(levels: int) -> str:
    """How many levels a guest's tables have; of those that are not 64-bit also their name."""
    fmt = GUESTS[levels]
    return str(levels) if fmt.long_mode else f"{levels} ({fmt.name})"


def _designs() -> list[tuple[str, str]]:
    return [(say(f"design.{name}"), name) for name in DESIGNS]
