"""The journal of a sweep: a file of JSON lines to which each finished cell is appended at once.

The first line says which sweep it is, every other one is a finished cell.  A line is one write, on
the disk before the next cell is asked for, so what can be torn is the last line only: it has no
newline, it is cut off, and its cell is run again.
"""

import contextlib
import errno
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvmlab.base.errors import BadChoice

FORMAT = 1
"""Of the lines; a file of another format is not read."""

LARGEST = 256 << 20  # bytes of a journal: some hundred thousand cells

Line = dict[str, Any]


class Journal:
    """The journal in ``path``, to which one sweep at a time writes; made where there is none.

    ``header`` is plain data that says which sweep it is.  ``finished`` are the lines that the file
    had when it was opened.  Raises `BadChoice` for a file that is none, is another sweep's, or is
    being written to, and `OSError` with the name of the file.
    """

    def __init__(self, path: str | Path, header: Line) -> None:
        self.path = Path(path)
        self._header = {"kvmlab_sweep": FORMAT, **header}
        self.finished: list[Line] = []
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags, 0o666)
        try:
            self._lock()
            self._begin()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        """Open while the sweep runs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; all of it is on the disk already."""
        os.close(self._file)

    def append(self, line: Line) -> None:
        """Add one line and wait until it is on the disk; raises `OSError`, and adds nothing."""
        data = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            self._write(data)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, end)
            raise OSError(error.errno, os.strerror(error.errno or 0), str(self.path)) from None

    def _write(self, data: bytes) -> None:
        if os.write(self._file, data) != len(data):  # the last block of a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file)

    def _lock(self) -> None:
        """Refuse a file that another sweep writes to, where the system can tell."""
        try:
            import fcntl  # noqa: PLC0415  not on Windows
        except ImportError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise BadChoice(f"{self.path} is being written to by another sweep") from None
            # else a file system without locks, on which nobody can be told apart

    def _begin(self) -> None:
        """Read what is there, cut off what is torn, and write the header where there is none."""
        data = self._held()
        whole = data[: data.rfind(b"\n") + 1]
        lines = [
            self._parsed(line, number) for number, line in enumerate(whole.split(b"\n")[:-1], 1)
        ]
        if lines:
            self._compare(lines[0])
        elif data and not self._first_line().startswith(data):
            raise BadChoice(f"{self.path} is no journal of a sweep; choose another file")
        os.ftruncate(self._file, len(whole))
        self.finished = lines[1:]
        if not lines:
            self.append(self._header)

    def _held(self) -> bytes:
        """What the file has; raises `BadChoice` for a device, a pipe, or what is far too long."""
        if not self.path.is_file():
            raise BadChoice(f"{self.path} is no regular file; choose another for the journal")
        if self.path.stat().st_size > LARGEST:
            raise BadChoice(f"{self.path} has more than {LARGEST:,} bytes; choose another file")
        return self.path.read_bytes()

    def _first_line(self) -> bytes:
        return json.dumps(self._header, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def _parsed(self, line: bytes, number: int) -> Line:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):  # RecursionError: nested as no cell is
            found = None
        if not isinstance(found, dict) or ("kvmlab_sweep" if number == 1 else "cell") not in found:
            what = "no journal of a sweep" if number == 1 else f"damaged: line {number} is no cell"
            raise BadChoice(f"{self.path} is {what}; choose another file")
        return found

    def _compare(self, header: Line) -> None:
        """Refuse the journal of another sweep, and say what differs."""
        mine = json.loads(self._first_line())
        for key in {**mine, **header}:
            if mine.get(key) != header.get(key):
                raise BadChoice(
                    f"{self.path} is the journal of another sweep: its {key.replace('_', ' ')} "
                    f"are {_short(header.get(key))}, not {_short(mine.get(key))}; "
                    "choose another file"
                )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
