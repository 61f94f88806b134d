"""``kvmlab walk``: one cold translation, reference by reference."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from kvmlab.base.addresses import is_canonical, parse_address
from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.cli import argument

if TYPE_CHECKING:
    from rich.table import Table

    from kvmlab.figures.fold import Walk
    from kvmlab.figures.scene import Scene
    from kvmlab.figures.walk import Setting
    from kvmlab.labs.access import Recorded, Request

HELP = "Print one translation step by step, from a cold TLB."
PAGES = ("4K", "2M", "1G")
ADDRESS = 0x7F12_3456_7AB8
SPACES = ("gva", "gpa", "hva", "hpa")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The design, the shape of its tables, and the address."""
    parser.add_argument(
        "--mmu", choices=("native", "shadow", "ept"), default="ept", help="(default: ept)"
    )
    parser.add_argument("--guest-levels", type=int, choices=(4, 5), default=4, help="(default: 4)")
    parser.add_argument("--guest-page", choices=PAGES, default="4K", help="(default: 4K)")
    parser.add_argument("--host-levels", type=int, choices=(4, 5), help="of EPT (default: 4)")
    parser.add_argument(
        "--host-page", choices=PAGES, help="what backs the guest's memory (default: 4K)"
    )
    parser.add_argument(
        "--gva",
        type=argument(parse_address),
        default=ADDRESS,
        metavar="HEX",
        help=f"the address that a program of the guest reads (default: {ADDRESS:#x})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Touch the page, walk it again with a cold TLB, and print that walk.

    A walk that ends in a fault is an outcome like any other.
    """
    from kvmlab.figures.walk import read_walk
    from kvmlab.labs.access import first_access

    recorded = first_access(request(args))
    if args.json:
        walk = read_walk(recorded.records, recorded.setting)
        print(json.dumps(as_json(walk, recorded.setting), indent=2))
    else:
        show(recorded)
    return 0


def request(args: argparse.Namespace) -> "Request":
    """What the options ask for.  Raises `BadChoice` and `BadAddress`."""
    from kvmlab.labs.access import Request

    if args.mmu == "native" and (args.host_levels or args.host_page):
        raise BadChoice("--host-levels and --host-page need a host; native paging has none")
    width = 12 + 9 * args.guest_levels  # the offset, and an index for each level
    if not is_canonical(args.gva, width):
        raise BadAddress(
            f"address {args.gva:#x} is not canonical: bits 63 to {width - 1} must be equal"
        )
    return Request(
        gva=args.gva,
        mmu=args.mmu,
        guest_page=args.guest_page,
        host_page=args.host_page or "4K",
        guest_levels=args.guest_levels,
        host_levels=args.host_levels or 4,
    )


def as_json(walk: "Walk", setting: "Setting") -> dict[str, Any]:
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
        "steps": steps,
    }


def addresses(setting: "Setting") -> dict[str, str | None]:
    """The address in the four address spaces, in hex; None where it is in none."""
    from kvmlab.figures.addresses import hex_text

    found = {name: getattr(setting.chain, name) for name in SPACES}
    return {name: None if value is None else hex_text(value) for name, value in found.items()}


def show(recorded: "Recorded") -> None:
    """Print the chain, what happened once before the walk, and the walk."""
    from rich.console import Console
    from rich.text import Text

    from kvmlab.figures.touch import touch_steps
    from kvmlab.figures.walk import read_walk, summary, walk_scene
    from kvmlab.text import say

    setting, before = recorded.setting, recorded.before
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(summary(read_walk(recorded.records, setting), setting, before))
    console.print()
    for name, address in addresses(setting).items():
        console.print(f"{say(f'chain.{name}'):<20} {address or '–'}")
    console.print()
    for step in touch_steps(before, setting.mmu, setting.chain) if before else []:
        console.print(step.sentence)
    console.print()
    scene = walk_scene(recorded.records, setting)
    console.print(grid(scene))
    console.print(Text(say("walk.convention")))


def grid(scene: "Scene") -> "Table":
    """The rows of all steps of ``scene``: titles wrap, addresses never do."""
    from rich.table import Table
    from rich.text import Text

    rows = [row for step in scene.steps for row in step.rows]
    table = Table(box=None, pad_edge=False)
    for name, *cells in zip(scene.columns, *rows, strict=True):
        widest = max(len(word) for cell in cells for word in cell.split() or [""])
        table.add_column(name, min_width=widest)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
