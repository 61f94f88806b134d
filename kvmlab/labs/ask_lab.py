"""A question in the notebook: asked, judged, with hints one by one and the engine's own steps."""

from html import escape

import ipywidgets

from kvmlab import course
from kvmlab.course import Verdict
from kvmlab.course.problem import Bits, Choice
from kvmlab.course.progress import NAME, Progress
from kvmlab.labs.guard import Notice, guarded
from kvmlab.labs.words import Words, language_control
from kvmlab.text import say, speaking

STYLE = """<style>
.kvmlab-ask .widget-html-content { color: var(--jp-ui-font-color1, #1f1f1f); font-size: 14px;
  line-height: 20px; height: auto; white-space: normal }
.kvmlab-ask p { margin: 0 0 8px; max-width: 46em }
.kvmlab-ask pre { font-family: var(--jp-code-font-family, monospace); line-height: 20px;
  margin: 0 0 8px; overflow-x: auto; color: inherit; background: none }
.kvmlab-ask small { color: var(--jp-ui-font-color2, #5f5f5f); font-size: 13px }
</style>"""


class Ask(ipywidgets.VBox):
    """One question.  Scripts read ``question`` and ``verdict``, and call `check` and `another`.

    What was answered is kept in the file ``progress``, unless that is "".  A file that is none is
    told of and left as it is, and nothing is kept.  Raises `BadChoice`.
    """

    verdict: Verdict | None  # on the last answer
    _judged: object  # that answer
    _hints: int  # how many are shown
    _revealed: bool  # whether the solution is

    def __init__(
        self, kind: str, seed: int = 7, difficulty: int = 1, *, progress: str = NAME
    ) -> None:
        self.question = course.question(kind, seed, difficulty)
        self._asked = kind, seed
        self.notice, self.language = Notice(), language_control("en")
        self.progress: Progress | None = None
        with self.notice.watching():
            self.progress = Progress(progress) if progress else None
        self._words = Words()
        self.prompt, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.status.add_class("kvmlab-status")
        self._field = ipywidgets.Box(layout=ipywidgets.Layout(overflow="visible"))
        self._forget()
        buttons = self._buttons()
        super().__init__([self.prompt, self._field, buttons, self.notice, self.status])
        self.add_class("kvmlab-lab")
        self.add_class("kvmlab-ask")
        self.language.observe(self._speak, names="value")
        self._words.speak()
        self._show()

    # -- what scripts use -------------------------------------------------------------------

    @guarded
    def check(self, answer: object = None) -> None:
        """Judge an answer; without one, what the controls say."""
        given = self._given() if answer is None else answer
        if given is None or (given == self._judged and self.verdict is not None):
            return
        self._judged = given
        with speaking(self.language.value):
            self.verdict = course.check(self.question, given)
        if self.progress:
            self.progress.record(self.question, given, self.verdict, self._hints)
        self._say()

    @guarded
    def hint(self, _button: object = None) -> None:
        """Show one hint more."""
        self._hints = min(self._hints + 1, len(self.question.hints))
        self._say()

    @guarded
    def reveal(self, _button: object = None) -> None:
        """Show the solution, with what the engine did."""
        self._revealed = True
        self._say()

    @guarded
    def another(self, _button: object = None) -> None:
        """Ask the same kind again, with the next seed."""
        kind, seed = self._asked
        self.question = course.question(kind, seed + 1, self.question.difficulty)
        self._asked = kind, seed + 1
        self._forget()
        self._show()

    # -- controls -----------------------------------------------------------------------------

    def _forget(self) -> None:
        """Nothing was answered, and nothing helped."""
        self.verdict = None
        self._judged = None
        self._hints = 0
        self._revealed = False

    def _buttons(self) -> ipywidgets.Box:
        acts = {
            "check": lambda _: self.check(),
            "hint": self.hint,
            "solution": self.reveal,
            "another": self.another,
        }
        found = []
        for name, act in acts.items():
            button = ipywidgets.Button(layout=ipywidgets.Layout(width="auto"))
            button.on_click(act)
            found.append(self._words.on(button, f"course.ask.{name}"))
        layout = ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 8px", overflow="visible")
        return ipywidgets.Box([*found, self.language], layout=layout)

    def _make_field(self) -> list[ipywidgets.Widget]:
        """The controls for an answer of this form."""
        form, wide = self.question.form, ipywidgets.Layout(width="max-content")
        if isinstance(form, Choice):
            options = [(form.show(name), name) for name, _ in form.options]
            radio = ipywidgets.RadioButtons(
                options=options,
                value=None,
                description=say("course.ask.answer"),
                layout=wide,
            )
            return [radio]
        if isinstance(form, Bits):
            return [
                ipywidgets.Checkbox(description=name, indent=False, layout=wide)
                for name in form.names
            ]
        text = ipywidgets.Text(
            description=say("course.ask.answer"),
            continuous_update=False,
            style={"description_width": "initial"},
            layout=ipywidgets.Layout(width="320px"),
        )
        text.observe(lambda _: self.check(), names="value")  # Enter, as well as the button
        return [text]

    def _given(self) -> object:
        """What the controls say; None if they say nothing."""
        controls = self._field.children
        if isinstance(self.question.form, Bits):
            return frozenset(one.description for one in controls if one.value)
        return controls[0].value or None

    # -- what is seen -------------------------------------------------------------------------

    @guarded
    def _speak(self, _change: object) -> None:
        """The other language: all is said anew, and what was chosen stays."""
        self.notice.language = self.language.value
        given = [one.value for one in self._field.children]
        with speaking(self.language.value):
            self._words.speak()
            if self._judged is not None:
                self.verdict = course.check(self.question, self._judged)
        self._show()
        for control, value in zip(self._field.children, given, strict=True):
            control.value = value

    def _show(self) -> None:
        with speaking(self.language.value):
            given = "\n".join(map(str, self.question.given))
            shown = f'<pre tabindex="0">{escape(given)}</pre>' if given else ""
            self.prompt.value = (
                f"{STYLE}<p>{escape(self.question.prompt)}</p>{shown}"
                f"<small>{escape(self.question.expects)} · {escape(self.question.id)}</small>"
            )
            self._field.children = self._make_field()
            self._field.layout.flex_flow = "row wrap"
        self._say()

    def _say(self) -> None:
        """The verdict, the hints that were asked for, and the solution if it was."""
        with speaking(self.language.value):
            lines = [self.verdict.feedback] if self.verdict is not None else []
            lines += self.question.hints[: self._hints]
            parts = "".join(f"<p>{escape(line)}</p>" for line in lines)
            if self._revealed:
                rule, *steps, answer = map(escape, self.question.explanation.splitlines())
                parts += f'<p>{rule}</p><pre tabindex="0">{"<br>".join(steps)}</pre><p>{answer}</p>'
        self.status.value = f'<div role="status">{parts}</div>'

    def __repr__(self) -> str:
        """The question's name, and how it was answered."""
        how = "open" if self.verdict is None else self.verdict.outcome
        return f"ask({self.question.id}: {how})"
