"""Class lists: a CSV file with a column of ids, as registrars, Canvas and nbgrader write them.

Ids become names of folders (nbgrader) and are looked up when an assignment is graded, so one that
would mean something to a file system or to a spreadsheet is refused.  Other columns are not used.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from kvmlab.base.errors import KvmlabError

MOST_BYTES, MOST_STUDENTS, MOST_CHARACTERS = 4 << 20, 5000, 64
_ID = re.compile(r"[^\W_][\w.@-]*")
_DELIMITERS = ",;\t"


class BadRoster(KvmlabError, ValueError):
    """A class list that cannot be used; the text names the file, the line and its content."""


def read_roster(path: Path, column: str = "id") -> tuple[str, ...]:
    """The ids in ``column`` in the order of the file.  Raises `BadRoster`, or OSError."""
    rows = _rows(path)
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    found = [n for n, name in enumerate(names) if name.casefold() == column.casefold()]
    if len(found) != 1:
        have = ", ".join(names)[:80] or "nothing"
        many = "no" if not found else "more than one"
        raise BadRoster(f"{path.name} has {many} column {column!r} in its first line, but {have}")
    ids: dict[str, tuple[str, int]] = {}
    for number, row in rows:
        if not any(cell.strip() for cell in row):
            continue
        student = _id(path, number, row[found[0]].strip() if len(row) > found[0] else "")
        same = unicodedata.normalize("NFKC", student).casefold()  # one folder on some systems
        if same in ids:
            other, line = ids[same]
            raise BadRoster(f"{path.name}, line {number}: {student!r} is {other!r} of line {line}")
        ids[same] = student, number
        if len(ids) > MOST_STUDENTS:
            raise BadRoster(f"{path.name} has more than {MOST_STUDENTS} students; split it")
    if not ids:
        raise BadRoster(f"{path.name} has no student below its first line")
    return tuple(student for student, _ in ids.values())


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of the file with their numbers, split into cells."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise BadRoster(f"{path.name} is larger than {MOST_BYTES >> 20} MiB: no class list")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRoster(f"{path.name} is no text in UTF-8; save it as CSV UTF-8") from None
    if "\0" in text:
        raise BadRoster(f"{path.name} is no text: it holds zero bytes; save it as CSV UTF-8")
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadRoster(f"{path.name}, line {reader.line_num}: {error}") from None
        yield reader.line_num, row


def _id(path: Path, number: int, text: str) -> str:
    """``text`` if it may be an id; raises `BadRoster`."""
    if not text:
        raise BadRoster(f"{path.name}, line {number}: there is no id")
    if not _ID.fullmatch(text) or len(text) > MOST_CHARACTERS or text.endswith("."):
        raise BadRoster(
            f"{path.name}, line {number}: {text[:MOST_CHARACTERS]!r} is no id; it begins with a "
            f"letter or digit and has up to {MOST_CHARACTERS} letters, digits and . _ @ -"
        )
    return text
