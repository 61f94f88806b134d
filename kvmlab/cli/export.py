"""``kvmlab export``: a walk as a page, a drawing or a handout for a lecture."""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.cli import DESIGNS, walk
from kvmlab.cli.doctor import BROWSERS

if TYPE_CHECKING:
    from kvmlab.labs.page import Variant
    from kvmlab.study.access import Request

HELP = "Write a walk as one self-contained file: .html that steps, .svg, .png or .pdf."
LANGUAGES = ("en", "zh")
"""`text.LANGUAGES`, here without the engine."""

BROWSER_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The walk as for ``kvmlab walk``, and the file."""
    parser.add_argument("what", choices=("walk",), help="what to export")
    walk.add_walk_arguments(parser)
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="(default: en)")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".html steps and plays with no network, and switches designs and page sizes; .svg "
        "and .png show the walk at its end; .pdf is a handout (.png and .pdf need Chromium)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")


def run(args: argparse.Namespace) -> int:
    """Write the file, and say how another page shows it."""
    from kvmlab.labs.page import frame, write_new
    from kvmlab.text import say, speaking

    path = args.out.expanduser()
    make = WRITERS.get(path.suffix.lower())
    if make is None:
        raise BadChoice(f"{path.name[-40:]!r} must end in {', '.join(WRITERS)}")
    if path.exists() and not args.force:
        raise BadChoice(f"{path} is there already; name another file, or say --force")
    asked = walk.request(args)
    with speaking(args.language):
        contents = make(asked, args.language)
        title = say("page.walk")
    write_new(path, contents, replace=args.force)
    print(f"{path}: {len(contents):,} bytes")
    if make is html:
        print(frame(path.name, title))
    return 0


def html(asked: "Request", language: str) -> bytes:
    """The page of the walk that is asked for, and of the same walk in other designs and sizes."""
    from kvmlab.labs.page import page
    from kvmlab.text import say

    axes = [say(f"lab.walk.{name}") for name in ("design", "guest_page", "host_page")]
    return page(say("page.walk"), axes, list(variants(asked)), language).encode()


def variants(asked: "Request") -> Iterator["Variant"]:
    """The walk that is asked for, then every other design, guest page and host page."""
    from dataclasses import replace

    from kvmlab.study.access import GUESTS, page_sizes

    yield variant(asked)
    backing = ("4K", "2M", "1G") if GUESTS[asked.guest_levels].long_mode else ("4K", "2M")
    for mmu in DESIGNS:
        for guest_page in page_sizes(asked.guest_levels):
            for host_page in backing if mmu != "native" else ("4K",):
                other = replace(asked, mmu=mmu, guest_page=guest_page, host_page=host_page)
                if other != asked and asked.guest_levels in guests_of(mmu):
                    yield variant(other)


def guests_of(mmu: str) -> list[int]:
    """How many levels a guest may have under ``mmu``."""
    from kvmlab.study.access import guest_levels

    return guest_levels(mmu)


def variant(asked: "Request") -> "Variant":
    """One walk, recorded: its scene, what chooses it, and its references in one line."""
    from kvmlab.figures.walk import Setting, read_walk, summary, walk_scene
    from kvmlab.labs.page import Variant
    from kvmlab.study.access import first_access
    from kvmlab.text import say

    done = first_access(asked)
    setting = Setting.of(done.machine, done.gva)
    scene = walk_scene(done.records, setting, done.before)
    facts = summary(read_walk(done.records, setting), setting, done.before)
    host_page = "–" if asked.mmu == "native" else asked.host_page
    return Variant((say(f"design.{asked.mmu}"), asked.guest_page, host_page), scene, facts)


def svg(asked: "Request", _language: str) -> bytes:
    """The drawing alone, everything that the walk touched lit."""
    from kvmlab.labs.page import still_svg

    return still_svg(variant(asked).scene).encode()


def png(asked: "Request", _language: str) -> bytes:
    """The drawing as pixels, two for each of its units."""
    return by_browser("figure.svg", svg(asked, ""), "--screenshot", "figure.png")


def pdf(asked: "Request", language: str) -> bytes:
    """A handout: the figure, every step's sentence and the table, on paper."""
    from kvmlab.labs.page import page
    from kvmlab.text import say

    one = variant(asked)
    text = page(say("page.walk"), [], [one], language)
    return by_browser("page.html", text.encode(), "--print-to-pdf", "page.pdf")


def by_browser(given: str, contents: bytes, option: str, made: str) -> bytes:
    """What Chromium makes of a file; raises `KvmlabError` where there is none or it fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    kind = made.rpartition(".")[2]
    if browser is None:
        raise KvmlabError(f"a .{kind} needs Chromium; install it, or ask for .html or .svg")
    with tempfile.TemporaryDirectory(prefix="kvmlab-") as folder:
        source, target = Path(folder, given), Path(folder, made)
        source.write_bytes(contents)
        command = [
            *(browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"),
            *(f"--user-data-dir={folder}/profile", "--force-device-scale-factor=2"),
            *("--window-size=1100,900", "--virtual-time-budget=5000", "--hide-scrollbars"),
            *(f"{option}={target}", source.as_uri()),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium's sandbox refuses to start for root
        try:
            subprocess.run(command, capture_output=True, timeout=BROWSER_SECONDS, check=True)  # noqa: S603  a browser found on the user's own PATH
            return target.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise KvmlabError(f"{browser} made no .{kind}: {error}") from None


WRITERS = MappingProxyType({".html": html, ".svg": svg, ".png": png, ".pdf": pdf})
