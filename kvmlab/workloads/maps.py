"""The layout of a process as Linux tells it in ``/proc/PID/maps``: its mappings, in order.

A line is ``start-end perms offset dev inode [name]``, numbers but the inode in hex (proc(5)).
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import TraceError
from kvmlab.workloads.files import SHOWN, opened, printable
from kvmlab.workloads.trace import USER_END

MAX_MAPPINGS = 1 << 20  # Linux allows a process 65,530 unless told otherwise (vm.max_map_count)
MAX_TEXT = 256 << 20

_VSYSCALL = 0xFFFF_FFFF_FF60_0000  # the one mapping in the kernel's half that the file may list
_LINE = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])([w-])([x-])([ps]) ([0-9a-f]{1,16})"
    r" [0-9a-f]{1,4}:[0-9a-f]{1,5} \d{1,20}(?: +(.*))?"
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Addresses ``start`` up to ``end`` of a process, what they allow, and what is there."""

    start: int
    end: int
    read: bool
    write: bool
    execute: bool
    shared: bool
    offset: int  # of the start, in the file
    name: str  # a path, or [heap], [stack] and their kin, or nothing

    @property
    def rights(self) -> str:
        """As the file writes them: ``r-xp``."""
        letters = zip("rwx", (self.read, self.write, self.execute), strict=True)
        return "".join(c if yes else "-" for c, yes in letters) + ("s" if self.shared else "p")


def fits(head: bytes) -> bool:
    """Whether a file that begins like this is such a list."""
    return _LINE.fullmatch(head.partition(b"\n")[0].decode("latin-1").rstrip()) is not None


def read(path: str | os.PathLike[str]) -> list[Mapping]:
    """The mappings in a copy of ``/proc/PID/maps``, ascending; raises `TraceError`.

    The vsyscall page, which no page table of the process maps for user mode, is left out.
    """
    with opened(path) as source:
        held = bytearray()
        for piece in source.pieces():
            held += piece
            if len(held) > MAX_TEXT:
                raise TraceError(f"{source.shown} holds more than {MAX_TEXT:,} bytes of text")
        lines = held.decode("utf-8", "surrogateescape").split("\n")
        return parse(lines, source.shown)


def parse(lines: Iterable[str], shown: str) -> list[Mapping]:
    """The mappings that ``lines`` tell of; raises `TraceError` naming ``shown`` and the line."""
    found: list[Mapping] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        mapping, why = _mapping(line, found[-1].end if found else 0)
        if mapping is None or len(found) == MAX_MAPPINGS:
            why = why or f"more than {MAX_MAPPINGS:,} mappings"
            raise TraceError(f"{printable(shown)}, line {number}: {why}")
        if mapping.start != _VSYSCALL:
            found.append(mapping)
    if not found:
        raise TraceError(
            f"{printable(shown)} holds no mappings such as '00400000-00401000 r-xp ...'"
        )
    return found


def _mapping(line: str, reached: int) -> tuple[Mapping | None, str]:
    """The mapping of one line, or None and why there is none; ``reached`` ends the one before."""
    fields = _LINE.fullmatch(line.rstrip())
    if not fields:
        text = printable(line[:SHOWN])
        return None, f"'{text}' is not a mapping such as '00400000-00401000 r-xp 0 08:01 7 /bin/sh'"
    start, end, offset = (int(fields[n], 16) for n in (1, 2, 7))
    name = printable(fields[8] or "")
    may_read, may_write, may_execute = (fields[n] != "-" for n in (3, 4, 5))
    shared = fields[6] == "s"
    found = Mapping(start, end, may_read, may_write, may_execute, shared, offset, name)
    if start % PAGE_SIZE or end % PAGE_SIZE or start >= end:
        return None, f"{start:#x} to {end:#x} is no range of whole pages"
    if start < reached:
        return None, f"{start:#x} lies in or before the mapping that ends at {reached:#x}"
    if end > USER_END and start != _VSYSCALL:
        return None, f"{end:#x} is past the end of user space at {USER_END:#x}"
    return found, ""
