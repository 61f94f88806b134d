"""Read a trace, whatever wrote it: the format is told by what the file holds, not by its name.

A trace is read whole or not at all; `stream` hands it on in pieces, so that a hundred million
records take no more memory than a thousand.
"""

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from kvmlab.base.errors import TraceError
from kvmlab.workloads import champsim, dumps, dynamorio, lackey, maps
from kvmlab.workloads.files import (
    HEAD,
    SHOWN,
    Columns,
    Progress,
    beginning,
    opened,
    printable,
)
from kvmlab.workloads.trace import Trace

MAX_RECORDS = 50_000_000  # of one trace in memory, 11 bytes each


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of trace file: by what it is known, and how it is parsed."""

    name: str
    fits: Callable[[bytes], bool]  # given the beginning of what the file holds
    parse: Callable[[Iterator[bytes], str], Iterator[Columns]]
    example: str  # of a record


FORMATS = (
    Format("ChampSim", champsim.fits, champsim.parse, champsim.EXAMPLE),
    Format("DynamoRIO view", dynamorio.fits, dynamorio.parse, dynamorio.EXAMPLE),
    Format("lackey", lambda _: True, lackey.parse, lackey.EXAMPLE),
)
"""In the order in which they are tried; text that fits no other is refused in lackey's words."""

_OTHERS = MappingProxyType(
    {
        b"\x7fELF": "is a program or a core dump (ELF)",
        b"\x28\xb5\x2f\xfd": "is packed with zstd; pack it with xz or gzip, or not at all",
        b"BZh": "is packed with bzip2; pack it with xz or gzip, or not at all",
        b"PK\x03\x04": "is a zip archive; unpack it",
    }
)


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
        chosen = format_of(head, source.shown)
        records = 0
        for some in chosen.parse(pieces, source.shown):
            records += len(some.kinds)
            yield some
            if progress:
                progress(source.done, source.size)
        if not records:
            raise TraceError(f"{source.shown} holds no records such as {chosen.example}")


def format_of(head: bytes, shown: str) -> Format:
    """The format of a file whose contents begin with ``head``; raises `TraceError` for others."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise TraceError(f"{shown} {what}; a trace is wanted")
    if maps.fits(head):
        raise TraceError(
            f"{shown} is a /proc/PID/maps: a layout, no trace; workloads.maps reads it"
        )
    if dumps.fits(head):
        raise TraceError(f"{shown} is a dump of page tables, no trace; workloads.dumps reads it")
    chosen = next(one for one in FORMATS if one.fits(head))
    if chosen is FORMATS[-1] and b"\0" in head[:SHOWN]:
        raise TraceError(
            f"{shown} looks binary, with records of an unknown size: {champsim.EXAMPLE} can be"
            " read; of DynamoRIO's traces, the text that its view tool prints"
        )
    return chosen
