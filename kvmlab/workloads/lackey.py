r"""Traces that valgrind's lackey tool writes (`--tool=lackey --trace-mem=yes`).

A record is a line: `I` (fetch), `L` (load), `S` (store) or `M` (modify: load, then store),
the address in hex, a comma, the size in bytes.  Lackey writes `I  0401ab70,3` and
` L 1fff000778,8`; files made for cache exercises, as CS:APP's, also write `L 10,1`.  So one
leading space may be there or not, and one or two spaces follow the letter.  Among the records
stand lines of valgrind itself, `==PID== ...` (with `-v` also `--PID-- ...`), which open the log
and close it with statistics; these and blank lines are skipped.

A log in which several processes wrote is read as one program; record each to its own file
(`--log-file=trace.%p`).
"""

import re
from collections.abc import Iterator
from types import MappingProxyType

import numpy as np

from kvmlab.hardware.records import Kind
from kvmlab.workloads.digits import Ints, Text, decimal, hexadecimal
from kvmlab.workloads.files import MAX_LINE, Columns, excerpt, is_text
from kvmlab.workloads.lines import parse_lines
from kvmlab.workloads.trace import acceptable, refusal

EXAMPLE = "' L 1fff000778,8'"

_KINDS = MappingProxyType(
    {ord("I"): Kind.FETCH, ord("L"): Kind.READ, ord("S"): Kind.WRITE, ord("M"): Kind.WRITE}
)
_KIND = np.frombuffer(bytes(_KINDS.get(byte, 0) for byte in range(256)), np.uint8)
_LONGEST_SIZE = 18  # digits

_RECORD = re.compile(rb"^ ?([ILSM]) {1,2}([0-9A-Fa-f]{1,16}),([0-9]{1,18})\r?\n", re.MULTILINE)
_SKIPPED = re.compile(
    rb"^(?:(?===|--|\*\*).{2,%d}|[ \t\r]{0,%d})\n" % (MAX_LINE, MAX_LINE), re.MULTILINE
)


def parse(pieces: Iterator[bytes], shown: str) -> Iterator[Columns]:
    """The records of each piece of whole lines; raises `TraceError` at the first bad line."""
    return parse_lines(pieces, shown, _parsed, _problem)


def _parsed(chunk: bytes) -> Columns | None:
    """The records of whole lines; few pieces have lines to be skipped, so those are tried last."""
    return _columns(chunk) or _columns(_SKIPPED.sub(b"", chunk))


def _columns(chunk: bytes) -> Columns | None:
    """The records of whole lines, or None if any line is something else."""
    text = Text(chunk)
    starts, ends = text.lines()
    ends -= text.has(ends - 1, "\r")
    starts += text.has(starts, " ")
    kinds = _KIND.take(text.bytes.take(starts))
    digits = starts + 2 + text.has(starts + 2, " ")
    commas = _commas(text, ends)
    addresses, good = hexadecimal(text, commas, commas - digits)
    sizes, fine = decimal(text, commas + 1, ends - commas - 1)
    good &= fine & (kinds != 0) & text.has(starts + 1, " ") & text.has(commas, ",")
    good &= acceptable(addresses, sizes)
    return Columns(kinds, addresses, sizes) if good.all() else None


def _commas(text: Text, ends: Ints) -> Ints:
    """The comma of each line, if there is one as far from the end as a size may be long."""
    commas = ends - 2
    rows = np.flatnonzero(~text.has(commas, ","))
    for _ in range(_LONGEST_SIZE - 1):
        if not len(rows):
            break
        commas[rows] -= 1
        rows = rows.compress(~text.has(commas.take(rows), ","))
    return commas


def _problem(line: bytes) -> str | None:
    """Why one line, given without its newline, is refused, or None if it is not."""
    if _SKIPPED.match(line + b"\n"):
        return None
    found = _RECORD.match(line + b"\n")
    if not found:
        looks = "" if is_text(line) else "; the file looks binary"
        return f"{excerpt(line)} is not a record such as {EXAMPLE}{looks}"
    why = refusal(int(found[2], 16), int(found[3]))
    return why and f"{excerpt(line)}: {why}"
