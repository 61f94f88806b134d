"""``kvmlab assignment``: an assignment for nbgrader or otter, with numbers of each student's own.

Both tools grade all students by one notebook.  So there is one, and a file beside it from which it
shows each student's questions by id.  What is asked is drawn from the assignment's name; a
student's numbers from that, the id and a secret, which stays with the key.
"""

import argparse
import csv
import io
import json
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice
from kvmlab.cli import argument

if TYPE_CHECKING:
    from kvmlab.course.paper import Paper
    from kvmlab.text.lessons import Lesson

HELP = "Make an assignment for nbgrader or otter, with numbers of each student's own."
EXAMPLES = (
    "kvmlab assignment --for nbgrader --seed-from roster.csv",
    "kvmlab assignment --for otter --seed-from roster.csv --name hw1 --lesson 03 --lesson 11",
    "kvmlab assignment --for otter --seed-from longer.csv --secret hw1/key/secret.txt --out new",
)
GRADERS = ("nbgrader", "otter")
LANGUAGES = ("en", "zh")
"""`text.LANGUAGES`, here without the engine."""

SECRET, ANSWERS = "key/secret.txt", "key/answers.csv"
_MOST_SECRET = 1000
_NEXT = MappingProxyType(
    {
        "nbgrader": "cd {out} && nbgrader generate_assignment {name}",
        "otter": "cd {out} && otter assign {name}/{name}.ipynb dist",
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who is asked what, by which tool it is graded, and where it goes."""
    parser.add_argument(
        "--for", dest="grader", choices=GRADERS, required=True, help="what grades it"
    )
    parser.add_argument(
        "--seed-from",
        type=Path,
        required=True,
        metavar="ROSTER",
        help="the class list: a CSV file whose first line names its columns",
    )
    parser.add_argument(
        "--id-column", default="id", metavar="NAME", help="the column of the ids (default: id)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: NAME)")
    parser.add_argument("--name", default="kvmlab", help="of the assignment (default: kvmlab)")
    parser.add_argument(
        "--lesson",
        action="append",
        metavar="N",
        help="on this lesson of course.toml, such as 03; repeatable (default: on every lesson)",
    )
    number = argument(_number)
    parser.add_argument(
        "-n", "--each", type=number, default=2, metavar="N", help="questions a lesson (default: 2)"
    )
    parser.add_argument(
        "--difficulty", type=int, choices=(1, 2, 3), help="(default: growing from 1 to 3)"
    )
    parser.add_argument(
        "--no-programs", action="store_true", help="without the lessons' programming tasks"
    )
    parser.add_argument(
        "--secret",
        type=Path,
        metavar="FILE",
        help=f"make the same again, for a longer class list say, with an earlier {SECRET}",
    )
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="(default: en)")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(args: argparse.Namespace) -> int:
    """Make the folder, whole or not at all, and say what is to be done next."""
    from kvmlab.course.paper import compose
    from kvmlab.course.roster import read_roster

    out = (args.out or Path(args.name)).expanduser()
    students = read_roster(args.seed_from.expanduser(), args.id_column)
    secret = _secret(args.secret) if args.secret else secrets.token_hex(16)
    paper = compose(
        args.name,
        _lessons(args.lesson),
        each=args.each,
        difficulty=args.difficulty,
        programs=not args.no_programs,
        language=args.language,
    )
    _refuse_old(out)
    _write(out, _files(paper, args.grader, secret, students))
    _say(args, out, paper, students)
    return 0


def _number(text: str) -> int:
    """A whole number; raises `BadChoice`."""
    if not text.isascii() or not text.isdecimal() or len(text) > 3:
        raise BadChoice(f"{text[:40]!r} is no number of questions; write one such as 2")
    return int(text)


def _lessons(numbers: Sequence[str] | None) -> list["Lesson"]:
    """The lessons that were named, or all that there are notebooks of; raises `BadChoice`."""
    from kvmlab.text.lessons import lesson, lessons

    if numbers is None:
        return [one for one in lessons()[1:] if one.path.is_file()]
    found = [lesson(number) for number in dict.fromkeys(numbers)]
    for one in found:
        if not one.path.is_file():
            raise BadChoice(f"lesson {one.number} has no notebook {one.file} in {one.path.parent}")
    return found


def _secret(path: Path) -> str:
    """The secret in a file; raises `BadChoice` for one that holds none, or OSError."""
    with path.expanduser().open("rb") as file:
        data = file.read(_MOST_SECRET + 1)
    text = data.decode("utf-8", errors="replace").strip()
    if len(data) > _MOST_SECRET or not text.isprintable() or len(text) < 16:
        raise BadChoice(f"{path.name} holds no secret; it is one line of 16 characters or more")
    return text


def _files(paper: "Paper", grader: str, secret: str, students: Sequence[str]) -> dict[str, str]:
    """Everything that is made, by name; what students may not see is in ``key/`` and the source."""
    from kvmlab.course.cells import QUESTIONS
    from kvmlab.course.for_nbgrader import CONFIG, nbgrader_notebook
    from kvmlab.course.for_otter import otter_notebook

    name = paper.name
    if grader == "nbgrader":
        folder, make = f"source/{name}", nbgrader_notebook
        found = {"nbgrader_config.py": CONFIG}
    else:
        folder, make, found = name, otter_notebook, {}
    drawn = paper.drawn(secret, students)
    rows = io.StringIO(newline="")
    csv.writer(rows, lineterminator="\n").writerows(paper.key(drawn))
    return found | {
        f"{folder}/{name}.ipynb": _text(make(paper, secret, students[0])),
        f"{folder}/{QUESTIONS}": _text(paper.sheets(drawn)),
        ANSWERS: rows.getvalue(),
        SECRET: f"{secret}\n",
    }


def _text(data: object) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _refuse_old(out: Path) -> None:
    """Raise `BadChoice` unless ``out`` can be made."""
    if out.exists() or out.is_symlink():
        raise BadChoice(f"{out} is there already; name a new folder with --out")
    if not out.parent.is_dir():
        raise BadChoice(f"{out} cannot be made: {out.parent} is no folder")


def _write(out: Path, files: dict[str, str]) -> None:
    """Make ``out`` with all ``files``, or nothing; the key is for its owner's eyes only."""
    staging = Path(tempfile.mkdtemp(prefix=".kvmlab-", dir=out.parent))
    try:
        whole = staging / "whole"
        for name, text in files.items():
            path = whole / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (whole / SECRET).chmod(0o600)
        (whole / SECRET).parent.chmod(0o700)
        whole.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _say(args: argparse.Namespace, out: Path, paper: "Paper", students: Sequence[str]) -> None:
    facts = {
        "assignment": paper.name,
        "for": args.grader,
        "out": str(out),
        "lessons": [one.number for one in paper.lessons],
        "students": len(students),
        "questions": len(paper.items),
        "programs": len(paper.programs),
        "points": paper.points,
    }
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    asked = f"{len(paper.items)} questions, {len(paper.programs)} programs"
    print(f"{paper.name}: {asked}, {paper.points} points")
    print(f"for {len(students)} students, each with numbers of their own, in {out}")
    print(f"key: {out / ANSWERS}; keep {out / SECRET}, with which all of it can be made again")
    print(f"next: {_NEXT[args.grader].format(out=out, name=paper.name)}")
