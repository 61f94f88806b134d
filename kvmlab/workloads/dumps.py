"""Page tables as text: ``VA,PE1,PE2,PE3,PE4,PA`` for each page, as research tools dump them.

The first line is how many rows follow.  A row is a virtual address, the frame numbers of the four
tables that translate it, root first, and the frame number of its data, all in hex without ``0x``
(the artifacts of DMT, ASPLOS 2024, and of SagePTE).  From such rows the tables themselves are
built, entry by entry, so that they can be loaded and walked; rights and other bits are not in the
file, so every entry allows everything.
"""

import os
import re
from array import array
from typing import NoReturn

from kvmlab.base.addresses import PAGE_SHIFT, is_canonical
from kvmlab.base.errors import TraceError
from kvmlab.hardware.ram import WORDS
from kvmlab.workloads.files import Progress, excerpt, opened
from kvmlab.workloads.guest_tables import GuestTables
from kvmlab.workloads.lines import whole_lines

MAX_ROWS = 1 << 24  # 64 GiB in pages of 4 KiB
ENTRY = 0b111  # present, writable, for user mode

_ROW = re.compile(rb"([0-9a-f]{1,16})" + rb",([0-9a-f]{1,10})" * 5, re.IGNORECASE)
_COUNT = re.compile(rb"[0-9]{1,9}")


def fits(head: bytes) -> bool:
    """Whether a file that begins like this is such a dump."""
    lines = head.split(b"\n", 2)
    shaped = len(lines) > 1 and _COUNT.fullmatch(lines[0].strip())
    return bool(shaped and _ROW.fullmatch(lines[1].strip()))


def read(path: str | os.PathLike[str], progress: Progress | None = None) -> GuestTables:
    """The tables that the dump at ``path`` describes; raises `TraceError` with the line.

    Rows that disagree are refused: two roots, two tables for one entry, two frames for one page,
    and as many rows as the first line says must follow.
    """
    with opened(path) as source:
        build = _Build(source.shown)
        for chunk in whole_lines(source.pieces()):
            for line in chunk.split(b"\n")[:-1]:
                build.take(line.strip())
            if progress:
                progress(source.done, source.size)
        return build.finish()


class _Build:
    """The tables so far, and which line is next."""

    def __init__(self, shown: str) -> None:
        self._shown, self._line = shown, 0
        self._promised = self._rows = 0
        self._root: int | None = None
        self._tables: dict[int, array[int]] = {}

    def take(self, line: bytes) -> None:
        """One line, of whatever content."""
        self._line += 1
        if self._line == 1:
            self._head(line)
        elif line:
            self._row(line)

    def _head(self, line: bytes) -> None:
        if not _COUNT.fullmatch(line):
            self._refuse(f"{excerpt(line)} is no number of rows")
        self._promised = int(line)
        if self._promised > MAX_ROWS:
            self._refuse(f"{self._promised:,} rows are more than {MAX_ROWS:,}")

    def _row(self, line: bytes) -> None:
        found = _ROW.fullmatch(line)
        if not found:
            self._refuse(f"{excerpt(line)} is not VA,PE1,PE2,PE3,PE4,PA in hex")
        gva, *frames = (int(text, 16) for text in found.groups())
        self._rows += 1
        if self._rows > self._promised:
            self._refuse(f"a row more than the {self._promised:,} that the first line promises")
        if not is_canonical(gva, 48):
            self._refuse(f"address {gva:#x} is not canonical: its bits 63 to 47 differ")
        if self._root is None:
            self._root = frames[0]
        elif self._root != frames[0]:
            self._refuse(f"root {frames[0]:#x} differs from {self._root:#x} before it")
        self._enter(gva, frames)

    def _enter(self, gva: int, frames: list[int]) -> None:
        """Note the entry of each level: the table it is in, and what it refers to."""
        for level, table, target in zip((4, 3, 2, 1), frames, frames[1:], strict=False):
            entries = self._tables.get(table)
            if entries is None:
                entries = self._tables[table] = array("Q", bytes(8 * WORDS))
            index = gva >> PAGE_SHIFT + 9 * (level - 1) & WORDS - 1
            entry = target << PAGE_SHIFT | ENTRY
            if entries[index] not in (0, entry):
                was = entries[index] >> PAGE_SHIFT
                self._refuse(
                    f"level {level} of {gva:#x} leads to {target:#x}, and to {was:#x} before"
                )
            entries[index] = entry

    def finish(self) -> GuestTables:
        """The whole tree; raises `TraceError` where rows are missing."""
        if self._root is None or self._rows < self._promised:
            raise TraceError(
                f"{self._shown} holds {self._rows:,} of the {self._promised:,} rows"
                " that its first line promises"
            )
        pages = {table << PAGE_SHIFT: words.tobytes() for table, words in self._tables.items()}
        return GuestTables(4, self._root << PAGE_SHIFT, pages)

    def _refuse(self, why: str) -> NoReturn:
        raise TraceError(f"{self._shown}, line {self._line}: {why}")
