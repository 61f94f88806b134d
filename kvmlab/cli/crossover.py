"""``kvmlab crossover``: where two designs cost the same, found by running programs in between."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice
from kvmlab.cli import DESIGNS, argument
from kvmlab.cli._costs import add_cost_arguments, prices

if TYPE_CHECKING:
    from kvmlab.study.crossover import Crossover, Plan, Progress

HELP = "Turn one parameter of a program until another design wins, and show both curves."
EXAMPLES = (
    "kvmlab crossover",
    "kvmlab crossover pages --mmu native --mmu ept --html pages.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is turned, what else the program does, the designs, the processor, the prices."""
    parser.add_argument(
        "parameter",
        metavar="PARAMETER",
        nargs="?",
        default="remaps",
        help="what is turned: remaps (pages remapped per thousand accesses, the default), pages "
        "(of the working set) or switches (of processes per thousand accesses)",
    )
    for option, words in (
        ("--low", "where the interval begins"),
        ("--high", "where it ends"),
        ("--pages", "of the working set, where something else is turned"),
        ("--remaps", "per thousand accesses, likewise"),
        ("--switches", "per thousand accesses, likewise"),
        ("--rounds", "of a thousand accesses that are counted at each point (default: 8)"),
        ("--seed", "of the program; the same seed is the same program (default: 1)"),
    ):
        parser.add_argument(option, type=argument(_number), metavar="N", help=words)
    parser.add_argument(
        "--mmu",
        action="append",
        choices=DESIGNS,
        help="a design; give it twice (default: shadow and ept)",
    )
    parser.add_argument(
        "--policy",
        choices=("naive", "update", "bypass", "today"),
        default="naive",
        help="how the shadow MMU keeps its tables true (default: naive)",
    )
    parser.add_argument(
        "--tlb", default="skylake", metavar="TLB", help="as sweep takes it (default: skylake)"
    )
    parser.add_argument(
        "--walk-caches", default="own", metavar="CACHES", help="as sweep takes them (default: own)"
    )
    add_cost_arguments(parser)
    parser.add_argument("--html", metavar="FILE", help="save a page with the chart")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadChoice(f"{text[:40]!r} is no number; write 0 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Find the crossing, then print it."""
    from kvmlab.cli.sweep import check_writable
    from kvmlab.study.crossover import crossover
    from kvmlab.study.executors import local, usual_jobs

    plan = _plan(args)
    check_writable([args.html])
    with local(usual_jobs()) as executor, _bar() as progress:
        found = crossover(plan, executor, progress)
    if args.html:
        from kvmlab.figures.crossover import crossover_page
        from kvmlab.study.results import write_whole

        write_whole(args.html, crossover_page(found))
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _show(found)
    return 0


def _plan(args: argparse.Namespace) -> "Plan":
    """What the options ask for.  Raises `BadChoice` and `BadSize`."""
    from dataclasses import replace

    from kvmlab.study.crossover import USUAL, Plan

    told = {
        name: getattr(args, name)
        for name in ("pages", "remaps", "switches", "seed")
        if getattr(args, name) is not None
    }
    if args.parameter in told:
        raise BadChoice(f"{args.parameter} is what is turned; give its ends by --low and --high")
    designs = tuple(args.mmu or ("shadow", "ept"))
    if len(designs) != 2:
        raise BadChoice(f"two designs cross, not {len(designs)}; give --mmu twice")
    program = replace(USUAL[args.parameter], **told) if args.parameter in USUAL else None
    return Plan(
        args.parameter,
        args.low,
        args.high,
        program,
        designs,
        args.policy,
        args.tlb,
        args.walk_caches,
        prices(args),
        **({} if args.rounds is None else {"rounds": args.rounds}),
    )


@contextmanager
def _bar() -> Iterator["Progress | None"]:
    """How many points have been run, on standard error; none where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} points"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("points", total=None)
        yield lambda done: bars.update(task, completed=done)


def _show(found: "Crossover") -> None:
    """Print both curves as a table, the sentence, and what was run."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kvmlab.figures import crossover as figures

    figure = figures.table(found)
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(figure.columns):
        least = max(map(len, [*name.split(), *(row[place] for row in figure.rows)]))
        table.add_column(name, justify="right", min_width=least)
    for row in figure.rows:
        table.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for paragraph in (figures.sentence(found), figure.caption):
        console.print()
        console.print(Text(paragraph))
