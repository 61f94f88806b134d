"""Read a trace, whatever wrote it: the format is told by what the file holds, not by its name.

A trace is read whole or not at all; `stream` hands it on in pieces, so that a hundred million
records take no more memory than a thousand.
"""

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvmlab.base.errors import TraceError
from kvmlab.workloads import lackey
from kvmlab.workloads.files import Columns, Progress, beginning, opened, printable
from kvmlab.workloads.trace import Trace

MAX_RECORDS = 50_000_000  # of one trace in memory, 11 bytes each
HEAD = 1 << 14  # bytes by which a format is told


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of trace file: by what it is known, and how it is parsed."""

    name: str
    fits: Callable[[bytes], bool]  # given the beginning of what the file holds
    parse: Callable[[Iterator[bytes], str], Iterator[Columns]]
    example: str  # of a record


FORMATS = (Format("lackey", lambda _: True, lackey.parse, lackey.EXAMPLE),)
"""In the order in which they are tried; what fits no other is refused in the last one's words."""


def read(
    path: str | os.PathLike[str], progress: Progress | None = None, limit: int | None = None
) -> Trace:
    """All records of the trace at ``path``, or its first ``limit``, in any of `FORMATS`.

    It may be plain, gzip or xz.  The trace is named after the file.  Raises `TraceError` with one
    line that names the file and, where one is to blame, the line or the offset; then nothing
    has been loaded.
    """
    kinds, addresses, sizes = bytearray(), bytearray(), bytearray()
    for some in stream(path, progress):
        kinds += some.kinds.data
        addresses += some.addresses.data
        sizes += some.sizes.astype(np.uint16).data
        if limit is not None and len(kinds) >= limit:
            break
        if len(kinds) > MAX_RECORDS:
            shown = printable(os.fspath(path))
            raise TraceError(
                f"{shown} holds more than {MAX_RECORDS:,} records; shorten it, or set a limit"
            )
    trace = Trace(
        Path(path).name,
        np.frombuffer(kinds, np.uint8),
        np.frombuffer(addresses, np.uint64),
        np.frombuffer(sizes, np.uint16),
    )
    return trace if limit is None else trace.head(limit)


def stream(
    path: str | os.PathLike[str], progress: Progress | None = None
) -> Generator[Columns, None, None]:
    """The records of the trace at ``path``, in order, some thousands at a time.

    What was yielded before a `TraceError` is part of no trace.
    """
    with opened(path) as source:
        head, pieces = beginning(source.pieces(), HEAD)
        chosen = next(one for one in FORMATS if one.fits(head))
        records = 0
        for some in chosen.parse(pieces, source.shown):
            records += len(some.kinds)
            yield some
            if progress:
                progress(source.done, source.size)
        if not records:
            raise TraceError(f"{source.shown} holds no records such as {chosen.example}")
