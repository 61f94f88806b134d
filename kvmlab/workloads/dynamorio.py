"""Traces of DynamoRIO's drmemtrace, as text: what its ``view`` tool prints.

    drrun -t drmemtrace -indir drmemtrace.APP.*.dir -tool view 2> trace.txt

A record is a line: its number, that of the instruction, the thread, then ``ifetch``, ``read`` or
``write``, so many ``byte(s) @`` an address, and more that is not needed.  What moves no data as
the program sees it is skipped: markers and exits (``<...>``), prefetches, flushes, instructions
that were not fetched anew, the second line of a long encoding, headings and results.

All threads are read as one program, in the order of the file.  Newer versions put ``W0.T`` before
a thread, the number of its workload; a file with two workloads has two address spaces: refused.
The binary files behind it differ from version to version, and so does the size of their records.
"""

import re
from collections.abc import Iterator
from types import MappingProxyType

import numpy as np

from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads.files import Columns, excerpt
from kvmlab.workloads.lines import parse_lines
from kvmlab.workloads.trace import acceptable, refusal

EXAMPLE = "'47446 37770: 2765543 read 8 byte(s) @ 0x00007fdf64e2adc8'"

_PREFIX = rb"^[ \t]*\d{1,20} +\d{1,20}: +(?:W(\d{1,9})\.T)?\d{1,20} +"
_RECORD = re.compile(
    _PREFIX + rb"(ifetch|read|write) +(\d{1,18}) byte\(s\) @ 0x([0-9a-fA-F]{1,16})"
    rb"(?!(?: non-fetched instruction|[^ \r\n]))[^\n]*\n",
    re.MULTILINE,
)
_SKIPPED = re.compile(
    rb"(?:" + _PREFIX.replace(b"(\\d{1,9})", b"\\d{1,9}") + rb"(?:<[^\n]*>|(?:iflush|dflush|pref)"
    rb"[^\n]*|ifetch[^\n]* non-fetched instruction|[0-9a-f]{2}(?: ?[0-9a-f]{2})*)"
    rb"|^(?:Output format:|<--record#->[^\n]*|[-=]{3,}|<\.\.\.>|View tool results:"
    rb"|[ \t]*\d+ : total[^\n]*|Trace invariant checks passed|))[ \t]*\r?\n",
    re.MULTILINE,
)
_LINE = re.compile(b"(?:" + _RECORD.pattern + b"|" + _SKIPPED.pattern + b")", re.MULTILINE)
_KINDS = MappingProxyType({b"ifetch": Kind.FETCH, b"read": Kind.READ, b"write": Kind.WRITE})


def fits(head: bytes) -> bool:
    """Whether a file that begins like this was printed by the view tool."""
    lines = (line for line in head.split(b"\n") if line.strip())
    first = next(lines, b"").strip()
    return first == b"Output format:" or re.match(_PREFIX, first) is not None


def parse(pieces: Iterator[bytes], shown: str) -> Iterator[Columns]:
    """The records of each piece of whole lines; raises `TraceError` at the first bad line."""
    workloads: set[bytes] = set()

    def parsed(chunk: bytes) -> Columns | None:
        return _columns(chunk, workloads)

    for some in parse_lines(pieces, shown, parsed, _problem):
        if len(workloads) > 1:
            names = " and ".join(sorted(f"W{one.decode()}" for one in workloads)[:2])
            raise TraceError(f"{shown} holds several programs, {names}; view one of them alone")
        yield some


def _columns(chunk: bytes, workloads: set[bytes]) -> Columns | None:
    """The records of whole lines, or None if any line is something else."""
    lines = _LINE.findall(chunk)
    if len(lines) != chunk.count(b"\n"):
        return None
    found = [row for row in lines if row[1]]
    workloads.update(row[0] for row in found)
    kinds = np.array([_KINDS[row[1]] for row in found], np.uint8)
    sizes = np.array([int(row[2]) for row in found], np.uint64)
    addresses = np.array([int(row[3], 16) for row in found], np.uint64)
    fine = acceptable(addresses, sizes).all()
    return Columns(kinds, addresses, sizes) if fine else None


def _problem(line: bytes) -> str | None:
    """Why one line, given without its newline, is refused, or None if it is not."""
    if _SKIPPED.match(line + b"\n"):
        return None
    found = _RECORD.match(line + b"\n")
    if not found:
        return f"{excerpt(line)} is not a record such as {EXAMPLE}"
    why = refusal(int(found[4], 16), int(found[3]))
    return why and f"{excerpt(line)}: {why}"
