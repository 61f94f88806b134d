"""``kvmlab lab``: open the course in JupyterLab, on a working copy that belongs to the learner.

The copy remembers, as hashes, what it was given.  A notebook that still is what was given follows
the course when that changes; one that the learner edited is never touched, and a changed original
is put beside it.  A deleted notebook comes back fresh.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import kvmlab
from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.cli import argument
from kvmlab.text.lessons import INDEX, shipped

HELP = "Open the course in JupyterLab, on a working copy of its notebooks."
EXAMPLES = (
    "kvmlab lab",
    "kvmlab lab ~/kvm --no-browser --port 8899",
)
MANIFEST = ".kvmlab.json"
COURSE = "kvmlab-course"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the copy goes and how JupyterLab is started."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path(COURSE),
        help=f"the working copy (default: ./{COURSE}); made if absent, edits in it are kept",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address instead of opening it"
    )
    parser.add_argument(
        "--port", type=argument(parse_port), metavar="N", help="port (default: 8888 or the next)"
    )


def run(args: argparse.Namespace) -> int:
    """Bring the working copy up to date, then become JupyterLab."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise KvmlabError("JupyterLab is not installed; run: pip install 'kvmlab[lab]'")
    course = args.directory.expanduser().absolute()
    for line in refresh(course, shipped()):
        print(line)
    sys.stdout.flush()
    command = jupyterlab(course, browser=not args.no_browser, port=args.port)
    os.execv(command[0], command)  # noqa: S606  our own interpreter; no shell is wanted


def parse_port(text: str) -> int:
    """The TCP port named by ``text``, 1 to 65535.  Raises `BadChoice`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise BadChoice(f"port {text[:40]!r} is not a port; write a number from 1 to 65535")
    return int(text)


def jupyterlab(course: Path, *, browser: bool, port: int | None) -> list[str]:
    """The command line of a JupyterLab that opens the course at its index."""
    command = [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={course}",
        f"--LabApp.default_url=/lab/tree/{INDEX}",
    ]
    if not browser:
        command.append("--no-browser")
    if port is not None:
        command.append(f"--port={port}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container often has no other user to be
    return command


@dataclass(slots=True)
class Update:
    """What a working copy needs: files to write, hashes to remember, lines to say."""

    files: dict[str, bytes] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def refresh(course: Path, source: Path) -> list[str]:
    """Bring ``course`` up to date with ``source``; returns what is to be said about it.

    Nothing changes when it fails, with `KvmlabError` or `OSError`.
    """
    if course.resolve() == source.resolve():
        raise BadChoice(f"{course} holds kvmlab's own notebooks; name another directory to work in")
    if course.exists() and not course.is_dir():
        raise BadChoice(f"{course} is not a directory; name one to keep your notebooks in")
    update = plan(course, source)
    if update.files or update.given != remembered(course):
        manifest = {"version": kvmlab.__version__, "files": update.given}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        write(course, {**update.files, MANIFEST: text.encode()})
    return [*update.lines, f"The course is in {course}; your edits in it are kept."]


def plan(course: Path, source: Path) -> Update:
    """What must be written for ``course`` to follow ``source``, edits left alone."""
    update = Update(given=remembered(course))
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_dir() or any(part.startswith((".", "__")) for part in name.parts):
            continue
        plan_file(update, course, name.as_posix(), path.read_bytes())
    return update


def plan_file(update: Update, course: Path, name: str, fresh: bytes) -> None:
    """Add to ``update`` what one shipped file needs."""
    new, old = digest(fresh), update.given.get(name)
    here = found(course / name)
    if here == new or (here is not None and here != old == new):
        pass  # up to date, or the learner's own work on the very file that is shipped
    elif here in (None, old):
        update.files[name] = fresh
    else:
        beside = free_name(update, course, name, new)
        update.files[beside] = fresh
        update.given[beside] = new
        update.lines.append(f"{name} is yours and was left alone; the new one is {beside}")
    update.given[name] = new


def aside(name: str, number: int = 1) -> str:
    """Where the ``number``-th new version of a file that the learner edited goes."""
    path = Path(name)
    return path.with_suffix(f".new{number if number > 1 else ''}{path.suffix}").as_posix()


def free_name(update: Update, course: Path, name: str, new: str) -> str:
    """The first name beside ``name`` that is free, or holds only what was given there."""
    for number in itertools.count(1):
        beside = aside(name, number)
        if found(course / beside) in (None, new, update.given.get(beside)):
            break
    return beside


def found(path: Path) -> str | None:
    """The hash of a file, or None where there is none.  Raises `OSError` for a directory."""
    return digest(path.read_bytes()) if path.exists() else None


def digest(contents: bytes) -> str:
    """The SHA-256 of ``contents``, in hex."""
    return hashlib.sha256(contents).hexdigest()


def remembered(course: Path) -> dict[str, str]:
    """What the working copy was given so far: hash by file name.

    A manifest that is absent or damaged remembers nothing: then every file that differs from
    what is shipped counts as edited, which is the safe side.
    """
    try:
        files = json.loads((course / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {str(name): str(value) for name, value in files.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def write(course: Path, files: dict[str, bytes]) -> None:
    """Write all ``files`` into ``course`` or, when something fails on the way, none of them.

    They are first written aside, where a full disk shows, and then moved into place; what they
    replace is kept until all are there.
    """
    missing = [place for place in (course, *course.parents) if not place.exists()]
    done = False
    try:
        course.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=course, prefix=".kvmlab-") as staging:
            staged = [(Path(staging, str(n)), course / name) for n, name in enumerate(files)]
            for (part, target), contents in zip(staged, files.values(), strict=True):
                part.write_bytes(contents)
                if target.exists():
                    shutil.copy2(target, kept(part))
            move(staged)
        done = True
    finally:
        if not done:
            for place in missing:
                with suppress(OSError):  # one that was not made, or that another has filled
                    place.rmdir()


def move(staged: list[tuple[Path, Path]]) -> None:
    """Move each part to its target; if one refuses, those before it are as they were."""
    moved = []
    try:
        for part, target in staged:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            moved.append((part, target))
    except OSError:
        for part, target in moved:
            if kept(part).exists():
                kept(part).replace(target)
            else:
                target.unlink()
        raise


def kept(part: Path) -> Path:
    """Where a copy is of what ``part`` replaces."""
    return part.with_suffix(".old")
