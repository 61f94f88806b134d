"""A lecture as a file: a page that steps, a drawing, its points, or a handout."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace as changed
from math import ceil
from pathlib import Path
from types import MappingProxyType

from kvmlab.base.errors import BadChoice
from kvmlab.figures.lecture import Lecture
from kvmlab.labs.browser import by_browser
from kvmlab.labs.page import frame, page, size, still_svg

Writer = Callable[[Lecture, str], bytes]


def free_path(path: Path | str, *, replace: bool = False) -> Path:
    """``path``, if a file can be made there.  Raises `BadChoice` for a wrong ending or a file."""
    place = Path(path).expanduser()
    if place.suffix.lower() not in WRITERS:
        raise BadChoice(f"{place.name[-40:]!r} must end in {', '.join(WRITERS)}")
    if place.is_dir() or (place.exists() and not replace):
        raise BadChoice(f"{place} is there already; name another file, or say that it is replaced")
    if not place.parent.is_dir():
        raise BadChoice(f"{place} cannot be made: {place.parent} is no folder")
    return place


def write_lecture(path: Path, lecture: Lecture, language: str, *, replace: bool = False) -> str:
    """Write ``lecture`` in the kind that ``path`` ends in; returns how another page shows it.

    Raises `BadChoice` as `free_path` does, and `KvmlabError` where Chromium is needed and absent.
    """
    place = free_path(path, replace=replace)
    contents = WRITERS[place.suffix.lower()](lecture, language)
    write_new(place, contents, replace=replace)
    return frame(place.name, lecture.title)


def write_new(path: Path, contents: bytes, *, replace: bool = False) -> None:
    """Write a file whole or not at all; raises `BadChoice` if it is there and is to stay."""
    free_path(path, replace=replace)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".kvmlab-")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
        part.chmod(0o644)
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def html(lecture: Lecture, language: str) -> bytes:
    """The page."""
    return page(lecture, language).encode()


def svg(lecture: Lecture, _language: str) -> bytes:
    """The drawing alone, everything that was touched lit, with the charts."""
    return still_svg(lecture.first).encode()


def png(lecture: Lecture, language: str) -> bytes:
    """The drawing as pixels, two for each of its units."""
    drawing = svg(lecture, language)
    width, height = map(ceil, size(drawing.decode()))
    return by_browser("figure.svg", drawing, "--screenshot", "figure.png", (width, height))


def pdf(lecture: Lecture, language: str) -> bytes:
    """A handout: the figure, every step's sentence, charts and tables, on paper."""
    one = Lecture(lecture.title, changed(lecture.first, choice=()))
    return by_browser("page.html", html(one.told(), language), "--print-to-pdf", "page.pdf")


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {".html": html, ".svg": svg, ".png": png, ".pdf": pdf}
)
"""What makes a file of each kind, by its ending."""
