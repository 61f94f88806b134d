"""A lab whose numbers are those of the step that its player shows."""

from collections.abc import Sequence
from typing import Protocol

from kvmlab.base.errors import BadChoice
from kvmlab.labs.guard import guarded
from kvmlab.labs.lab import Lab
from kvmlab.text import speaking

LAST = 1_000_000  # a step beyond any scene: its last


class Looks(Protocol):
    """Who looks at something that the lab did not make."""

    def again(self) -> None:
        """Look again."""


class SteppedLab(Lab):
    """Desk and chart follow the player, and show nothing that is behind an open question.

    A lab of its own sets ``_shown`` in its `_scene`: for each step, the place in its own records
    that the step is about.  Where no questions are wanted, what came of a change is there at once.
    """

    _shown: Sequence[int]
    _settled: set[int]
    _showing = True
    _look: Looks | None = None  # at what is the learner's own, if the lab is for that

    def _show(self, step: int) -> None:
        self._settled, self._showing = set(), True
        try:
            super()._show(step if self.predict.value else LAST)
        finally:
            self._showing = False

    @guarded
    def look_again(self, _button: object = None) -> None:
        """Show a guest of one's own as it is now, and what became of it since the last look."""
        if self._look is None:
            raise BadChoice("this lab has a guest of its own making; it shows all that is done")
        self._look.again()
        with speaking(self._language):
            self._show(0)

    def _follow_steps(self) -> None:
        """Hear of every step and every answer, from now on."""
        self.player.observe(self._stepped, names=["step", "answer"])

    @guarded
    def _stepped(self, change: object) -> None:
        if self._showing:
            return
        if getattr(change, "name", "") == "answer" and "step" in self.player.answer:
            self._settled.add(int(self.player.answer["step"]))
        self._retell(change)
        with speaking(self._language):
            self._draw_charts()

    @property
    def at(self) -> int:
        """The place in the lab's records that is shown: none behind an open question."""
        step = self.player.step
        ask = self.player.scene["steps"][step]["ask"]
        hidden = ask is not None and step not in self._settled
        return self._shown[max(step - hidden, 0)]

    @property
    def ahead(self) -> int:
        """How many steps are still to come."""
        return len(self._shown) - 1 - self.player.step
