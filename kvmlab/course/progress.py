"""What was answered, kept in one file beside the notebooks; it is never sent anywhere.

The file is JSON::

    {"format": "kvmlab-progress", "version": 1,
     "answers": [{"id": "fault.code-1-7@v1", "answer": "0x6", "outcome": "wrong",
                  "mistake": "present-bit", "hints": 0, "time": "2026-11-23T08:30:00+00:00"}]}

Answers are in the order of their times.  ``outcome`` is a `Verdict`'s, ``mistake`` its
misconception or null, ``hints`` how many were read before.  A file of another version or of no
known format is refused and left as it is.  Writing replaces the file in one step, with what others
wrote meanwhile.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvmlab.base.errors import KvmlabError
from kvmlab.course.questions import Question, Verdict

FORMAT, VERSION = "kvmlab-progress", 1
NAME = "kvmlab-progress.json"
_OUTCOMES = ("right", "wrong", "unclear")
_MOST = 200  # characters of an answer that are kept


class BadProgress(KvmlabError, ValueError):
    """A progress file that cannot be read; nothing of it was changed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer to one question."""

    id: str
    answer: str
    outcome: str
    mistake: str | None
    hints: int
    time: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Score:
    """How often a kind of question was asked, answered rightly, and rightly at the first try."""

    asked: int
    right: int
    at_once: int


class Progress:
    """The progress kept in the file ``path``; a file that is not there yet is an empty one.

    Raises `BadProgress` for a file that is none.
    """

    def __init__(self, path: str | Path = NAME) -> None:
        self.path = Path(path).expanduser()
        self.entries = _read(self.path)

    def record(self, question: Question, answer: object, verdict: Verdict, hints: int = 0) -> Entry:
        """Keep one answer, and write the file."""
        entry = Entry(
            question.id,
            str(answer)[:_MOST],
            verdict.outcome,
            verdict.mistake,
            hints,
            datetime.now(UTC).isoformat(),
        )
        self._keep([entry])
        return entry

    def merge(self, path: str | Path) -> int:
        """Take over what another file has and this one has not; returns how many answers.

        Raises `BadProgress`, and then changes nothing; FileNotFoundError if there is no such file.
        """
        other = Path(path).expanduser()
        if not other.exists():
            raise FileNotFoundError(2, "No such file or directory", str(other))
        before = len(self.entries)
        self._keep(_read(other))
        return len(self.entries) - before

    def export(self, path: str | Path) -> None:
        """Write all of it to another file, in the same format; replaces what is there."""
        _write(Path(path).expanduser(), self.entries)

    def scores(self) -> dict[str, Score]:
        """Per kind of question: how it went, each question counted once; sorted by name."""
        asked: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.outcome != "unclear":
                asked.setdefault(entry.id, []).append(entry)
        found: dict[str, Score] = {}
        for name, tries in asked.items():
            kind = name.partition("-")[0]
            before = found.get(kind, Score(0, 0, 0))
            right = any(one.outcome == "right" for one in tries)
            at_once = tries[0].outcome == "right" and not tries[0].hints
            found[kind] = Score(before.asked + 1, before.right + right, before.at_once + at_once)
        return dict(sorted(found.items()))

    def _keep(self, entries: Iterable[Entry]) -> None:
        with _alone(self.path):
            self.entries = _united(self.entries, _read(self.path), entries)
            _write(self.path, self.entries)


def _united(*several: Iterable[Entry]) -> list[Entry]:
    """All entries once, in the order of their times."""
    return sorted(dict.fromkeys(one for entries in several for one in entries), key=_when)


def _when(entry: Entry) -> str:
    return entry.time


def _read(path: Path) -> list[Entry]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise BadProgress(f"{path} is no progress file: it is no text") from None
    try:
        found = json.loads(text)
    except ValueError:
        raise BadProgress(f"{path} is no progress file: it is no JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadProgress(f"{path} is no progress file: its format is not {FORMAT!r}")
    if found.get("version") != VERSION:
        raise BadProgress(
            f"{path} is a progress file of version {found.get('version')!r}; "
            f"this kvmlab reads version {VERSION}"
        )
    answers = found.get("answers")
    if not isinstance(answers, list):
        raise BadProgress(f"{path} is no progress file: it has no list of answers")
    return _united(_entry(path, number, one) for number, one in enumerate(answers, start=1))


def _entry(path: Path, number: int, found: Any) -> Entry:  # noqa: ANN401  whatever the file has
    try:
        entry = Entry(**found)
    except TypeError:
        names = ", ".join(one.name for one in fields(Entry))
        raise BadProgress(f"{path}: answer {number} needs exactly {names}") from None
    texts = (entry.id, entry.answer, entry.time, entry.mistake or "")
    if (
        not all(isinstance(one, str) for one in texts)
        or entry.outcome not in _OUTCOMES
        or type(entry.hints) is not int
    ):
        raise BadProgress(f"{path}: answer {number} has a field that cannot be read")
    return entry


def _write(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file in one step: whoever reads it sees the old one or the new one."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "answers": [asdict(one) for one in entries],
    }
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One writer at a time, where the system has locks of files (Windows and Pyodide do not)."""
    try:
        import fcntl  # noqa: PLC0415  not everywhere
    except ImportError:
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
