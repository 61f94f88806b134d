"""A trace too long for memory: what must be known of it beforehand, and its records part by part.

It is read once to see that all of it is sound, how long it is and which pages it touches; then
as often as somebody replays it.  Memory is bounded by the pages it touches, not by its length.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import TraceError
from kvmlab.workloads.files import Columns, Progress, printable
from kvmlab.workloads.reading import stream
from kvmlab.workloads.trace import Trace

_KIND_BITS = 3
_PENDING = 1 << 20  # pages, each with a kind, that wait to be merged


class LongTrace:
    """The trace at ``path``, as `reading.read` would have it; raises `TraceError` as that does.

    ``pages`` are the 4 KiB pages touched, rising, and ``kinds`` in which ways each of them
    (values of `Kind`, together); ``accesses`` counts a record that crosses a page twice.
    """

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        self.path, self.name = Path(path), Path(path).name
        self._identity = _identity(self.path)
        self.records = self.accesses = 0
        keys, pending, waiting = np.zeros(0, np.uint64), [], 0
        for some in stream(path, progress):
            self.records += len(some.kinds)
            touched, crossing = _touched(some)
            self.accesses += len(some.kinds) + crossing
            pending.append(touched)
            waiting += len(touched)
            if waiting > _PENDING:
                keys, pending, waiting = np.unique(np.concatenate([keys, *pending])), [], 0
        keys = np.unique(np.concatenate([keys, *pending]))
        pages = keys >> np.uint64(_KIND_BITS)
        starts = np.flatnonzero(np.diff(pages, prepend=np.uint64((1 << 64) - 1)))
        self.pages = pages.take(starts)
        kinds = (keys & np.uint64((1 << _KIND_BITS) - 1)).astype(np.uint8)
        self.kinds: NDArray[np.uint8] = np.bitwise_or.reduceat(kinds, starts)

    def __len__(self) -> int:
        """The number of records."""
        return self.records

    def parts(self) -> Iterator[Trace]:
        """The records, in order, some thousands at a time.

        Raises `TraceError` if the file is not the same any more.
        """
        for some in stream(self.path):
            if _identity(self.path) != self._identity:
                break
            yield Trace(self.name, some.kinds, some.addresses, some.sizes.astype(np.uint16))
        if _identity(self.path) != self._identity:
            raise TraceError(f"{printable(str(self.path))} changed while it was replayed")


def _touched(some: Columns) -> tuple[NDArray[np.uint64], int]:
    """Each page touched with each kind once, as one number; and how many records cross a page."""
    first = some.addresses >> np.uint64(PAGE_SHIFT)
    crosses = np.flatnonzero(
        (some.addresses & np.uint64(PAGE_SIZE - 1)) + some.sizes > np.uint64(PAGE_SIZE)
    )
    kinds = some.kinds.astype(np.uint64)
    keys = first << np.uint64(_KIND_BITS) | kinds
    fresh = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    second = first.take(crosses) + np.uint64(1) << np.uint64(_KIND_BITS) | kinds.take(crosses)
    return np.unique(np.concatenate([keys.take(fresh), second])), len(crosses)


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
