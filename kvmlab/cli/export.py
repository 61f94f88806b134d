"""``kvmlab export``: what a lab shows, as a page, a drawing or a handout for a lecture."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice
from kvmlab.cli import DESIGNS, argument, walk
from kvmlab.cli.compare import parse_limit

if TYPE_CHECKING:
    from kvmlab.labs.lab import Lab

HELP = "Write what a lab shows as one self-contained file: .html that steps, .svg, .png or .pdf."
EXAMPLES = (
    "kvmlab export walk --guest-page 2M --out walk.html",
    "kvmlab export modes ls --limit 20000 --mmu shadow --mmu ept --out modes.html",
    "kvmlab export balloon --share STRING --ask --out balloon.html",
    "kvmlab export cheatsheet --language zh --out cheat.pdf",
)
LANGUAGES = ("en", "zh")
"""`text.LANGUAGES`, here without the engine."""

LABS = ("balloon", "hugepages", "overcommit", "spaces", "tables")
"""The labs that are exported as they begin or as a share string has them."""

SHEETS = (".html", ".pdf")
"""What the cheat sheet can be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which lab, in which state, and the file."""
    kinds = parser.add_subparsers(
        title="what to export", dest="what", metavar="WHAT", required=True
    )
    one = _kind(kinds, "walk", "one translation, in every design and with every page size")
    walk.add_walk_arguments(one)
    one = _kind(kinds, "modes", "a program under several designs, with every chart")
    one.add_argument("trace", nargs="?", default="sort", metavar="TRACE", help="(default: sort)")
    one.add_argument(
        "--mmu", action="append", choices=DESIGNS, help="a design; give it once for each"
    )
    one.add_argument(
        "--limit", type=argument(parse_limit), metavar="N", help="records (default: 20,000)"
    )
    for name in LABS:
        _kind(kinds, name, f"the lab that labs.{name}() shows")
    one = _parser(kinds, "cheatsheet", "one page of numbers to print")
    one.add_argument("--language", choices=LANGUAGES, default="en", help="(default: en)")


def _kind(kinds: argparse._SubParsersAction, name: str, what: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    """The options of one lab that is exported: those that all of them have."""
    one = _parser(kinds, name, what)
    one.add_argument("--share", metavar="STRING", help="the lab as this share string has it")
    one.add_argument("--language", choices=LANGUAGES, help="(default: en, or the share string's)")
    one.add_argument("--ask", action="store_true", help="let the page ask before it tells")
    return one


def _parser(kinds: argparse._SubParsersAction, name: str, what: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    """The options of the file."""
    one: argparse.ArgumentParser = kinds.add_parser(
        name, help=what, description=f"Export {what}.", allow_abbrev=False
    )
    one.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".html steps and plays with no network; .svg and .png show the figure at its end; "
        ".pdf is a handout (.png and .pdf need Chromium)",
    )
    one.add_argument("--force", action="store_true", help="replace the file if it is there")
    one.add_argument("--json", action="store_true", help="print JSON: the file, its size, its line")
    return one


def run(args: argparse.Namespace) -> int:
    """Write the file, and say how another page shows it."""
    from kvmlab.labs.export import free_path

    path = free_path(args.out, replace=args.force)
    if args.what == "cheatsheet":
        shown = sheet(path, args.language, replace=args.force)
    else:
        lab = made(args)
        lab.predict.value = args.ask
        if args.language:
            lab.language.value = args.language
        shown = lab.export(path, replace=args.force)
    size = path.stat().st_size
    if args.json:
        print(json.dumps({"file": str(path), "bytes": size, "embed": shown}, indent=2))
    else:
        print(f"{path}: {size:,} bytes\n{shown}")
    return 0


def sheet(path: Path, language: str, *, replace: bool) -> str:
    """Write the cheat sheet; returns how another page shows it.  Raises `BadChoice`."""
    from kvmlab.figures.sheet import sheet as cheat_sheet
    from kvmlab.labs.browser import by_browser
    from kvmlab.labs.export import write_new
    from kvmlab.labs.page import frame
    from kvmlab.text import say, speaking

    kind = path.suffix.lower()
    if kind not in SHEETS:
        raise BadChoice(f"{path.name[-40:]!r} must end in {', '.join(SHEETS)}")
    with speaking(language):
        contents, title = cheat_sheet().encode(), say("sheet.title")
    if kind == ".pdf":
        contents = by_browser("page.html", contents, "--print-to-pdf", "page.pdf")
    write_new(path, contents, replace=replace)
    return frame(path.name, title)


def made(args: argparse.Namespace) -> "Lab":
    """The lab that is asked for.  Raises what the lab refuses."""
    from kvmlab import labs

    if args.share:
        lab: Lab = getattr(labs, args.what)(share=args.share)
    elif args.what == "walk":
        asked = walk.request(args)
        lab = labs.walk(
            design=asked.mmu,
            address=hex(asked.gva),
            guest_levels=asked.guest_levels,
            guest_page=asked.guest_page,
            host_levels=asked.host_levels,
            host_page=asked.host_page,
        )
    elif args.what == "modes":
        given = {"designs": args.mmu, "records": args.limit}
        lab = labs.modes(args.trace, **{name: one for name, one in given.items() if one})
    else:
        lab = getattr(labs, args.what)()
    return lab
