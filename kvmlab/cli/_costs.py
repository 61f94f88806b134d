"""The options by which commands are told what events cost."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice

if TYPE_CHECKING:
    from kvmlab.study.costs import CostTable


def add_cost_arguments(parser: argparse.ArgumentParser) -> None:
    """``--costs MODEL`` and ``--cost ROW=CYCLES``."""
    parser.add_argument(
        "--costs",
        default="graded",
        metavar="MODEL",
        help="a table of costs in cycles: graded, l1, dram, alder-lake, arrow-lake, boot-log, "
        "nested or pvm (default: graded)",
    )
    parser.add_argument(
        "--cost",
        action="append",
        default=[],
        metavar="ROW=CYCLES",
        help="one number of that table: access, cached, reference.LEVEL, exit or exit.REASON",
    )


def prices(args: argparse.Namespace) -> "CostTable":
    """The table that the options ask for.  Raises `BadChoice` and `BadSize`."""
    from kvmlab.study.costs import model_named

    return edited(model_named(args.costs), args.cost)


def edited(table: "CostTable", texts: Sequence[str]) -> "CostTable":
    """``table`` with each ROW=CYCLES of ``texts``.  Raises `BadChoice` and `BadSize`."""
    for text in texts:
        row, sign, number = text.partition("=")
        if not sign or not (number.isascii() and number.isdigit() and len(number) <= 18):
            raise BadChoice(f"cost {text[:60]!r} is not ROW=CYCLES, such as exit=1500")
        table = table.edit(row, int(number))
    return table
