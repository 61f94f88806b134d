"""``kvmlab sweep TRACE...``: every combination of designs, pages, TLBs and walk caches."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmlab.base.errors import BadChoice
from kvmlab.cli import DESIGNS, INTERRUPTED, argument
from kvmlab.cli._costs import edited
from kvmlab.cli.compare import parse_limit, read

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from kvmlab.study.costs import CostTable
    from kvmlab.study.results import Results
    from kvmlab.study.sweep import Outcome, Progress

HELP = "Replay programs under every combination of designs, page sizes, TLBs and walk caches."
EXAMPLES = (
    "kvmlab sweep ls --mmu shadow --mmu ept --guest-page 4K --guest-page 2M",
    "kvmlab sweep sort ls --tlb 64x4+1536x12 --jobs 2 --journal long.jsonl --html long.html",
)
SOME_FAILED = 1
DASK_TIMEOUT = 10.0  # seconds that a scheduler has to answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The traces, the axes, the prices, where cells run, and where results go."""
    parser.add_argument("traces", metavar="TRACE", nargs="+", help="a trace, as compare takes it")
    _add_axes(parser.add_argument_group("axes", "give an option once for each of its values"))
    costs = parser.add_argument_group("prices", "what was counted can be priced again at any time")
    costs.add_argument(
        "--costs", action="append", metavar="MODEL", help="a cost model (default: graded)"
    )
    costs.add_argument(
        "--cost",
        action="append",
        default=[],
        metavar="ROW=CYCLES",
        help="one number of it: access, cached, reference.LEVEL, exit or exit.REASON",
    )
    _add_running(parser.add_argument_group("running"))
    results = parser.add_argument_group("results")
    results.add_argument("--csv", metavar="FILE", help="save all rows and fields as CSV")
    results.add_argument("--jsonl", metavar="FILE", help="save them as JSON lines")
    results.add_argument("--html", metavar="FILE", help="save a page with charts")
    results.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_axes(axes: argparse._ArgumentGroup) -> None:
    def add(option: str, name: str, words: str, **kind: Any) -> None:  # noqa: ANN401  argparse's
        axes.add_argument(option, dest=name, action="append", help=words, **kind)

    policies = ("naive", "update", "bypass", "today")
    levels = {"type": argument(_number), "metavar": "N"}
    add("--mmu", "mmus", "a design (default: native, shadow and ept)", choices=DESIGNS)
    add("--policy", "policies", "of the shadow MMU (default: naive)", choices=policies)
    add("--guest-levels", "guest_levels", "of the guest's tables: 2, 3, 4 or 5", **levels)
    add("--host-levels", "host_levels", "of EPT: 4 or 5", **levels)
    add("--guest-page", "guest_pages", "what the guest maps, such as 4K", metavar="SIZE")
    add("--host-page", "host_pages", "what backs the guest: 4K, 2M or 1G", metavar="SIZE")
    shapes = "or ENTRIESxWAYS of one level or two: 64x4+1536x12"
    add("--tlb", "tlbs", f"unified, skylake, zen4, tiny, {shapes}", metavar="TLB")
    caches = "own (the processor's), off, on, or a list such as 2:32,3:4,nested:16"
    add("--walk-caches", "walk_caches", caches, metavar="CACHES")


def _add_running(running: argparse._ArgumentGroup) -> None:
    running.add_argument(
        "--limit", type=argument(parse_limit), metavar="N", help="only the first N records"
    )
    running.add_argument(
        "--journal",
        metavar="FILE",
        help="keep each finished cell in FILE; the same command goes on from there",
    )
    running.add_argument(
        "--retry", action="store_true", help="run cells again that failed, by the journal"
    )
    where = running.add_mutually_exclusive_group()
    where.add_argument(
        "--jobs", type=argument(_number), metavar="N", help="processes (default: one a CPU)"
    )
    where.add_argument(
        "--dask", metavar="ADDRESS", help="run on the cluster of this scheduler (kvmlab[cluster])"
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5 and int(text)):
        raise BadChoice(f"{text[:40]!r} is no number from 1 to 9999")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then save and print everything."""
    from kvmlab.study.costs import model_named
    from kvmlab.study.grid import Axes
    from kvmlab.study.results import results
    from kvmlab.study.sweep import sweep

    models = dict.fromkeys(args.costs or ["graded"])
    prices = [edited(model_named(name), args.cost) for name in models]
    given = {field.name: getattr(args, field.name) for field in fields(Axes)}
    axes = Axes(**{name: tuple(values) for name, values in given.items() if values})
    check_writable([args.csv, args.jsonl, args.html])
    traces = [read(name, args.limit) for name in dict.fromkeys(args.traces)]
    options = {"journal": args.journal, "retry": args.retry}
    try:
        with _executor(args.dask) as (executor, threads), _bar() as progress:
            jobs = threads or args.jobs
            outcome = sweep(
                traces, axes, executor=executor, jobs=jobs, progress=progress, **options
            )
    except KeyboardInterrupt:
        if not args.journal:
            raise
        kept = f"what is finished is in {args.journal}; the same command goes on from there"
        print(f"kvmlab: interrupted; {kept}", file=sys.stderr)
        return INTERRUPTED
    array = results(outcome, prices)
    _save(args, array, outcome, prices)
    if args.json:
        _print_json(array, outcome)
    else:
        _show(array, outcome, prices)
    return SOME_FAILED if outcome.failed else 0


def check_writable(paths: Sequence[str | None]) -> None:
    """Find out before a long sweep what could not be saved after it."""
    for path in filter(None, paths):
        folder = Path(path).resolve().parent
        if Path(path).is_dir():
            raise BadChoice(f"{path} is a directory; write the name of a file")
        if not folder.is_dir():
            raise BadChoice(f"{path} cannot be written: there is no directory {folder}")


@contextmanager
def _executor(address: str | None) -> Iterator["tuple[Executor | None, int | None]"]:
    """Dask's executor and how many cells it runs at a time; nothing without an address."""
    if address is None:
        yield None, None
        return
    try:
        from distributed import Client
    except ImportError:
        raise BadChoice(
            "a Dask cluster needs Dask: pip install 'kvmlab[cluster]', here and on its workers"
        ) from None
    try:
        client = Client(address, timeout=DASK_TIMEOUT)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise BadChoice(f"no Dask scheduler answers at {address!r}: {why}") from None
    with client:
        yield client.get_executor(), sum(client.nthreads().values()) or 1


@contextmanager
def _bar() -> Iterator["Progress | None"]:
    """Finished cells and the time that remains, on standard error; none where it is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("cells", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _save(
    args: argparse.Namespace,
    array: "Results",
    outcome: "Outcome",
    prices: "Sequence[CostTable]",
) -> None:
    from kvmlab.figures.sweep import sweep_page
    from kvmlab.study.results import write_csv, write_json_lines, write_whole

    if args.csv:
        write_csv(args.csv, array, outcome)
    if args.jsonl:
        write_json_lines(args.jsonl, array, outcome)
    if args.html:
        write_whole(args.html, sweep_page(array, outcome, prices))


def _print_json(array: "Results", outcome: "Outcome") -> None:
    from kvmlab.study.results import as_rows

    print(json.dumps(list(as_rows(array, outcome)), indent=2))


def _show(array: "Results", outcome: "Outcome", prices: "Sequence[CostTable]") -> None:
    """Print the short table, what follows, and what was left out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kvmlab.figures import sweep as figures

    wide = None if sys.stdout.isatty() else 160  # a file or a pipe has no edge
    console = Console(highlight=False, width=wide)
    if len(array):
        figure = figures.table(array, prices)
        axes = len(figures.varying(array))
        table = Table(box=None, pad_edge=False)
        for place, name in enumerate(figure.columns):
            if place < axes:
                table.add_column(name)
            else:  # a number is never cut
                least = max(len(row[place]) for row in figure.rows)
                table.add_column(name, justify="right", min_width=least)
        for row in figure.rows:
            table.add_row(*map(Text, row))  # Text: a "[" in a name is no markup
        console.print(table)
        for paragraph in (*figures.sentences(array), figure.caption):
            console.print()
            console.print(Text(paragraph))
    for line in figures.left_out(outcome):
        console.print()
        console.print(Text(line))
