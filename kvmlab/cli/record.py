"""``kvmlab record -o FILE -- CMD``: what a program of the learner's own accesses, as a trace."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmlab.cli._output import add_output, written

if TYPE_CHECKING:
    from kvmlab.workloads.recorder import Progress

HELP = "Run a command of your own under valgrind's lackey and record what it accesses."
EXAMPLES = (
    "kvmlab record -o mine.lackey.xz -- ls -l",
    "kvmlab compare mine.lackey.xz",
)
BLINK = 0.2  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and which command."""
    add_output(parser, "the trace: packed if its name ends in .xz or .gz")
    parser.add_argument(
        "--json", action="store_true", help="say what was made as JSON, on standard error"
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- CMD ...",
        help="the command and its arguments; its output and its exit status are its own",
    )


def run(args: argparse.Namespace) -> int:
    """Record; returns the command's exit status."""
    from kvmlab.workloads.recorder import record

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    with written(args.output, force=args.force) as path, counter() as progress:
        done = record(command, path, args.output.suffix, progress)
    size = args.output.stat().st_size
    told = f"kvmlab: {args.output}: {done.records:,} records, {size:,} bytes"
    if args.json:
        counts = {"records": done.records, "bytes": size, "status": done.status}
        told = json.dumps({"file": str(args.output), **counts})
    print(told, file=sys.stderr)  # standard output is the command's own
    return done.status


@contextmanager
def counter() -> Iterator["Progress | None"]:
    """Records so far on standard error, on one line that is gone in the end; only on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = time.monotonic()

    def tell(records: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > BLINK:
            shown = time.monotonic()
            print(f"\rkvmlab: {records:,} records", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
