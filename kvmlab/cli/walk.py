"""``kvmlab walk``: one cold translation, reference by reference."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from kvmlab.base.addresses import is_canonical, parse_address
from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.cli import DESIGNS, argument
from kvmlab.cli._costs import add_cost_arguments, prices

if TYPE_CHECKING:
    from rich.table import Table

    from kvmlab.figures.fold import Walk
    from kvmlab.figures.scene import Scene
    from kvmlab.figures.walk import Setting
    from kvmlab.study.access import Recorded, Request
    from kvmlab.study.costs import CostTable

HELP = "Print one translation step by step, from a cold TLB."
EXAMPLES = (
    "kvmlab walk",
    "kvmlab walk --mmu shadow --guest-page 2M --host-page 4K",
    "kvmlab walk --guest-levels 5 --host-levels 5 --gva 0x7f1234567ab8 --json",
)
GUEST_PAGES = ("4K", "2M", "4M", "1G")
HOST_PAGES = ("4K", "2M", "1G")
SPACES = ("gva", "gpa", "hva", "hpa")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The walk, and how it is printed."""
    add_walk_arguments(parser)
    add_cost_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_walk_arguments(parser: argparse.ArgumentParser) -> None:
    """The design, the shape of its tables, and the address."""
    parser.add_argument("--mmu", choices=DESIGNS, default="ept", help="(default: ept)")
    parser.add_argument(
        "--guest-levels",
        type=int,
        choices=(2, 3, 4, 5),
        default=4,
        help="2 is 32-bit paging, 3 is PAE (default: 4)",
    )
    parser.add_argument(
        "--guest-page",
        choices=GUEST_PAGES,
        default="4K",
        help="4M with 2 levels only, 2M with 3 and more, 1G with 4 and more (default: 4K)",
    )
    parser.add_argument(
        "--host-levels", type=int, choices=(4, 5), help="of EPT or NPT (default: 4)"
    )
    parser.add_argument(
        "--host-page", choices=HOST_PAGES, help="what backs the guest's memory (default: 4K)"
    )
    parser.add_argument(
        "--gva",
        type=argument(parse_address),
        metavar="HEX",
        help="the address that a program of the guest reads (default: 0x7f1234567ab8, or "
        "0xb7123ab8 with 2 or 3 guest levels)",
    )


def run(args: argparse.Namespace) -> int:
    """Touch the page, walk it again with a cold TLB, and print that walk.

    A walk that ends in a fault is an outcome like any other.
    """
    from kvmlab.figures.walk import Setting, read_walk
    from kvmlab.study.access import first_access

    table = prices(args)
    recorded = first_access(request(args))
    setting = Setting.of(recorded.machine, recorded.gva)
    if args.json:
        print(json.dumps(as_json(read_walk(recorded.records, setting), setting, table), indent=2))
    else:
        show(recorded, setting, table)
    return 0


def request(args: argparse.Namespace) -> "Request":
    """What the options ask for.  Raises `BadChoice` and `BadAddress`."""
    from kvmlab.study.access import GUESTS, Request, address_bits, usual_address

    if args.mmu == "native" and (args.host_levels or args.host_page):
        raise BadChoice("--host-levels and --host-page need a host; native paging has none")
    levels = args.guest_levels
    gva, width = args.gva, address_bits(levels)
    if gva is None:
        gva = usual_address(levels)
    elif GUESTS[levels].long_mode and not is_canonical(gva, width):
        raise BadAddress(f"address {gva:#x} is not canonical: bits 63 to {width - 1} must be equal")
    return Request(
        gva=gva,
        mmu=args.mmu,
        guest_page=args.guest_page,
        host_page=args.host_page or "4K",
        guest_levels=levels,
        host_levels=args.host_levels or 4,
    )


def as_json(walk: "Walk", setting: "Setting", table: "CostTable") -> dict[str, Any]:
    """The walk as plain data; the keys are an interface that others build on."""
    steps = [
        {
            "n": one.number,
            "table": one.step.table,
            "level": one.step.level,
            "index": one.step.index,
            "entry_hpa": f"{one.step.hpa:#x}",
            "entry": f"{one.step.entry:#x}",
            "verdict": one.step.verdict.value,
        }
        for one in walk.references
    ]
    return {
        "mmu": setting.mmu,
        **{name: text and text.replace("_", "") for name, text in addresses(setting).items()},
        "outcome": walk.outcome,
        "references": len(steps),
        "cycles": table.references(walk.levels),
        "costs": {"model": table.name, "edited": dict(table.edited)},
        "steps": steps,
    }


def addresses(setting: "Setting") -> dict[str, str | None]:
    """The address in the four address spaces, in hex; None where it is in none."""
    from kvmlab.figures.addresses import hex_text

    found = {name: getattr(setting.chain, name) for name in SPACES}
    return {name: None if value is None else hex_text(value) for name, value in found.items()}


def show(recorded: "Recorded", setting: "Setting", table: "CostTable") -> None:
    """Print the chain, what happened once before the walk, and the walk."""
    from rich.console import Console
    from rich.text import Text

    from kvmlab.figures.costs import cycles_text
    from kvmlab.figures.touch import touch_steps
    from kvmlab.figures.walk import read_walk, summary, walk_scene
    from kvmlab.text import say

    records, before = recorded.records, recorded.before
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(summary(read_walk(records, setting), setting, before))
    console.print()
    for name, address in addresses(setting).items():
        console.print(f"{say(f'chain.{name}'):<20} {address or '–'}")
    console.print()
    for step in touch_steps(before, setting.mmu, setting.chain) if before else []:
        console.print(step.sentence)
    console.print()
    scene = walk_scene(records, setting)
    console.print(grid(scene))
    console.print(Text(say("walk.convention")))
    console.print(Text(cycles_text(read_walk(records, setting), table)))


def grid(scene: "Scene") -> "Table":
    """The rows of all steps of ``scene``: words wrap, numbers and addresses are whole."""
    from rich.table import Table
    from rich.text import Text

    rows = [row for step in scene.steps for row in step.rows]
    table = Table(box=None, pad_edge=False)
    *columns, last = zip(scene.columns, *rows, strict=True)
    for texts in columns:
        table.add_column(texts[0], width=max(len(word) for text in texts for word in text.split()))
    table.add_column(last[0])
    for row in rows:
        table.add_row(*map(Text, row))
    return table
