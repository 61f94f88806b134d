r"""Read traces that valgrind's lackey tool writes (`--tool=lackey --trace-mem=yes`).

A record is a line: `I` (fetch), `L` (load), `S` (store) or `M` (modify: load, then store),
the address in hex, a comma, the size in bytes.  Lackey writes `I  0401ab70,3` and
` L 1fff000778,8`; files made for cache exercises also write `L 10,1`.  So one leading space
may be there or not, and one or two spaces follow the letter.  Among the records stand lines
of valgrind itself, `==PID== ...` (with `-v` also `--PID-- ...`), which open the log and close
it with statistics; these and blank lines are skipped.

A log in which several processes wrote is read as one program; record each to its own file
(`--log-file=trace.%p`).
"""

import gzip
import lzma
import os
import re
import stat
import zlib
from array import array
from collections.abc import Callable, Iterator
from io import BufferedReader
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads.trace import Trace, acceptable, refusal

MAX_RECORDS = 50_000_000  # 11 bytes each in memory
MAX_TEXT = 2 << 30  # bytes of text: ends a decompression bomb made of skipped lines
MAX_LINE = 1 << 16  # bytes; a line of valgrind may quote a whole command
XZ_MEMORY = 256 << 20  # bytes for one decoder; `xz -9` needs 65 MiB
CHUNK = 1 << 18  # bytes of text parsed at once
SHOWN = 40  # bytes of a bad line that an error message shows

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
_KINDS = bytes.maketrans(b"ILSM", bytes([Kind.FETCH, Kind.READ, Kind.WRITE, Kind.WRITE]))
_RECORD = re.compile(rb"^ ?([ILSM]) {1,2}([0-9A-Fa-f]{1,16}),([0-9]{1,18})\r?\n", re.MULTILINE)
_SKIPPED = re.compile(
    rb"^(?:(?===|--|\*\*).{2,%d}|[ \t\r]{0,%d})\n" % (MAX_LINE, MAX_LINE), re.MULTILINE
)

Progress = Callable[[int, int], None]
"""Told the bytes of the file read so far and its size in bytes."""

Columns = tuple[bytes, NDArray[np.uint64], NDArray[np.uint64]]
"""Kinds, addresses and sizes."""


def read(path: str | os.PathLike[str], progress: Progress | None = None) -> Trace:
    """All records of the lackey log at `path`: plain, gzip or xz, told apart by their first bytes.

    The trace is named after the file.  Raises `TraceError` with one line that names the
    file and, where one is to blame, the line; then nothing has been loaded.
    """
    shown = _printable(os.fspath(path))
    path = Path(path)
    kinds, addresses, sizes = bytearray(), array("Q"), array("H")
    with _open(path, shown) as file:
        total = os.fstat(file.fileno()).st_size
        for some_kinds, some_addresses, some_sizes in _parse(_pieces(file, shown), shown):
            kinds += some_kinds
            addresses.frombytes(some_addresses.tobytes())
            sizes.frombytes(some_sizes.astype(np.uint16).tobytes())
            if len(kinds) > MAX_RECORDS:
                raise TraceError(f"{shown} holds more than {MAX_RECORDS:,} records; shorten it")
            if progress:
                progress(file.tell(), total)
    if not kinds:
        raise TraceError(f"{shown} holds no records such as ' L 1fff000778,8'")
    return Trace(
        path.name,
        np.frombuffer(kinds, np.uint8),
        np.frombuffer(addresses, np.uint64),
        np.frombuffer(sizes, np.uint16),
    )


def _open(path: Path, shown: str) -> BufferedReader:
    """The file at `path`, refused unless it is a regular file that holds something."""
    try:
        why = _unfit(path.stat())
        if why is None:
            return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = f"cannot be opened: {getattr(error, 'strerror', error)}"
    raise TraceError(f"{shown} {why}")


def _unfit(found: os.stat_result) -> str | None:
    """Why this is no trace file, or None; a device or a pipe might never end."""
    if stat.S_ISDIR(found.st_mode):
        return "is a directory; name a trace file"
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    return None if found.st_size else "is empty"


def _pieces(file: BufferedReader, shown: str) -> Iterator[bytes]:
    """The text of the file, unpacked, at most `CHUNK` bytes at a time and `MAX_TEXT` in all."""
    text = 0
    try:
        magic = file.peek(len(_XZ))
        if magic.startswith(_XZ):
            pieces = _unpack_xz(file)
        elif magic.startswith(_GZIP):
            pieces = _blocks(gzip.GzipFile(fileobj=file))
        else:
            pieces = _blocks(file)
        for piece in pieces:
            text += len(piece)
            if text > MAX_TEXT:
                raise TraceError(f"{shown} holds more than {MAX_TEXT:,} bytes of text; shorten it")
            yield piece
    except EOFError:
        raise TraceError(f"{shown} is truncated: its packed data ends too early") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise TraceError(f"{shown} cannot be read: {error}") from None


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


def _parse(pieces: Iterator[bytes], shown: str) -> Iterator[Columns]:
    """The records of each chunk of whole lines; raises `TraceError` at the first bad line."""
    line = 1
    for chunk in _whole_lines(pieces):
        columns = _columns(chunk)
        if columns is None:
            for _ in pieces:  # a damaged gzip file shows it at its end: that is the better reason
                pass
            raise TraceError(f"{shown}, {_first_problem(chunk, line)}")
        yield columns
        line += chunk.count(b"\n")


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same text, cut at ends of lines; the last line gets its newline if it lacks one."""
    rest = b""
    for piece in pieces:
        lines, newline, tail = piece.rpartition(b"\n")
        if newline:
            yield rest + lines + newline
            rest = b""
        rest += tail
        if len(rest) > MAX_LINE:
            break  # too long already: hand it on as it is, to be refused
    if rest:
        yield rest + b"\n"


def _columns(chunk: bytes) -> Columns | None:
    """The records of whole lines, or None if any line is bad.

    Each line is matched in full before the text is split, so splitting cannot go wrong.
    """
    text = _SKIPPED.sub(b"", chunk)
    if len(_RECORD.findall(text)) != text.count(b"\n"):
        return None
    words = text.replace(b",", b" ").split()
    kinds = b"".join(words[::3]).translate(_KINDS)
    addresses = np.array(list(map(int, words[1::3], repeat(16))), np.uint64)
    sizes = np.array(list(map(int, words[2::3])), np.uint64)
    return (kinds, addresses, sizes) if acceptable(addresses, sizes).all() else None


def _first_problem(chunk: bytes, line: int) -> str:
    """What is wrong with the first bad line of a chunk that starts at `line`."""
    problems = enumerate(map(_problem, chunk.removesuffix(b"\n").split(b"\n")), line)
    return next(f"line {number}: {problem}" for number, problem in problems if problem)


def _problem(line: bytes) -> str | None:
    """Why one line, given without its newline, is refused, or None if it is not."""
    if len(line) > MAX_LINE:
        return f"longer than {MAX_LINE:,} bytes; it starts {_excerpt(line)}"
    if _SKIPPED.match(line + b"\n"):
        return None
    found = _RECORD.match(line + b"\n")
    if not found:
        looks = "" if _is_text(line) else "; the file looks binary"
        return f"{_excerpt(line)} is not a record such as ' L 1fff000778,8'{looks}"
    why = refusal(int(found[2], 16), int(found[3]))
    return why and f"{_excerpt(line)}: {why}"


def _is_text(line: bytes) -> bool:
    """Whether a line could be text, of whatever meaning: UTF-8 without zero bytes."""
    try:
        return "\0" not in line.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _excerpt(line: bytes) -> str:
    """The start of a line in quotes, on one line: whatever is not printable ASCII is escaped."""
    return repr(line[:SHOWN])[1:] + ("..." if len(line) > SHOWN else "")


def _printable(text: str) -> str:
    """`text` on one line: characters that would move the cursor or cannot be shown, escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
