"""What was answered, and the labs as they are: seen, saved, downloaded and merged."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from kvmlab.base.errors import BadChoice
from kvmlab.course.progress import NAME, Progress
from kvmlab.course.progress_told import kept_labs, score_table, sentences
from kvmlab.labs.guard import Notice, guarded
from kvmlab.labs.lab import Lab
from kvmlab.labs.markup import STYLE, table_html
from kvmlab.labs.words import Words, language_control
from kvmlab.text import say, speaking


class Keep(anywidget.AnyWidget):
    """A button: pressed, it asks ``make`` for a file's name and text, which the browser saves."""

    _esm = Path(__file__).with_name("keep.js")

    label = traitlets.Unicode("").tag(sync=True)

    def __init__(self, make: Callable[[], tuple[str, str] | None]) -> None:
        super().__init__()
        self._make = make
        self.on_msg(self._asked)

    def _asked(self, _widget: object, message: object, _buffers: object) -> None:
        made = self._make() if message == {"wanted": "file"} else None
        if made:
            self.send({"name": made[0], "text": made[1]})


class ProgressPanel(ipywidgets.VBox):
    """The progress in the file ``path``, with one button that saves and downloads all of it.

    Saved with the answers are the share strings of ``labs``, and of every lab that has a name in
    the notebook or was a cell's output.  A file that is none is told of, and left as it is.
    """

    def __init__(self, path: str = NAME, labs: Iterable[Lab] = ()) -> None:
        self.path, self._labs = Path(path).expanduser(), tuple(labs)
        self.notice, self.language = Notice(), language_control("en")
        self._words, self._news = Words(), ""
        self.desk = ipywidgets.HTML()
        self.desk.add_class("kvm-modes")  # how tables look
        self.keeper = self._words.on(Keep(self._file), "progress.keep", "label")
        self.upload = ipywidgets.FileUpload(
            accept=".json", multiple=False, layout=ipywidgets.Layout(width="auto")
        )
        self._words.on(self._words.on(self.upload, "progress.merge"), "progress.merging", "tooltip")
        self.upload.observe(self._uploaded, names="value")
        self.language.observe(self._speak, names="value")
        layout = ipywidgets.Layout(
            flex_flow="row wrap", align_items="center", grid_gap="0 16px", overflow="visible"
        )
        row = ipywidgets.Box([self.keeper, self.upload, self.language], layout=layout)
        super().__init__([row, self.notice, self.desk])
        self.add_class("kvmlab-lab")
        self.add_class("kvmlab-progress")
        self._speak(None)

    # -- what scripts use -------------------------------------------------------------------

    @guarded
    def save(self) -> None:
        """Write the file, with the labs as they are now."""
        self._save()

    @guarded
    def merge(self, data: bytes, name: str) -> None:
        """Take over what the file ``name`` of these bytes has; one that is none changes nothing."""
        progress = Progress(self.path)
        count = progress.merge_bytes(data, name)
        with speaking(self.language.value):
            self._news = say("progress.merged", count=count, name=name)
        self._show(progress)

    # -- what the controls do ---------------------------------------------------------------

    def _file(self) -> tuple[str, str] | None:
        """The file's name and text, saved just now; None if that failed: the notice says why."""
        with self.notice.watching():
            return self.path.name, self._save().text
        return None

    def _save(self) -> Progress:
        progress = Progress(self.path)
        progress.keep(list(self._shares()))
        with speaking(self.language.value):
            self._news = say("progress.saved")
        self._show(progress)
        return progress

    def _shares(self) -> Iterator[tuple[str, str]]:
        """Labs by their share strings; one in which too much was done to share it is left out."""
        for one in self._shown():
            with suppress(BadChoice):
                yield one.NAME, one.share

    def _shown(self) -> list[Lab]:
        """The labs that were given, and those that the notebook knows by a name."""
        from IPython import get_ipython

        shell = get_ipython()
        known = [*self._labs, *(shell.user_ns.values() if shell else ())]
        return list({id(one): one for one in known if isinstance(one, Lab)}.values())

    def _uploaded(self, change: Any) -> None:  # noqa: ANN401  traitlets' bunch
        for one in change.new:
            self.merge(bytes(one["content"]), str(one["name"]))
        if change.new:
            self.upload.value = ()  # the same file can be chosen once more

    @guarded
    def _speak(self, _change: object) -> None:
        self.notice.language, self._news = self.language.value, ""
        with speaking(self.language.value):
            self._words.speak()
        self.desk.value = STYLE
        self._show(Progress(self.path))

    def _show(self, progress: Progress) -> None:
        with speaking(self.language.value):
            lines = [self._news] if self._news else []
            lines += sentences(progress, str(self.path))
            said = "".join(f"<p>{escape(line)}</p>" for line in lines)
            tables = table_html(score_table(progress))
            if progress.shares:
                title = escape(say("progress.shares"))
                inside = table_html(kept_labs(progress))
                tables += f"<details><summary>{title}</summary>{inside}</details>"
            self.desk.value = f'{STYLE}<div role="status">{said}</div>{tables}'

    def __repr__(self) -> str:
        """Which file: the same text each time."""
        return f"progress({self.path.name!r})"
