"""What all labs have: a plan, its history, undo and redo, a share string, the code, the words.

A lab's whole state is its plan (study/share.py), plain values that the engine makes real.  To
change anything is to make the engine reach another plan; if that fails, the notice says why and
nothing has changed.  So undo is exact, and a share string brings back all that a learner made.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import ClassVar

import ipywidgets
from traitlets import MetaHasTraits

from kvmlab.base.errors import BadChoice
from kvmlab.figures.lecture import Lecture
from kvmlab.figures.scene import Scene, Table
from kvmlab.labs.guard import Notice, guarded
from kvmlab.labs.markup import STYLE, table_html
from kvmlab.labs.player import Player
from kvmlab.labs.words import Words, language_control
from kvmlab.study.share import Plan, fitting, read_share_string, share_string
from kvmlab.text import LANGUAGES, say, speaking

KEPT = 1000  # plans that undo can go back to


class _AbstractWidget(MetaHasTraits, ABCMeta):
    """The class of widgets that lack something which each of them has to say itself."""


class Lab(ipywidgets.VBox, metaclass=_AbstractWidget):
    """One lab.  Scripts read ``plan``, ``share`` and ``code``, and call `change`, `do`, `undo`.

    A lab of its own says how a plan is made real (`_reach`), what is then seen (`_scene`,
    `_facts`, `_tables`, `_draw_charts`) and which lines of Python do the same (`_code`).
    """

    NAME: ClassVar[str]  # in share strings and as ``labs.NAME()``
    BEGINNING: ClassVar[Plan]  # the plan of a new lab: every key there is, "language" among them
    PANELS: ClassVar[tuple[str, ...]] = (
        "share",
        "code",
    )  # texts to copy: attributes, named by ``lab.NAME``

    def __init__(self, share: str = "", **chosen: object) -> None:
        """The lab as ``share`` has it, else its beginning with what is ``chosen``.

        Raises `BadChoice` for a share string that is not whole, or a plan that cannot be.
        """
        self._bound: dict[str, ipywidgets.Widget] = {}
        self._words, self.language = Words(), language_control("en")
        self.notice, self.player, self.desk = Notice(), Player(), ipywidgets.HTML()
        self.desk.add_class("kvmlab-desk")
        self._make_tools()
        self._bind("language", self.language)
        rows = self._make_controls()
        plan = read_share_string(share, self.NAME) if share else {**self.BEGINNING, **chosen}
        self._plans, self._at = [self._checked(plan)], 0
        with speaking(self._language):
            self._reach(self.plan)
            self._words.speak()
            self._follow()
            self._show(0)
        tools = self._row(*self._tools(), self.language)
        asked = self._row(self.opened, self.loader)
        super().__init__(
            [*rows, tools, asked, self.notice, *self._views(), self.desk, *self._below()]
        )
        self.add_class("kvmlab-lab")
        self.add_class(f"kvmlab-{self.NAME}")

    # -- for scripts ----------------------------------------------------------------------

    @property
    def plan(self) -> dict[str, object]:
        """What the lab shows and what was done in it: the values that make it again."""
        return dict(self._plans[self._at])

    @property
    def share(self) -> str:
        """The plan as one line of text, for ``labs.NAME(share=...)`` or the lab's own field."""
        return share_string(self.NAME, self._plans[self._at])

    @property
    def code(self) -> str:
        """Lines of Python that bring about what is shown, without any lab."""
        return self._code(self.plan)

    @guarded
    def change(self, **values: object) -> None:
        """Choose ``values``; if they cannot be, the notice says why and nothing changes."""
        self._go({**self.plan, **values})

    @guarded
    def do(self, verb: str, *values: object) -> None:
        """Do one thing more to what is shown."""
        self._go({**self.plan, "did": [*self._did(), [verb, *values]]})

    @guarded
    def undo(self, _button: object = None) -> None:
        """Go back to what was before the last change."""
        if not self._at:
            raise BadChoice(say("lab.undo.none"))
        self._move(self._at - 1)

    @guarded
    def redo(self, _button: object = None) -> None:
        """Take back the last undo."""
        if self._at + 1 == len(self._plans):
            raise BadChoice(say("lab.redo.none"))
        self._move(self._at + 1)

    @guarded
    def load(self, text: str) -> None:
        """Become what a share string says; that, too, can be undone."""
        with speaking(self._language):
            plan = read_share_string(text, self.NAME)
        self._go(plan)

    def finish(self) -> None:
        """Complete what the lab would go on with while you look; most labs are always complete."""

    def export(self, path: Path | str, *, replace: bool = False) -> str:
        """Write what is shown as one file that needs no kernel; returns how another page shows it.

        An ``.html`` steps and plays, with questions while ``predict`` is on; an ``.svg`` and a
        ``.png`` show the figure at its end, a ``.pdf`` is a handout (the last two need Chromium).
        Raises `BadChoice` for another ending, or if the file is there and not to be replaced.
        """
        from kvmlab.labs.export import free_path, write_lecture

        place = free_path(path, replace=replace)
        with speaking(self._language):
            lecture = self._lecture()
            told = lecture if self.predict.value else lecture.told()
            return write_lecture(place, told, self._language, replace=replace)

    # -- what a lab of its own says -------------------------------------------------------

    @abstractmethod
    def _make_controls(self) -> list[ipywidgets.Widget]:
        """Rows of controls; each that stands for a key of the plan is bound to it (`_bind`)."""

    @abstractmethod
    def _reach(self, plan: dict[str, object]) -> None:
        """Make ``plan`` real, or raise and leave what was there as it was."""

    @abstractmethod
    def _scene(self) -> Scene:
        """What the player shows of what has been reached."""

    @abstractmethod
    def _facts(self) -> list[str]:
        """Sentences, the first of which says what has changed."""

    def _tables(self) -> list[Table]:
        """The numbers behind every chart."""
        return []

    def _middle(self) -> str:
        """More of the desk, between the facts and the tables: HTML, its text escaped."""
        return ""

    @abstractmethod
    def _lecture(self) -> Lecture:
        """All that is shown at the end of the last step, for a page without a kernel."""

    @abstractmethod
    def _code(self, plan: dict[str, object]) -> str:
        """Lines of Python that make ``plan`` real without a lab."""

    def _views(self) -> list[ipywidgets.Widget]:
        """What stands between the notice and the desk: the player, charts."""
        return [self.player]

    def _below(self) -> list[ipywidgets.Widget]:
        """What stands below the desk."""
        return []

    def _draw_charts(self) -> None:
        """Put new numbers into the charts, one message each."""

    # -- from plan to plan ------------------------------------------------------------------

    def _go(self, plan: dict[str, object]) -> None:
        """A new plan, after which there is nothing to redo."""
        plan = self._checked(plan)
        if plan == self._plans[self._at]:
            return
        self._arrive(plan)
        self._plans = [*self._plans[: self._at + 1], plan][-KEPT:]
        self._at = len(self._plans) - 1
        self._present()

    def _move(self, at: int) -> None:
        self._arrive(self._plans[at])
        self._at = at
        self._present()

    def _arrive(self, plan: Plan) -> None:
        """Make ``plan`` real; if that fails, the controls say again what is."""
        try:
            with speaking(str(plan["language"])):
                self._reach(dict(plan))
        except Exception:
            self._reach(self.plan)
            self._follow()
            raise

    def _present(self) -> None:
        """Say and draw the plan where we are; a change of language alone keeps the step."""
        spoken = self.notice.language
        self.notice.language = self._language
        with speaking(self._language):
            self._follow()
            if spoken != self._language:
                self._words.speak()
                self.player.relabel()
            self._show(self.player.step if spoken != self._language else 0)

    def _show(self, step: int) -> None:
        scene = self._scene()
        if not self.predict.value:
            for one in scene.steps:
                one.ask = None
        self.player.show(scene, min(step, len(scene.steps) - 1))
        self._say()  # what can be read goes first: the first chart of a session loads bqplot
        self._draw_charts()

    def _say(self) -> None:
        """Everything that is text, in one message: facts, tables, the panels that are open."""
        lines = "".join(f"<div>{escape(line)}</div>" for line in self._facts())
        parts = [STYLE, f'<div role="status">{lines}</div>', self._middle()]
        tables = "".join(map(table_html, self._tables()))
        if tables:
            title = escape(say("lab.tables"))
            parts.append(f"<details><summary>{title}</summary>{tables}</details>")
        parts += [
            _panel(name, getattr(self, name)) for name in self.PANELS if self._open[name].value
        ]
        self.desk.value = "".join(parts)

    def _checked(self, plan: Plan) -> dict[str, object]:
        """``plan``, if it is one of this lab and its language is spoken here."""
        if plan.get("language") not in LANGUAGES:
            raise BadChoice(f"no sentences in {plan.get('language')!r:.20}")
        return fitting(plan, self.BEGINNING)

    # -- controls -----------------------------------------------------------------------------

    @property
    def _language(self) -> str:
        return str(self._plans[self._at]["language"])

    def _did(self) -> Sequence[object]:
        did = self._plans[self._at].get("did", [])
        return did if isinstance(did, list) else []

    def _bind(self, key: str, control: ipywidgets.Widget) -> ipywidgets.Widget:
        """``control``, which shows the plan's ``key`` and changes it."""
        self._bound[key] = control
        control.add_class(f"kvmlab-for-{key}")  # so that a scene can do without it
        control.observe(lambda change: self._chosen(key, change.new), names="value")
        return control

    def _chosen(self, key: str, value: object) -> None:
        if not self._words.busy:
            self.change(**{key: value})

    def _follow(self) -> None:
        """Let each bound control show what the plan says."""
        with self._words.replacing():
            for key, control in self._bound.items():
                control.value = self._plans[self._at][key]

    def _button(self, key: str, act: object) -> ipywidgets.Button:
        button = ipywidgets.Button(layout=ipywidgets.Layout(width="auto"))
        button.on_click(act)
        return self._words.on(button, key)

    def _make_tools(self) -> None:
        words = self._words
        self._open = {name: self._toggle(f"lab.{name}") for name in self.PANELS}
        self.predict = self._toggle("lab.predict", chosen=True)
        self.back = self._button("lab.undo", self.undo)
        self.forth = self._button("lab.redo", self.redo)
        self.opened = ipywidgets.Text(
            continuous_update=False,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="360px", max_width="100%"),
        )
        words.on(self.opened, "lab.open")
        self.loader = self._button("lab.open.now", lambda _: self.load(self.opened.value))
        self.opened.layout.display = self.loader.layout.display = "none"  # with the share string
        for control in (*self._open.values(), self.predict):
            control.observe(self._retell, names="value")

    def _toggle(self, key: str, *, chosen: bool = False) -> ipywidgets.Checkbox:
        layout = ipywidgets.Layout(width="max-content")
        return self._words.on(ipywidgets.Checkbox(value=chosen, indent=False, layout=layout), key)

    def _tools(self) -> list[ipywidgets.Widget]:
        return [self.back, self.forth, self.predict, *self._open.values()]

    @guarded
    def _retell(self, change: object) -> None:
        """A panel was opened or closed, or questions are wanted or not."""
        shared = self._open["share"].value
        self.opened.layout.display = self.loader.layout.display = None if shared else "none"
        with speaking(self._language):
            if getattr(change, "owner", None) is self.predict:
                self._show(self.player.step)
            else:
                self._say()

    @staticmethod
    def _row(*controls: ipywidgets.Widget) -> ipywidgets.Box:
        layout = ipywidgets.Layout(
            flex_flow="row wrap", align_items="center", grid_gap="0 16px", overflow="visible"
        )
        return ipywidgets.Box(controls, layout=layout)

    def __repr__(self) -> str:
        """What is shown, in one line: the same text each time."""
        with speaking("en"):
            return f"{self.NAME}({' '.join(self._facts()[:1])})"


def _panel(name: str, text: str) -> str:
    """The share string or the code, to select and copy."""
    title = escape(say(f"lab.{name}"))
    return (
        f'<section class="kvmlab-panel" aria-label="{title}"><strong>{title}</strong>'
        f'<pre tabindex="0" class="kvmlab-{name}">{escape(text)}</pre></section>'
    )
