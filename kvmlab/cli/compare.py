"""``kvmlab compare TRACE``: one recorded program under several designs, side by side."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice
from kvmlab.cli import DESIGNS, argument
from kvmlab.cli._costs import add_cost_arguments, prices

if TYPE_CHECKING:
    from kvmlab.study.compare import Progress, Row
    from kvmlab.workloads.trace import Trace

HELP = "Replay a recorded program under native paging, shadow paging, EPT and others, and count."
EXAMPLES = (
    "kvmlab compare sort",
    "kvmlab compare ls --limit 2000 --mmu shadow --mmu ept --policy today",
    "kvmlab compare mine.lackey.xz --json",
    "kvmlab compare zipf:seed=3,pages=4096 --mmu ept --mmu agile",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The trace, the designs, and how much of the trace."""
    parser.add_argument(
        "trace",
        metavar="TRACE",
        help="a trace of valgrind's lackey, of ChampSim or of DynamoRIO's view tool, plain, gzip "
        "or xz; or sort or ls, which are shipped (a file of that name is ./sort); or a synthetic "
        "program: sequential, strided, random, zipf, chase, matmul, gups, fork, mmap or server, "
        "such as zipf:seed=3,pages=4096",
    )
    parser.add_argument(
        "--mmu",
        action="append",
        choices=DESIGNS,
        help="a design; give it once for each (default: native, shadow and ept)",
    )
    parser.add_argument(
        "--policy",
        choices=("naive", "update", "bypass", "today"),
        default="naive",
        help="how the shadow MMU keeps its tables true: each write to a guest table traps; and "
        "builds the new entry; and absent entries fault without an exit; or as KVM does today "
        "(default: naive)",
    )
    parser.add_argument(
        "--limit", type=argument(parse_limit), metavar="N", help="only the first N records"
    )
    add_cost_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def parse_limit(text: str) -> int:
    """How many records ``text`` asks for, 1 or more.  Raises `BadChoice`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text)):
        raise BadChoice(f"limit {text[:40]!r} is no number of records; write 1 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Replay, then print a table or JSON."""
    from kvmlab import workloads
    from kvmlab.machine import MMUS
    from kvmlab.study.compare import compare

    table = prices(args)
    with reading() as told:
        program = workloads.named(args.trace, args.limit, told)
    mmus = list(dict.fromkeys(args.mmu or MMUS))
    with bar(mmus) as progress:
        rows = compare(program, mmus, progress, table, policy=args.policy)
    if args.json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        show(rows)
    return 0


def read(name: str, limit: int | None) -> "Trace":
    """The trace called ``name``: shipped, synthetic or in a file; or its beginning."""
    from kvmlab import workloads

    return workloads.trace_named(name, limit)


@contextmanager
def reading() -> Iterator["Callable[[int, int], None] | None"]:
    """A progress bar for reading a long file, on standard error; none where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    from kvmlab.text import say

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(say("modes.reading"), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def bar(mmus: Sequence[str]) -> Iterator["Progress | None"]:
    """A progress bar for each design on standard error; none where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    from kvmlab.figures.modes import design

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = {mmu: bars.add_task(design(mmu), total=None) for mmu in mmus}
        yield lambda mmu, done, total: bars.update(tasks[mmu], completed=done, total=total)


def show(rows: Sequence["Row"]) -> None:
    """Print the designs side by side, what was counted, and what follows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kvmlab.figures import modes

    figure = modes.table(rows)
    table = Table(box=None, pad_edge=False)
    name, *designs = figure.columns
    table.add_column(name)
    for design in designs:
        table.add_column(design, justify="right")
    for row in figure.rows:
        table.add_row(*map(Text, row))  # Text: a "[" in a name is no markup
    console = Console(highlight=False)
    console.print(table)
    for paragraph in (modes.sentence(rows), figure.caption):
        console.print()
        console.print(Text(paragraph))
