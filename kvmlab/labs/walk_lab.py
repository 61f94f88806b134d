"""One access through the four address spaces: the lab of the walk."""

from collections.abc import Sequence
from html import escape

import ipywidgets

from kvmlab.base.addresses import parse_address
from kvmlab.base.errors import BadChoice
from kvmlab.figures.addresses import hex_text
from kvmlab.figures.costs import cycles_text
from kvmlab.figures.fold import Walk
from kvmlab.figures.walk import Setting, design_name, read_walk, summary, walk_scene
from kvmlab.hardware.records import Kind
from kvmlab.labs.guard import Notice, guarded
from kvmlab.labs.player import Player
from kvmlab.labs.words import Words, language_control
from kvmlab.machine import DESIGNS, MMUS, Chain, Machine
from kvmlab.study.access import (
    GUESTS,
    Recorded,
    Request,
    cold_access,
    first_access,
    guest_levels,
    page_sizes,
    usual_address,
)
from kvmlab.study.costs import GRADED
from kvmlab.text import say, speaking

HOST_PAGES = ("4K", "2M", "1G")
HOST_LEVELS = (4, 5)
USUAL_LEVELS = 4
MORE = tuple(one for one in DESIGNS if one not in MMUS)
MAPPINGS = ("all", "read", "none")


class WalkLab(ipywidgets.VBox):
    """One access, each reference numbered in a lattice, step by step.

    The controls are attributes (``lab.design.value = "shadow"``, ``lab.more.value = "agile"``);
    what the machine did is in ``records``, ``walk``, ``chain`` and ``references``.  With a
    ``machine`` of your own, its current process is looked at as it is, and only the address and
    the access can be chosen.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        """The lab, with the walk of its first address.  Raises `BadChoice` without a process."""
        if machine and machine.guest.current is None:
            raise BadChoice(say("lab.walk.process"))
        self._machine = machine
        self._words, self.language = Words(), language_control("en")
        self._make_controls()
        self._words.speak()
        self.notice, self.player, self.status = Notice(), Player(), ipywidgets.HTML()
        self.status.add_class("kvmlab-status")
        rows = [self._row(self.design, self.more, self.language)] if machine is None else []
        rows += [self._row(*self._access(), *([self.language] if machine else []))]
        rows += [self._row(*self._shape())] if machine is None else []
        super().__init__([*rows, self.notice, self.status, self.player])
        self.add_class("kvmlab-lab")
        self.add_class("kvmlab-walk")
        self._show(self._record())
        self._observe()

    # -- what the learner sees and scripts use ------------------------------------------

    @property
    def records(self) -> list[object]:
        """The records of the walk shown."""
        return self._records

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
        """The design chosen: one of ``design``, or else one of ``more``."""
        return self.design.value or self.more.value

    # -- controls -----------------------------------------------------------------------

    def _make_controls(self) -> None:
        words = self._words
        self.design = ipywidgets.RadioButtons(
            options=MMUS,
            value="ept",
            orientation="horizontal",
            layout=ipywidgets.Layout(width="auto"),
        )
        words.on(self.design, "lab.walk.design")
        words.options(self.design, lambda: _designs(MMUS))
        self.design.add_class("kvmlab-design")
        self.more = words.options(self._dropdown("more", MORE), lambda: _designs(MORE))
        self.more.value = None
        levels = self._machine.guest.tables.format.levels if self._machine else USUAL_LEVELS
        self._suggested = hex(usual_address(levels))
        self.address = ipywidgets.Text(
            value=self._suggested,
            continuous_update=False,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="256px"),
        )
        words.on(self.address, "lab.walk.address")
        self.kind = words.options(self._dropdown("kind", list(Kind)), _kinds)
        self.user = words.options(self._dropdown("user", [True, False]), _users)
        self.mapping = words.options(self._dropdown("mapping", MAPPINGS), _mappings)
        self.guest_page = self._dropdown("guest_page", page_sizes(levels))
        self.host_page = self._dropdown("host_page", HOST_PAGES)
        self.guest_levels = self._dropdown("guest_levels", [(_levels_name(n), n) for n in GUESTS])
        self.guest_levels.value = levels
        self.host_levels = self._dropdown("host_levels", [(str(n), n) for n in HOST_LEVELS])

    def _dropdown(self, name: str, options: Sequence[object]) -> ipywidgets.Dropdown:
        control = ipywidgets.Dropdown(
            options=options,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="auto"),
        )
        return self._words.on(control, f"lab.walk.{name}")

    def _access(self) -> list[ipywidgets.Widget]:
        own = self._machine is not None
        return [self.address, self.kind, self.user, *([] if own else [self.mapping])]

    def _shape(self) -> list[ipywidgets.Widget]:
        return [self.guest_levels, self.guest_page, self.host_levels, self.host_page]

    @staticmethod
    def _row(*controls: ipywidgets.Widget) -> ipywidgets.Box:
        layout = ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 16px", overflow="visible")
        return ipywidgets.Box(controls, layout=layout)

    def _observe(self) -> None:
        shape = (self.guest_page, self.host_page, self.host_levels)
        for control in (*self._access(), *shape):
            control.observe(self.update, names="value")
        self.design.observe(lambda change: self._choose(change.new, self.more), names="value")
        self.more.observe(lambda change: self._choose(change.new, self.design), names="value")
        self.guest_levels.observe(self._reshape, names="value")
        self.language.observe(self._speak, names="value")

    @guarded
    def _speak(self, _change: object = None) -> None:
        """Say everything in the language chosen, at the step where the learner is."""
        self.notice.language = self.language.value
        with speaking(self.language.value):
            self._words.speak()
            self.player.relabel()
            self._picture(self.player.step)

    def _choose(self, chosen: str | None, other: ipywidgets.Widget) -> None:
        """Take the choice off the ``other`` list of designs: there is one design, and one walk."""
        if chosen is not None and not self._words.busy:
            other.value = None
            self._reshape()

    def _reshape(self, _change: object = None) -> None:
        """Offer what the design and its tables have, then walk: one walk for all that changed."""
        if self._words.busy:
            return
        with self._words.replacing():
            self._fit()
        self.update()

    def _fit(self) -> None:
        """The guests of this design, the pages of this guest, and an address of its width."""
        offered = guest_levels(self.mmu)
        _offer(self.guest_levels, [(_levels_name(n), n) for n in offered], offered, USUAL_LEVELS)
        levels = self.guest_levels.value
        sizes = page_sizes(levels)
        _offer(self.guest_page, sizes, sizes, sizes[0])
        backing = HOST_PAGES if GUESTS[levels].long_mode else HOST_PAGES[:-1]
        _offer(self.host_page, backing, backing, backing[0])
        suggested = hex(usual_address(levels))
        if self.address.value == self._suggested:  # our own, not the learner's
            self.address.value = suggested
        self._suggested = suggested

    # -- from the controls to the figure ------------------------------------------------

    @guarded
    def update(self, _change: object = None) -> None:
        """Walk again with what the controls say; on an error nothing but the notice changes."""
        if not self._words.busy:
            self._show(self._record())

    def _record(self) -> Recorded:
        request = Request(
            gva=parse_address(self.address.value),
            mmu=self.mmu,
            guest_page=self.guest_page.value,
            host_page=self.host_page.value,
            guest_levels=self.guest_levels.value,
            host_levels=self.host_levels.value,
            kind=self.kind.value,
            user=self.user.value,
            mapping=self.mapping.value,
        )
        if self._machine:
            return cold_access(self._machine, request)
        return first_access(request)

    def _show(self, recorded: Recorded) -> None:
        setting = Setting.of(recorded.machine, recorded.gva)
        walk = read_walk(recorded.records, setting)
        self._records, self._before = recorded.records, recorded.before
        self._setting, self._walk = setting, walk
        with speaking(self.language.value):
            self._picture(0)
        self.host_page.disabled = setting.mmu == "native"
        self.host_levels.disabled = setting.mmu in ("native", "shadow")

    def _picture(self, step: int) -> None:
        """What was recorded, as a scene from ``step`` on and one line."""
        self.player.show(walk_scene(self._records, self._setting, self._before), step)
        words = [summary(self._walk, self._setting, self._before)]
        words += [cycles_text(self._walk, GRADED)] if self._walk.references else []
        lines = "".join(f"<div>{escape(line)}</div>" for line in words)
        self.status.value = f'<div role="status">{lines}</div>'

    def __repr__(self) -> str:
        """What is shown, in one line: the same text each time."""
        walk, setting = self._walk, self._setting
        return (
            f"walk({design_name(setting)}, {hex_text(setting.chain.gva)}: "
            f"{walk.outcome}, {self.references} references)"
        )


def _offer(
    control: ipywidgets.Dropdown, options: Sequence[object], values: Sequence[object], usual: object
) -> None:
    """Offer ``options``; what was chosen stays chosen if it is still among their ``values``."""
    chosen = control.value if control.value in values else usual
    control.options = options
    control.value = chosen


def _designs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(say(f"design.{name}"), name) for name in names]


def _levels_name(levels: int) -> str:
    """How many levels a guest's tables have; of those that are not 64-bit also their name."""
    fmt = GUESTS[levels]
    return str(levels) if fmt.long_mode else f"{levels} ({fmt.name})"


def _kinds() -> list[tuple[str, Kind]]:
    return [(say(f"lab.walk.kind.{kind.name.lower()}"), kind) for kind in Kind]


def _users() -> list[tuple[str, bool]]:
    return [(say(f"lab.walk.user.{name}"), name == "user") for name in ("user", "supervisor")]


def _mappings() -> list[tuple[str, str]]:
    return [(say(f"lab.walk.mapping.{name}"), name) for name in MAPPINGS]
