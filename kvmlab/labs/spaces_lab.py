"""One page through GVA, GPA, HVA and HPA, and what becomes of it: the lab of the spaces."""

from types import MappingProxyType
from typing import ClassVar

import ipywidgets
import traitlets

from kvmlab.base.addresses import parse_address
from kvmlab.base.errors import BadChoice
from kvmlab.figures.lecture import Lecture, own_spaces_lecture, spaces_lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.figures.spaces import key_of, maps_table, read_key
from kvmlab.figures.spaces_scene import (
    Deed,
    deed_sentence,
    spaces_scene,
    told_table,
    trail_text,
)
from kvmlab.labs.controls import choice, field, number
from kvmlab.labs.guard import guarded
from kvmlab.labs.lab import Lab
from kvmlab.machine import Machine
from kvmlab.study.follow import SPACES, Trail, check, follow
from kvmlab.study.share import Plan
from kvmlab.study.spaces import DESIGNS, MOST_PAGES, VERBS, Spaces, begin, usual_deeds
from kvmlab.study.story import Story
from kvmlab.text import say

MOST_VALUE, MOST_BALLOON = 2**31 - 1, 2048


class SpacesLab(Lab):
    """Four memory maps; a page chosen in any of them is followed through all.

    ``lab.choose("hpa", 0x12b000)`` is what a click does; ``lab.do("migrate", hex(hva))`` and the
    other verbs of `study.spaces.VERBS` are what the buttons do; ``lab.trail`` is what is shown.
    With a ``machine`` of your own, its current process is shown as it is.
    """

    NAME = "spaces"
    BEGINNING: ClassVar[Plan] = MappingProxyType(
        {
            "mmu": "ept",
            "space": "gva",
            "address": "0x401abc",
            "did": usual_deeds(),
            "language": "en",
        }
    )

    def __init__(self, machine: Machine | None = None, share: str = "", **chosen: object) -> None:
        """The lab, or a look at ``machine``.  Raises `BadChoice` without a process or a VM."""
        self._own, self._told = machine, False
        self._story = Story(begin, VERBS)
        if machine:
            check(machine)
            process = machine.guest.current
            first = process.vmas[0].start if process and process.vmas else 0
            chosen = {"address": hex(first), **chosen, "mmu": machine.mmu, "did": []}
        super().__init__(share, **chosen)
        self.player.observe(self._picked, names="chosen")

    # -- for scripts ----------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """The machine that is shown."""
        return self._own or self.spaces.machine

    @property
    def trail(self) -> Trail:
        """The chosen address in all four spaces."""
        return self._trail

    def choose(self, space: str, address: int | str) -> None:
        """Follow ``address`` of ``space``."""
        self.change(space=space, address=address if isinstance(address, str) else hex(address))

    # -- controls -------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        space = choice(self._words, "lab.spaces.space", SPACES, _spaces)
        self.address = field(self._words, "lab.spaces.address", "", "240px")
        self._bind("space", space)
        self._bind("address", self.address)
        if self._own:
            self.again = self._button("lab.spaces.again", self._look_again)
            return [self._row(space, self.address, self.again)]
        mmu = self._bind("mmu", choice(self._words, "lab.spaces.mmu", DESIGNS, _designs))
        return [self._row(space, self.address, mmu), self._guest_row(), self._host_row()]

    def _guest_row(self) -> ipywidgets.Box:
        self.value = number(self._words, "lab.spaces.value", 7, 0, MOST_VALUE)
        self.pages = number(self._words, "lab.spaces.pages", 4, 0, MOST_PAGES)
        self.process = choice(self._words, "lab.spaces.process", ["app"])
        self.buttons = {
            "read": self._act("read", lambda: [self._gva()]),
            "write": self._act("write", lambda: [self._gva(), self.value.value]),
            "mmap": self._act("mmap", lambda: [self.address.value, self.pages.value]),
            "munmap": self._act("munmap", lambda: [self._gva()]),
            "fork": self._act("fork", list),
            "switch": self._act("switch", lambda: [self.process.value]),
        }
        title = self._words.on(ipywidgets.Label(), "lab.spaces.guest", "value")
        act = self.buttons
        return self._row(
            title,
            *(act["read"], self.value, act["write"], self.pages, act["mmap"], act["munmap"]),
            *(act["fork"], self.process, act["switch"]),
        )

    def _host_row(self) -> ipywidgets.Box:
        self.frames = number(self._words, "lab.spaces.frames", 8, 0, MOST_PAGES)
        self.size = number(self._words, "lab.spaces.size", 64, 0, MOST_BALLOON)
        host = {
            "migrate": self._act("migrate", lambda: [self._hva()]),
            "reclaim": self._act("reclaim", lambda: [self.frames.value]),
            "merge": self._act("merge", list),
            "balloon": self._act("balloon", lambda: [self.size.value]),
        }
        self.buttons.update(host)
        title = self._words.on(ipywidgets.Label(), "lab.spaces.host", "value")
        rest = (host["reclaim"], host["merge"], self.size, host["balloon"])
        return self._row(title, host["migrate"], self.frames, *rest)

    def _act(self, verb: str, values: object) -> ipywidgets.Button:
        """A button that does ``verb`` with what ``values`` gives then."""

        @guarded
        def act(lab: "SpacesLab", _button: object) -> None:
            assert callable(values)  # noqa: S101  it is given above
            lab.do(verb, *values())

        return self._button(f"lab.spaces.{verb}", lambda button: act(self, button))

    def _gva(self) -> str:
        """The GVA of what is chosen."""
        if not self._trail.gva:
            raise BadChoice(say("lab.spaces.nothing", space="GVA"))
        return hex(self._trail.gva[0][1])

    def _hva(self) -> str:
        if not self._trail.hva:
            raise BadChoice(say("lab.spaces.nothing", space="HVA"))
        return hex(self._trail.hva[0])

    @guarded
    def _look_again(self, _button: object) -> None:
        self._reach(self.plan)
        self._present()

    def _picked(self, change: traitlets.Bunch) -> None:
        """A page was chosen in a column."""
        place = read_key(change.new)
        if place and not self._words.busy:
            self.choose(*place)

    # -- from the plan to what is shown ---------------------------------------------------

    def _go(self, plan: dict[str, object]) -> None:
        """A new deed is told of first; another choice only leads elsewhere."""
        told, self._told = self._told, list(self._did()) != plan["did"]
        try:
            super()._go(plan)
        except Exception:
            self._told = told
            raise

    def _move(self, at: int) -> None:
        self._told = False
        super()._move(at)

    def _reach(self, plan: dict[str, object]) -> None:
        space, address = str(plan["space"]), parse_address(str(plan["address"]))
        if self._own:
            if plan["did"]:
                raise BadChoice(say("lab.spaces.own"))
            self._trail = follow(self._own, space, address)
            return
        found: Spaces = self._story.reach({"mmu": plan["mmu"], "did": plan["did"]})
        self._trail = found.follow(space, address)
        self.spaces = found

    def _follow(self) -> None:
        super()._follow()
        if self._own:
            return
        names = [one.name for one in self.machine.guest.processes]
        if names != list(self.process.options):
            self.process.options = names

    def _scene(self) -> Scene:
        if self._own:
            return spaces_scene(self._own, self._trail)
        deed = self._deed() if self._told else None
        return spaces_scene(self.machine, self._trail, self.spaces.taken, deed)

    def _deed(self) -> Deed:
        last = list(self._did())[-1]
        verb = last[0] if isinstance(last, list) else ""
        return Deed(str(verb), self.spaces.before, self.spaces.told)

    def _show(self, step: int) -> None:
        with self.player.hold_sync(), self._words.replacing():
            super()._show(step)
            self.player.chosen = key_of(self._trail.space, self._trail.address)

    def _facts(self) -> list[str]:
        """What changed, and where the chosen page is: not before the questions are answered."""
        if not self._told or self._own:
            deed = []
        elif self.predict.value:
            deed = [say(f"spaces.deed.{self._deed().verb}") + "."]
        else:
            deed = [deed_sentence(self.machine, self._trail, self._deed())]
        chosen = {"space": self._trail.space.upper(), "address": hex(self._trail.address)}
        whole = (
            trail_text(self._trail) if not self.predict.value else say("spaces.chosen", **chosen)
        )
        return [" ".join([*deed, whole])]

    def _tables(self) -> list[Table]:
        told = [told_table(self.spaces.told)] if not self._own else []
        return [*told, maps_table(self.machine)]

    def _lecture(self) -> Lecture:
        if self._own:
            return own_spaces_lecture(self._own, self._trail)
        return spaces_lecture(self.spaces, self._trail, self._deed() if self._told else None)

    def _code(self, plan: dict[str, object]) -> str:
        followed = f"{plan['space']!r}, {parse_address(str(plan['address'])):#x}"
        if self._own:
            head = "from kvmlab.study.follow import follow"
            return f"{head}\n\ntrail = follow(machine, {followed})"
        did = [_call(deed) for deed in self._did() if isinstance(deed, list)]
        first = f"from kvmlab.study.spaces import Spaces\n\nspaces = Spaces({plan['mmu']!r})"
        return "\n".join([first, *did, f"trail = spaces.follow({followed})"])


def _call(deed: list[object]) -> str:
    verb, *given = deed
    return f"spaces.{verb}({', '.join(map(repr, given))})"


def _designs() -> list[tuple[str, str]]:
    return [(say(f"design.{name}"), name) for name in DESIGNS]


def _spaces() -> list[tuple[str, str]]:
    return [(say(f"lab.spaces.kinds.{name}"), name) for name in SPACES]
