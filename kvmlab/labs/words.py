"""The words on a lab's controls, which change with the language while their values stay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import ipywidgets

from kvmlab.text import LANGUAGES, say

W = TypeVar("W", bound=ipywidgets.Widget)
Options = Callable[[], Sequence[object]]


class Words:
    """Every control whose words are from the catalogue, so that all can be said anew.

    ``busy`` is true while options are replaced: ipywidgets then shows observers a passing value
    that nobody chose.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[ipywidgets.Widget, Callable[[], None]]] = []
        self.busy = False

    def on(self, control: W, key: str, trait: str = "description") -> W:
        """``control``, whose ``trait`` is the sentence ``key`` in the language spoken."""
        return self._keep(control, lambda: setattr(control, trait, say(key)))

    def options(self, control: W, options: Options) -> W:
        """``control``, whose options are what ``options`` returns in the language spoken."""
        return self._keep(control, lambda: _replace(control, options()))

    def _keep(self, control: W, part: Callable[[], None]) -> W:
        self._parts.append((control, part))
        return control

    def speak(self) -> None:
        """Say all in the language spoken now; no value changes."""
        with self.replacing(), ExitStack() as held:
            for control in {id(control): control for control, _ in self._parts}.values():
                held.enter_context(control.hold_sync())  # one message each
            for _, part in self._parts:
                part()

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """A time in which options are replaced."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False


def _replace(control: ipywidgets.Widget, options: Sequence[object]) -> None:
    """New options with the same value chosen."""
    value = control.value
    control.options = options
    control.value = value


def language_control(language: str) -> ipywidgets.Dropdown:
    """The choice of language, each named in itself."""
    return ipywidgets.Dropdown(
        options=[(name, key) for key, name in LANGUAGES.items()],
        value=language,
        description="Language / 语言",
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="auto", margin="2px 2px 2px auto"),
    )
