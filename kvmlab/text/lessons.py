"""The course as data: ``notebooks/course.toml``, and where the notebooks are."""

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kvmlab.base.errors import BadChoice, KvmlabError

INDEX, FILE = "00_index.ipynb", "course.toml"
_LISTS = ("needs", "goals", "questions", "programs")


@dataclass(frozen=True, slots=True)
class Lesson:
    """One notebook: its place in the course and what it states of itself.

    ``needs`` are numbers of lessons, ``questions`` kinds for `course.question`, ``programs`` tasks
    for `course.check_program`.
    """

    number: str
    file: str
    title: str
    question: str
    minutes: int
    zh: str = ""  # the title in Chinese
    needs: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    folder: Path = field(default=Path(), repr=False)

    def called(self, language: str) -> str:
        """The title in a language; in English where there is no other."""
        return self.zh if language == "zh" and self.zh else self.title

    @property
    def path(self) -> Path:
        """The notebook."""
        return self.folder / self.file


def shipped() -> Path:
    """The folder of the notebooks that came with kvmlab, from a wheel or a checkout.

    Raises `KvmlabError` when the installation has none.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / INDEX).is_file():
            return folder
    raise KvmlabError(f"{package} came without its notebooks; install kvmlab again")


@cache
def lessons() -> tuple[Lesson, ...]:
    """All lessons in the order of the course, the index first.  Raises `KvmlabError`."""
    return read_lessons(shipped())


def lesson(number: str) -> Lesson:
    """The lesson with a number, ``3`` or ``03``; raises `BadChoice`."""
    known = {one.number: one for one in lessons()[1:]}
    found = known.get(number.zfill(2))
    if found is None:
        raise BadChoice(f"there is no lesson {number[:40]!r}; choose from {', '.join(known)}")
    return found


def read_lessons(folder: Path) -> tuple[Lesson, ...]:
    """The lessons of the ``course.toml`` in ``folder``; raises `BadChoice` for a broken one."""
    path = folder / FILE
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        found = tuple(_lesson(one, folder) for one in data["lesson"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadChoice(f"{path} cannot be read: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise BadChoice(f"{path} does not say what a lesson needs: {error}") from None
    numbers = [one.number for one in found]
    for place, one in enumerate(found):
        if one.number in numbers[:place] or not set(one.needs) <= set(numbers[:place]):
            raise BadChoice(f"{path}: lesson {one.number} needs lessons that come before it, once")
    return found


def _lesson(row: dict[str, Any], folder: Path) -> Lesson:
    values: dict[str, Any] = {}
    for name, value in row.items():
        kind = list if name in _LISTS else int if name == "minutes" else str
        if type(value) is not kind:
            message = f"{name} of lesson {row.get('number')!r} is no {kind.__name__}"
            raise TypeError(message)
        values[name] = tuple(map(str, value)) if isinstance(value, list) else value
    return Lesson(**values, folder=folder)
