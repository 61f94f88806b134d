"""Record what a program of one's own accesses, with valgrind's lackey.

Valgrind writes its log to a pipe.  It is packed as it comes, and parsed as it comes too, so what
was recorded is known to be readable, and how many records there are.  The program itself has the
terminal, its files and its exit status as if nobody watched; valgrind makes it some hundred times
slower.
"""

import gzip
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from kvmlab.base.errors import BadChoice, TraceError
from kvmlab.workloads import lackey
from kvmlab.workloads.files import CHUNK

VALGRIND = "valgrind"
_XZ_PRESET = 3  # keeps pace with lackey, which writes a million records a second

Progress = Callable[[int], None]
"""Told the records so far."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """How the program ended, as a shell reports it, and how many records there are of it."""

    status: int
    records: int


def record(
    command: Sequence[str], path: Path, packing: str, progress: Progress | None = None
) -> Recorded:
    """Run ``command`` under lackey, and write the log to ``path``.

    ``packing`` is the end of a name: of ``.xz`` or ``.gz``, the log is packed so.  Processes that
    the program forks run, but are not recorded.  Raises `BadChoice`, before anything runs, if
    valgrind or the command is not there, and `TraceError` for a log that is no trace.
    """
    line = [*_lackey(), *_found(command)]
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as log:
        try:
            line.insert(1, f"--log-fd={writer}")
            process = subprocess.Popen(line, pass_fds=(writer,))  # noqa: S603  the learner's own
        finally:
            os.close(writer)
        try:
            with _packed(path, packing) as out:
                records = _copy(log, out, progress)
            status = process.wait()
        finally:
            if process.poll() is None:  # an error here, or Ctrl-C
                process.kill()
                process.wait()
    if not records:
        raise TraceError(f"valgrind recorded nothing; it ended with status {status}")
    return Recorded(status if status >= 0 else 128 - status, records)


def _lackey() -> list[str]:
    valgrind = shutil.which(VALGRIND)
    if valgrind is None:
        raise BadChoice("valgrind is not installed; on Debian or Ubuntu: apt install valgrind")
    return [valgrind, "--tool=lackey", "--trace-mem=yes", "--child-silent-after-fork=yes"]


def _found(command: Sequence[str]) -> list[str]:
    """The command, its program by the path that a shell would find."""
    if not command:
        raise BadChoice("no command is given; write it after --, as in: record -o FILE -- ls -l")
    program = shutil.which(command[0])
    if program is None:
        raise BadChoice(f"{command[0]!r} is no program that can be run")
    return [program, *command[1:]]


def _packed(path: Path, packing: str) -> BinaryIO:
    if packing == ".xz":
        return cast("BinaryIO", lzma.open(path, "wb", preset=_XZ_PRESET))
    if packing == ".gz":
        return cast("BinaryIO", gzip.open(path, "wb", compresslevel=6))
    return path.open("wb")


def _copy(log: BinaryIO, out: BinaryIO, progress: Progress | None) -> int:
    """Copy the whole log; returns how many records it holds."""

    def copied() -> Iterator[bytes]:
        while piece := log.read(CHUNK):
            out.write(piece)
            yield piece

    records = 0
    for some in lackey.parse(copied(), "valgrind's log"):
        records += len(some.kinds)
        if progress:
            progress(records)
    return records
