"""Nothing goes wrong in silence: an error in a callback becomes a message in the lab.

An exception in a widget's callback is lost to the learner.  A lab holds one `Notice`; what runs
under it, by `guarded` or ``with notice.watching():``, shows its error there and the lab goes on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from traceback import format_exception
from typing import Any

import ipywidgets

from kvmlab.base.errors import KvmlabError
from kvmlab.text import say, speaking


class Notice(ipywidgets.HTML):
    """The line of a lab where trouble is told; the style sheet hides it while there is none."""

    def __init__(self) -> None:
        """A notice that says nothing."""
        super().__init__()
        self.language = "en"
        self.add_class("kvmlab-notice")

    def tell(self, error: Exception) -> None:
        """Show ``error``: ours as its one line, any other with its details to copy."""
        if isinstance(error, KvmlabError):
            inside = escape(str(error))
        else:
            lines = escape("".join(format_exception(error)))
            with speaking(self.language):
                short = escape(say("guard.trouble", error=f"{type(error).__name__}: {error}"))
                title = escape(say("guard.details"))
            inside = f"{short}<details><summary>{title}</summary><pre>{lines}</pre></details>"
        self.value = f'<div role="alert">{inside}</div>'

    def clear(self) -> None:
        """Say nothing."""
        self.value = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What is done inside may fail: then the error is told here and swallowed."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, the learner must see it
            self.tell(error)
        else:
            self.clear()

    def __repr__(self) -> str:
        """What is said."""
        return f"Notice({self.value!r})"


def guarded(callback: Callable[..., None]) -> Callable[..., None]:
    """A method of a lab that tells its errors in the lab's ``notice`` instead of losing them."""

    @wraps(callback)
    def safe(lab: Any, *arguments: object, **options: object) -> None:  # noqa: ANN401  any lab
        with lab.notice.watching():
            callback(lab, *arguments, **options)

    return safe
