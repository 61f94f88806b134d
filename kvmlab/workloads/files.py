"""Files of others: opened, unpacked a piece at a time, and never believed.

A file may be plain, gzip or xz, told apart by its first bytes.  What it unpacks to is handed on
in pieces, so memory is bounded whatever its length, and there is an end to how much it may be.
Every error is one line that names the file.
"""

import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import TraceError

MAX_BYTES = 32 << 30  # unpacked; a hundred million lines of lackey are 1.5 GB
MAX_RATIO = 4096  # unpacked bytes for a packed one: logs have 20 to 200, xz reaches 6800 with zeros
ANY_RATIO = 256 << 20  # bytes that a file may unpack to whatever its ratio
XZ_MEMORY = 256 << 20  # bytes for one decoder; `xz -9` needs 65 MiB
CHUNK = 1 << 18  # bytes unpacked at once
HEAD = 1 << 14  # bytes by which a format is told
MAX_LINE = 1 << 16  # bytes; a line of valgrind may quote a whole command
SHOWN = 40  # bytes of a bad line that an error message shows

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"

Progress = Callable[[int, int], None]
"""Told the bytes of the file read so far and its size in bytes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Some records of a trace, in order: values of `Kind`, addresses and sizes."""

    kinds: NDArray[np.uint8]
    addresses: NDArray[np.uint64]
    sizes: NDArray[np.uint64]


class Source:
    """An open file: its name as it is shown, and what it holds, unpacked."""

    def __init__(self, file: BufferedReader, shown: str) -> None:
        self._file, self.shown = file, shown
        self.size = os.fstat(file.fileno()).st_size

    @property
    def done(self) -> int:
        """How many bytes of the file have been read."""
        return self._file.tell()

    def pieces(self) -> Iterator[bytes]:
        """The contents, unpacked, at most `CHUNK` bytes at a time; raises `TraceError`."""
        total = 0
        try:
            for piece in self._unpacked():
                total += len(piece)
                self._check_total(total)
                yield piece
        except EOFError:
            raise TraceError(f"{self.shown} is truncated: its packed data ends too early") from None
        except (OSError, zlib.error, lzma.LZMAError) as error:
            raise TraceError(f"{self.shown} cannot be read: {error}") from None

    def _unpacked(self) -> Iterator[bytes]:
        magic = self._file.peek(len(_XZ))
        if magic.startswith(_XZ):
            return _unpack_xz(self._file)
        if magic.startswith(_GZIP):
            return _blocks(gzip.GzipFile(fileobj=self._file))
        return _blocks(self._file)

    def _check_total(self, total: int) -> None:
        """Refuse what expands without end."""
        if total > MAX_BYTES:
            raise TraceError(f"{self.shown} holds more than {MAX_BYTES:,} bytes; shorten it")
        if total > max(ANY_RATIO, MAX_RATIO * self.done):
            raise TraceError(
                f"{self.shown} expands without end: {total:,} bytes"
                f" from the first {self.done:,} of the file"
            )


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Source]:
    """The file at ``path``; raises `TraceError` unless it is a regular file that holds something.

    A device or a pipe might never end.
    """
    shown = printable(os.fspath(path))
    with _open(Path(path), shown) as file:
        yield Source(file, shown)


def beginning(pieces: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """The first ``size`` bytes, or all there are, and all pieces again."""
    held: list[bytes] = []
    while sum(map(len, held)) < size and (piece := next(pieces, None)) is not None:
        held.append(piece)
    return b"".join(held)[:size], chain(held, pieces)


def is_text(line: bytes) -> bool:
    """Whether a line could be text, of whatever meaning: UTF-8 without zero bytes."""
    try:
        return "\0" not in line.decode("utf-8")
    except UnicodeDecodeError:
        return False


def excerpt(line: bytes) -> str:
    """The start of a line in quotes, on one line: whatever is not printable ASCII is escaped."""
    return repr(line[:SHOWN])[1:] + ("..." if len(line) > SHOWN else "")


def printable(text: str) -> str:
    """`text` on one line: characters that would move the cursor or cannot be shown, escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _open(path: Path, shown: str) -> BufferedReader:
    if not shown:
        raise TraceError("a name without characters is no file; name a trace file")
    try:
        why = _unfit(path.stat())
        if why is None:
            return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = f"cannot be opened: {getattr(error, 'strerror', error)}"
    raise TraceError(f"{shown} {why}")


def _unfit(found: os.stat_result) -> str | None:
    """Why this is no file to read, or None."""
    if stat.S_ISDIR(found.st_mode):
        return "is a directory; name a trace file"
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    return None if found.st_size else "is empty"


def _blocks(file: BufferedReader | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(CHUNK):
        yield block


def _unpack_xz(file: BufferedReader) -> Iterator[bytes]:
    """The contents of all streams of an xz file.

    `lzma.open` would let a small file claim any amount of memory, and would take a damaged
    second stream for the end of the file.
    """
    data = file.read(CHUNK)
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        yield stream.decompress(data, CHUNK)
        while not stream.eof:
            data = file.read(CHUNK) if stream.needs_input else b""
            if stream.needs_input and not data:
                raise EOFError
            yield stream.decompress(data, CHUNK)
        data = stream.unused_data.lstrip(b"\0")  # zeros may pad the end of a stream
        while not data and (more := file.read(CHUNK)):
            data = more.lstrip(b"\0")
