"""The player: the one widget that shows scenes.  Its other half runs in the browser.

That half is one ES module of two files (``picture.js``, ``player.js``) and one style sheet of
three: what is around the drawing, the drawing, and the lab around both.
"""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from kvmlab.figures.scene import Scene
from kvmlab.text import say

LABELS = (
    *("toolbar", "first", "back", "play", "pause", "forward", "last"),
    *("scrub", "count", "twin", "skip", "asked", "svg", "png"),
)
MODULE = ("picture.js", "player.js")
STYLE = ("player.css", "drawing.css", "lab.css")


def module() -> str:
    """The source of the ES module: what a page needs, with `style`, to play scenes."""
    return _joined(MODULE)


def style() -> str:
    """The style sheet of players and labs."""
    return _joined(STYLE)


def _joined(names: tuple[str, ...]) -> str:
    folder = Path(__file__).parent
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


class Player(anywidget.AnyWidget):
    """Shows one scene, steps through it in the browser, and says what the learner did.

    The browser moves ``step``, names in ``chosen`` the element that was picked last, and leaves in
    ``answer`` the last answer to a question: ``{"step", "choice", "right"}``, choice -1 if it was
    skipped.
    """

    _esm = module()
    _css = style()

    scene = traitlets.Dict(help="the scene, as `Scene.to_json` gives it").tag(sync=True)
    step = traitlets.Int(0, help="the step shown, from 0").tag(sync=True)
    chosen = traitlets.Unicode("", help="key of the element chosen last").tag(sync=True)
    answer = traitlets.Dict(help="the last answer to a question").tag(sync=True)
    labels = traitlets.Dict(help="the words on the controls").tag(sync=True)

    def __init__(self, scene: Scene | None = None) -> None:
        """A player of ``scene``, or an empty one."""
        super().__init__(labels=spoken_labels())
        if scene:
            self.show(scene)

    def show(self, scene: Scene, step: int = 0) -> None:
        """Show ``scene`` from ``step`` on, in one message to the browser."""
        with self.hold_sync(), self.hold_trait_notifications():
            self.set_trait("scene", scene.to_json())
            self.step, self.chosen, self.answer = step, "", {}

    def relabel(self) -> None:
        """Say the words on the controls in the language spoken now."""
        self.set_trait("labels", spoken_labels())

    @property
    def steps(self) -> int:
        """How many steps the scene has."""
        return len(self.scene.get("steps", ()))

    @property
    def sentence(self) -> str:
        """What is said at the step shown."""
        return str(self.scene["steps"][self.step]["sentence"]) if self.steps else ""

    @traitlets.validate("step")
    def _within_the_scene(self, proposal: dict[str, Any]) -> int:
        return max(0, min(int(proposal["value"]), self.steps - 1))

    def __repr__(self) -> str:
        """Which scene, and where in it: the same text each time."""
        shown = self.step + 1 if self.steps else 0
        return f"Player({self.scene.get('title', '')!r}, step {shown} of {self.steps})"


def spoken_labels() -> dict[str, str]:
    """The words on the controls, in the language spoken."""
    blanks = {"number": "{number}", "total": "{total}"}  # the browser puts the numbers in
    return {name: say(f"player.{name}", **blanks) for name in LABELS}
