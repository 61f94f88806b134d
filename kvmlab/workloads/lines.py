"""Text whose every line is a record or known to be none: parsed by the piece, judged by the line.

A format gives two functions: one makes columns of many lines at once, or None if any of them is
bad; the other says what is wrong with one line.
"""

from collections.abc import Callable, Iterator

from kvmlab.base.errors import TraceError
from kvmlab.workloads.files import MAX_LINE, Columns, excerpt

Parsed = Callable[[bytes], Columns | None]
Problem = Callable[[bytes], str | None]


def parse_lines(
    pieces: Iterator[bytes], shown: str, parsed: Parsed, problem: Problem
) -> Iterator[Columns]:
    """The records of each piece of whole lines; raises `TraceError` at the first bad line."""
    line = 1
    for chunk in whole_lines(pieces):
        columns = parsed(chunk)
        if columns is None:
            for _ in pieces:  # a damaged gzip file shows it at its end: that is the better reason
                pass
            raise TraceError(f"{shown}, {_first_problem(chunk, line, problem)}")
        yield columns
        line += chunk.count(b"\n")


def whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
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


def _first_problem(chunk: bytes, line: int, problem: Problem) -> str:
    """What is wrong with the first bad line of a chunk that starts at `line`."""
    for number, text in enumerate(chunk.removesuffix(b"\n").split(b"\n"), line):
        if len(text) > MAX_LINE:
            return f"line {number}: longer than {MAX_LINE:,} bytes; it starts {excerpt(text)}"
        if why := problem(text):
            return f"line {number}: {why}"
    raise AssertionError("columns were refused, yet no line is")
