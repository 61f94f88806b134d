"""Build the guest's page tables and try accesses: the lab of tables."""

from types import MappingProxyType
from typing import ClassVar

import ipywidgets
import traitlets

from kvmlab.base.addresses import parse_address, size_text
from kvmlab.base.errors import BadChoice
from kvmlab.figures.bits import bit_of, bits_scene
from kvmlab.figures.builder import (
    builder_scene,
    changes_table,
    deed_sentence,
    machine_scene,
    tree_sentence,
)
from kvmlab.figures.lecture import Lecture, own_tables_lecture, tables_lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.figures.tree import entry_key, read_key
from kvmlab.figures.tried import outcome_sentence
from kvmlab.figures.tried_asks import access_words
from kvmlab.hardware.records import Kind
from kvmlab.labs.controls import choice, field, number, tick
from kvmlab.labs.guard import guarded
from kvmlab.labs.lab import Lab
from kvmlab.labs.player import Player
from kvmlab.machine import Machine
from kvmlab.study.access import GUESTS, page_sizes
from kvmlab.study.builder import VERBS, Builder, begin
from kvmlab.study.builder_machine import DESIGNS, HOST, SWITCHES, usual_deeds
from kvmlab.study.builder_ranges import MOST_PAGES
from kvmlab.study.share import Plan
from kvmlab.study.story import Story
from kvmlab.study.tree import Entry, dumps, entry_at, guest_tables, guest_tree
from kvmlab.study.tree import Table as Tree
from kvmlab.text import say, speaking

LEVELS = 4
KINDS = tuple(one.name.lower() for one in Kind)
EMPTY = Scene("", "", "", [], [])


class TablesLab(Lab):
    """A tree of page tables: mapped by ranges, edited by bits, tried by accesses.

    ``lab.do("map", "0x400000", 2, "4K", "", "wu")`` and the other verbs of `study.builder.VERBS`
    do what the buttons do; ``lab.builder`` is the experiment.  With a ``machine`` of your own, its
    current process is shown as it is.
    """

    NAME = "tables"
    BEGINNING: ClassVar[Plan] = MappingProxyType(
        {
            "mmu": "ept",
            "levels": LEVELS,
            "memory": "64M",
            "wp": True,
            "smep": False,
            "smap": False,
            "ac": False,
            "pke": False,
            "pkru": "0x0",
            "did": usual_deeds(LEVELS),
            "language": "en",
        }
    )
    PANELS: ClassVar[tuple[str, ...]] = ("share", "code", "dump")

    def __init__(self, machine: Machine | None = None, share: str = "", **chosen: object) -> None:
        """The lab, or a look at ``machine``.  Raises `BadChoice` without a process."""
        self._own, self._place, self._offered = machine, (1, 0x400000), 0
        self._story = Story(begin, VERBS)
        self.bits = Player()
        self.bits.add_class("kvmlab-bits")
        if machine:
            guest_tree(machine)  # refuses a machine on which no process runs
            levels = machine.guest.tables.format.levels
            chosen.update(mmu=machine.mmu, levels=levels, did=[])
        super().__init__(share, **chosen)
        self.player.observe(self._picked, names="chosen")
        self.bits.observe(self._pressed, names="chosen")

    # -- for scripts ----------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """The machine whose tables are shown."""
        return self._own or self.builder.machine

    @property
    def dump(self) -> str:
        """All tables of the machine as xv6 dumps its own: the guest's, EPT's or the shadow's."""
        found = dumps(self.machine)
        return "\n\n".join(f"{say(f'lab.tables.dump.{name}')}\n{text}" for name, text in found)

    @property
    def entry(self) -> Entry | None:
        """The entry whose bits are shown."""
        level, address = self._place
        tables = guest_tables(self.machine)
        return entry_at(self._tree(), tables, min(level, tables.format.levels), address)

    @guarded
    def choose(self, level: int, gva: int | str) -> None:
        """Show the bits of the entry of ``level`` that translates ``gva``."""
        self._look_at(level, gva)

    # -- controls -------------------------------------------------------------------------

    def _make_controls(self) -> list[ipywidgets.Widget]:
        rows = [self._entry_row()]
        if self._own:
            self.again = self._button("lab.tables.again", self._look_again)
            return [self._row(self.again), *rows]
        return [self._setting_row(), self._range_row(), self._access_row(), *rows]

    def _setting_row(self) -> ipywidgets.Box:
        mmu = choice(self._words, "lab.tables.mmu", DESIGNS, _designs)
        levels = choice(self._words, "lab.tables.levels", list(GUESTS))
        memory = choice(self._words, "lab.tables.memory", list(HOST))
        ticks = [tick(self._words, f"lab.tables.{name}") for name in SWITCHES]
        pkru = field(self._words, "lab.tables.pkru", "0x0", "136px")
        for name, control in (("mmu", mmu), ("levels", levels), ("memory", memory)):
            self._bind(name, control)
        for name, control in zip((*SWITCHES, "pkru"), (*ticks, pkru), strict=True):
            self._bind(name, control)
        self.reload = self._button("lab.tables.reload", lambda _: self.do("reload"))
        return self._row(mmu, levels, memory, *ticks, pkru, self.reload)

    def _range_row(self) -> ipywidgets.Box:
        self.gva = field(self._words, "lab.tables.gva", "0x600000", "176px")
        self.pages = number(self._words, "lab.tables.pages", 1, 1, MOST_PAGES)
        self.page = choice(self._words, "lab.tables.page", page_sizes(LEVELS))
        self.gpa = field(self._words, "lab.tables.gpa", "", "176px")
        self._words.on(self.gpa, "lab.tables.gpa.free", "placeholder")
        self.rights = {
            letter: tick(self._words, f"lab.tables.{letter}", chosen=letter != "x")
            for letter in "wux"
        }
        self.flush = tick(self._words, "lab.tables.flush", chosen=True)
        acts = {
            "map": lambda _: self.do("map", *self._range(), self.gpa.value, self._letters()),
            "unmap": lambda _: self.do("unmap", *self._range(), self.flush.value),
            "protect": lambda _: self.do(
                "protect", *self._range(), self._letters(), self.flush.value
            ),
        }
        self.buttons = {name: self._button(f"lab.tables.{name}", act) for name, act in acts.items()}
        where = (self.gva, self.pages, self.page, self.gpa)
        return self._row(*where, *self.rights.values(), self.flush, *self.buttons.values())

    def _access_row(self) -> ipywidgets.Box:
        self.access = field(self._words, "lab.tables.try.gva", "0x400010", "240px")
        self.kind = choice(self._words, "lab.walk.kind", KINDS, _kinds)
        self.user = choice(self._words, "lab.walk.user", [True, False], _users)
        self.cold = tick(self._words, "lab.tables.cold", chosen=True)
        self.attempt = self._button("lab.tables.try", self._try)
        return self._row(self.access, self.kind, self.user, self.cold, self.attempt)

    def _entry_row(self) -> ipywidgets.Box:
        self.level = choice(self._words, "lab.tables.level", list(range(1, LEVELS + 1)))
        self.where = field(self._words, "lab.tables.entry.gva", "0x400000", "200px")
        self.chooser = self._button(
            "lab.tables.choose", lambda _: self.choose(self.level.value, self.where.value)
        )
        chooser = (self.level, self.where, self.chooser)
        if self._own:
            return self._row(*chooser)
        self.value = field(self._words, "lab.tables.value", "", "240px")
        self.setter = self._button("lab.tables.set", self._set)
        return self._row(*chooser, self.value, self.setter)

    def _range(self) -> tuple[str, int, str]:
        return self.gva.value, self.pages.value, self.page.value

    def _letters(self) -> str:
        return "".join(letter for letter, tick in self.rights.items() if tick.value)

    def _try(self, _button: object) -> None:
        self.do("access", self.access.value, self.kind.value, self.user.value, self.cold.value)

    def _set(self, _button: object) -> None:
        level, address = self._place
        self.do("set", level, hex(address), self.value.value, self.flush.value)

    @guarded
    def _look_again(self, _button: object) -> None:
        self._present()

    # -- choosing -------------------------------------------------------------------------

    def _picked(self, change: traitlets.Bunch) -> None:
        """An entry was chosen in the tree."""
        place = read_key(change.new)
        if place and not self._words.busy:
            self.choose(*place)
            self._fill_in(self.entry)

    def _fill_in(self, entry: Entry | None) -> None:
        """Let the form name what was picked, so that a mouse is enough; two messages at most."""
        if entry is None or self._own:
            return
        self.gva.value, size = hex(entry.address), size_text(2**entry.shift)
        if size not in self.page.options or size == self.page.value:
            self.access.value = hex(entry.address)
        else:
            self.page.value = size

    def _look_at(self, level: int, gva: int | str) -> None:
        before, self._place = self._place, (level, parse_address(gva))
        if self.entry is None:
            self._place = before
            raise BadChoice(say("lab.tables.none"))
        with speaking(self._language):
            self._mark()
            self._show_bits()

    def _pressed(self, change: traitlets.Bunch) -> None:
        """A bit was pressed: it is changed, unless the machine is the learner's own."""
        bit = bit_of(change.new)
        if bit is not None and not self._words.busy and not self._own:
            level, address = self._place
            self.do("flip", level, hex(address), bit, self.flush.value)

    # -- from the plan to what is shown ---------------------------------------------------

    def _chosen(self, key: str, value: object) -> None:
        """Other levels are another tree, which begins anew; any other choice keeps the deeds."""
        if self._words.busy or key != "levels":
            super()._chosen(key, value)
            return
        assert isinstance(value, int)  # noqa: S101  the options are
        wide = {} if value >= LEVELS else {"memory": "64M", "pke": False}
        self.change(levels=value, did=usual_deeds(value), **wide)

    def _reach(self, plan: dict[str, object]) -> None:
        if not self._own:
            self.builder: Builder = self._story.reach(plan)
        elif plan["did"]:
            raise BadChoice(say("lab.tables.own"))

    def _follow(self) -> None:
        super()._follow()
        levels = self.machine.guest.tables.format.levels
        if levels == self._offered:
            return
        self._offered = levels
        with self._words.replacing():
            self.level.options = list(range(1, levels + 1))
            if not self._own:
                self.page.options = page_sizes(levels)

    def _scene(self) -> Scene:
        return machine_scene(self._own) if self._own else builder_scene(self.builder)

    def _show(self, step: int) -> None:
        """The tree, from the question on if an access was tried, and the entry chosen in it."""
        asked = not self._own and self.builder.tried is not None
        with self.player.hold_sync(), self._words.replacing():
            super()._show(step or int(asked))
            self._mark()
        self._show_bits()

    def _mark(self) -> None:
        """Frame the entry in the tree whose bits are shown."""
        with self._words.replacing():
            if self.entry:
                self.player.chosen = entry_key(self.entry.level, self.entry.address)

    def _show_bits(self) -> None:
        entry = self.entry
        with self._words.replacing(), self.bits.hold_sync():
            tables = guest_tables(self.machine)
            scene = bits_scene(entry, tables, fixed=bool(self._own)) if entry else EMPTY
            self.bits.show(scene)
            self.bits.relabel()

    def _facts(self) -> list[str]:
        whole = tree_sentence(self.machine, self._tree())
        if self._own:
            return [whole]
        tried = self.builder.tried
        if tried is None:
            return [deed_sentence(self.builder), whole]
        said = [access_words(tried)]
        if not self.predict.value:
            said += [outcome_sentence(tried, guest_tables(self.machine))]
        return [" ".join(said), whole]

    def _tables(self) -> list[Table]:
        hidden = self._own or (self.builder.tried and self.predict.value)
        return [] if hidden else [changes_table(self.builder)]

    def _tree(self) -> Tree:
        return guest_tree(self.machine)

    def _views(self) -> list[ipywidgets.Widget]:
        return [self.player, self.bits]

    def _lecture(self) -> Lecture:
        if self._own:
            return own_tables_lecture(self._own, self.entry)
        return tables_lecture(self.builder, self.entry)

    def _code(self, plan: dict[str, object]) -> str:
        if self._own:
            return "from kvmlab import labs\n\nlabs.tables(machine)"
        switches = [name for name in SWITCHES if plan[name]]
        values = [repr(plan["mmu"]), f"levels={plan['levels']}", f"memory={plan['memory']!r}"]
        values += [f"switches={switches}", f"pkru={plan['pkru']!r}"]
        did = [_call(deed) for deed in self._did() if isinstance(deed, list)]
        head = "from kvmlab.study.builder import Builder\n"
        return "\n".join([head, f"builder = Builder({', '.join(values)})", *did])


def _call(deed: list[object]) -> str:
    verb, *given = deed
    return f"builder.{verb}({', '.join(map(repr, given))})"


def _designs() -> list[tuple[str, str]]:
    return [(say(f"design.{name}"), name) for name in DESIGNS]


def _kinds() -> list[tuple[str, str]]:
    return [(say(f"lab.walk.kind.{one}"), one) for one in KINDS]


def _users() -> list[tuple[str, bool]]:
    return [(say(f"lab.walk.user.{name}"), name == "user") for name in ("user", "supervisor")]
