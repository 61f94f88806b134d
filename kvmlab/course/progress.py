"""What was answered, kept in one file beside the notebooks; it is never sent anywhere.

The file is JSON::

    {"format": "kvmlab-progress", "version": 1,
     "answers": [{"id": "fault.code-1-7@v1", "answer": "0x6", "outcome": "wrong",
                  "mistake": "present-bit", "hints": 0, "time": "2026-11-23T08:30:00+00:00"}],
     "shares": [{"lab": "walk", "share": "kvmlab1.walk.Mh0b...",
                 "time": "2026-11-23T08:31:00+00:00"}]}

Both lists are in the order of their times.  ``outcome`` is a `Verdict`'s, ``mistake`` its
misconception or null, ``hints`` how many were read before.  ``shares`` are labs as they were when
they were saved, by their share strings; a file without any may lack it.  A file of another version
or of no known format is refused and left as it is.  Writing replaces the file in one step, with
what others wrote meanwhile.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from kvmlab.base.errors import KvmlabError
from kvmlab.course.questions import Question, Verdict

FORMAT, VERSION = "kvmlab-progress", 1
NAME = "kvmlab-progress.json"
_OUTCOMES = ("right", "wrong", "unclear")
_MOST = 200  # characters of an answer that are kept
_LARGEST = 32 << 20  # bytes of a progress file: a hundred thousand answers


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
class Share:
    """A lab as it was when it was saved."""

    lab: str
    share: str
    time: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Score:
    """How often a kind of question was asked, answered rightly, and rightly at the first try."""

    asked: int
    right: int
    at_once: int


Kept = TypeVar("Kept", Entry, Share)


class Progress:
    """The progress kept in the file ``path``; a file that is not there yet is an empty one.

    Raises `BadProgress` for a file that is none.
    """

    def __init__(self, path: str | Path = NAME) -> None:
        self.path = Path(path).expanduser()
        self.entries, self.shares = _read(self.path)

    def record(self, question: Question, answer: object, verdict: Verdict, hints: int = 0) -> Entry:
        """Keep one answer, and write the file."""
        entry = Entry(
            question.id,
            str(answer)[:_MOST].encode("utf-8", "replace").decode(),
            verdict.outcome,
            verdict.mistake,
            hints,
            _now(),
        )
        self._keep([entry], [])
        return entry

    def keep(self, shares: Iterable[tuple[str, str]]) -> None:
        """Keep labs, given as names and share strings; one that is kept already is not kept twice.

        The file is written even if there are none.
        """
        known = {one.share for one in self.shares}
        now = _now()
        self._keep([], [Share(lab, share, now) for lab, share in shares if share not in known])

    def merge(self, path: str | Path) -> int:
        """Take over what another file has and this one has not; returns how many answers.

        Raises `BadProgress`, and then changes nothing; FileNotFoundError if there is no such file.
        """
        other = Path(path).expanduser()
        if not other.exists():
            raise FileNotFoundError(2, "No such file or directory", str(other))
        return self.merge_bytes(other.read_bytes(), str(other))

    def merge_bytes(self, data: bytes, name: str) -> int:
        """Take over what is in the file ``name`` of these bytes, as `merge` does."""
        before = len(self.entries)
        self._keep(*_parsed(data, name))
        return len(self.entries) - before

    def export(self, path: str | Path) -> None:
        """Write all of it to another file, in the same format; replaces what is there."""
        _write(Path(path).expanduser(), self.text)

    @property
    def text(self) -> str:
        """All of it in the documented format."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "answers": [asdict(one) for one in self.entries],
            "shares": [asdict(one) for one in self.shares],
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

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

    def _keep(self, entries: Iterable[Entry], shares: Iterable[Share]) -> None:
        with _alone(self.path):
            there = _read(self.path)
            self.entries = _united(self.entries, there[0], entries)
            self.shares = _united(self.shares, there[1], shares)
            _write(self.path, self.text)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _united(*several: Iterable[Kept]) -> list[Kept]:
    """All of them once, in the order of their times."""
    return sorted(dict.fromkeys(one for kept in several for one in kept), key=_when)


def _when(kept: Entry | Share) -> str:
    return kept.time


Contents = tuple[list[Entry], list[Share]]


def _read(path: Path) -> Contents:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return [], []
    return _parsed(data, str(path))


def _parsed(data: bytes, name: str) -> Contents:
    """What a file holds; raises `BadProgress`, which calls it ``name``."""
    if len(data) > _LARGEST:
        raise BadProgress(f"{name} is no progress file: it has more than {_LARGEST:,} bytes")
    try:
        found = json.loads(data.decode("utf-8-sig"))  # some editors put a mark in front
    except UnicodeDecodeError:
        raise BadProgress(f"{name} is no progress file: it is no text") from None
    except (ValueError, RecursionError):  # RecursionError: nested as nobody nests
        raise BadProgress(f"{name} is no progress file: it is no JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadProgress(f"{name} is no progress file: its format is not {FORMAT!r}")
    if found.get("version") != VERSION:
        raise BadProgress(
            f"{name} is a progress file of version {found.get('version')!r:.40}; "
            f"this kvmlab reads version {VERSION}"
        )
    answers, shares = found.get("answers"), found.get("shares", [])
    if not isinstance(answers, list) or not isinstance(shares, list):
        raise BadProgress(f"{name} is no progress file: it has no list of answers")
    return (
        _united(_one(Entry, f"{name}: answer {n}", one) for n, one in enumerate(answers, 1)),
        _united(_one(Share, f"{name}: share string {n}", one) for n, one in enumerate(shares, 1)),
    )


def _one(kind: type[Kept], called: str, found: Any) -> Kept:  # noqa: ANN401  whatever the file has
    try:
        kept = kind(**found)
    except TypeError:
        names = ", ".join(one.name for one in fields(kind))
        raise BadProgress(f"{called} needs exactly {names}") from None
    for one in fields(kind):
        value = getattr(kept, one.name)
        if one.name == "hints":
            fits = type(value) is int
        elif one.name == "outcome":
            fits = value in _OUTCOMES
        else:
            fits = isinstance(value, str) or (one.name == "mistake" and value is None)
        if not fits:
            raise BadProgress(f"{called} has a field that cannot be read: {one.name}")
    return kept


def _write(path: Path, text: str) -> None:
    """Replace the file in one step: whoever reads it sees the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
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
