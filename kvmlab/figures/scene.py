"""A scene: one drawing with named elements, and the steps that light them.

A scene is plain data.  A test reads it without a browser, `Scene.to_json` is what the player in
the browser is given, and a lecture page holds the very same data.
"""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["now", "done", "used", "fault"]
"""How an element is lit: the step itself, behind us, part of this step, or where it failed."""


@dataclass(slots=True)
class Table:
    """Rows of text under column titles, with a caption that says what they are."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(slots=True)
class Ask:
    """A question to answer, or to skip, before its step is shown."""

    question: str
    choices: list[str]
    answer: int  # which of the choices is right, from 0
    feedback: list[str]  # what is said to each choice


@dataclass(slots=True)
class SceneStep:
    """One state of the scene, complete in itself: any step can be jumped to."""

    sentence: str
    lit: dict[str, Role] = field(default_factory=dict)  # key of an element -> how it is lit
    texts: dict[str, str] = field(default_factory=dict)  # key of a text -> what it reads now
    rows: list[list[str]] = field(default_factory=list)  # what this step adds to the table
    detail: Table | None = None  # a closer look at the one thing of this step
    ask: Ask | None = None


@dataclass(slots=True)
class Scene:
    """A drawing, the titles of its table, and its steps.

    Elements of ``svg`` carry ``data-key``; elements of class ``kvm-el`` can be chosen.
    The rows of all steps, one after the other, are the table that tells the same as the drawing.
    """

    title: str
    svg: str
    caption: str
    columns: list[str]
    steps: list[SceneStep]
    without: list[str] = field(default_factory=list)  # controls of a lab with no say in it

    def to_json(self) -> dict[str, object]:
        """The scene as dicts, lists and strings, ready for `json.dumps`."""
        return _named(self) | {"steps": [_step(one) for one in self.steps]}


def _step(step: SceneStep) -> dict[str, object]:
    return _named(step) | {
        "detail": step.detail and _named(step.detail),
        "ask": step.ask and _named(step.ask),
    }


def _named(one: Scene | SceneStep | Table | Ask) -> dict[str, object]:
    """The fields by their names; lists and dicts may go on changing in the scene."""
    fields = ((name, getattr(one, name)) for name in one.__slots__)
    return {name: held.copy() if isinstance(held, list | dict) else held for name, held in fields}
