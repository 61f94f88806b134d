"""The glossary in a notebook: all terms, or those that have a word in them."""

import ipywidgets

from kvmlab.figures.glossary import glossary_html, matching
from kvmlab.labs.guard import Notice, guarded
from kvmlab.labs.words import Words, language_control
from kvmlab.text import LANGUAGES, say, speaking


class Glossary(ipywidgets.VBox):
    """The terms that have ``find`` in them; "" shows all.  Raises `BadChoice` for a language."""

    def __init__(self, find: str = "", language: str = "en") -> None:
        with speaking(language):
            self.notice, self.language = Notice(), language_control(language)
        self._words = Words()
        self.desk = ipywidgets.HTML()
        self.find = ipywidgets.Text(
            value=find,
            continuous_update=True,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="320px", max_width="100%"),
        )
        self._words.on(self.find, "glossary.find")
        row = ipywidgets.Box(
            [self.find, self.language], layout=ipywidgets.Layout(flex_flow="row wrap")
        )
        super().__init__([row, self.notice, self.desk])
        self.add_class("kvmlab-lab")
        self.add_class("kvmlab-glossary")
        for control in (self.find, self.language):
            control.observe(self._show, names="value")
        self._show(None)

    @guarded
    def _show(self, change: object) -> None:
        self.notice.language = self.language.value
        with speaking(self.language.value):
            if getattr(change, "owner", None) is not self.find:
                self._words.speak()
            self.desk.value = glossary_html(matching(self.find.value), self.find.value)

    def __repr__(self) -> str:
        """What it is, in its language: the same text each time."""
        with speaking(self.language.value):
            return f"{say('glossary.title')} ({LANGUAGES[self.language.value]})"
