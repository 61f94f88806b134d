"""``kvmlab quiz``: questions with a seed, asked here or printed, with or without answers."""

import argparse
import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvmlab.base.errors import BadChoice
from kvmlab.cli import argument
from kvmlab.cli._output import written

if TYPE_CHECKING:
    from kvmlab.course import Question

HELP = "Ask questions that the engine solves; the same seed asks the same ones."
EXAMPLES = (
    "kvmlab quiz",
    "kvmlab quiz -s 7 -n 3 --topic tlb -c",
    "kvmlab quiz --list",
    "kvmlab quiz -s 7 -c --format jupyterquiz -o questions.json",
)
FORMATS = ("text", "json", "jupyterquiz")
LANGUAGES = ("en", "zh")
"""`text.LANGUAGES`, here without the engine."""

_SEEDS = 1_000_000  # of those chosen for a learner who names none: short enough to write down


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which questions, and what becomes of them; -s, -n and -c are OSTEP's."""
    number = argument(_number)
    parser.add_argument(
        "-s", "--seed", type=number, metavar="N", help="(default: a fresh one, which is printed)"
    )
    parser.add_argument(
        "-n", "--count", type=number, default=5, metavar="COUNT", help="(default: 5)"
    )
    parser.add_argument("--topic", help="of one topic only, such as tlb; --list names them")
    parser.add_argument(
        "--difficulty", type=int, choices=(1, 2, 3), help="(default: growing from 1 to 3)"
    )
    parser.add_argument(
        "-c", "--compute", action="store_true", help="print the answers, and explain them"
    )
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="(default: en)")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="jupyterquiz is for JupyterQuiz' display_quiz, answers included (default: text)",
    )
    parser.add_argument("--json", action="store_true", help="as --format json")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write to a new file")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    parser.add_argument("--list", action="store_true", help="print the topics and kinds")


def run(args: argparse.Namespace) -> int:
    """Ask at a terminal; print everywhere else, and with -c, --json, --format or --out."""
    from kvmlab.course import quiz
    from kvmlab.text import speaking

    if args.json and args.format not in (None, "json"):
        raise BadChoice(f"--json and --format {args.format} contradict each other; choose one")
    if args.list:
        print(_kinds())
        return 0
    seed = secrets.randbelow(_SEEDS) if args.seed is None else args.seed
    questions = quiz(seed, args.count, args.topic, args.difficulty)
    shape = "json" if args.json else args.format
    with speaking(args.language):
        if not (shape or args.out or args.compute) and sys.stdin.isatty():
            return _ask(questions, seed)
        _write(_printed(questions, shape or "text", seed, solved=args.compute), args)
    return 0


def _number(text: str) -> int:
    """A whole number; raises `BadChoice`."""
    if not text.isascii() or not text.isdecimal():
        raise BadChoice(f"{text[:40]!r} is no whole number; write one such as 7")
    return int(text[:40])


def _kinds() -> str:
    from kvmlab.course import kinds, topics

    return "\n".join(f"{topic}: {', '.join(kinds(topic))}" for topic in topics())


def _printed(questions: Sequence["Question"], shape: str, seed: int, *, solved: bool) -> str:
    from kvmlab.course.plain import as_json, jupyterquiz

    if shape == "text":
        return "\n".join(_lines(questions, seed, solved=solved))
    plain = [
        jupyterquiz(one) if shape == "jupyterquiz" else as_json(one, solved=solved)
        for one in questions
    ]
    return json.dumps(plain, indent=2, ensure_ascii=False)


def _lines(questions: Sequence["Question"], seed: int, *, solved: bool) -> Iterator[str]:
    from kvmlab.text import say

    yield say("course.quiz.seed", seed=seed, count=len(questions))
    for number, one in enumerate(questions, start=1):
        yield ""
        yield say("course.quiz.number", number=number, count=len(questions), id=one.id)
        yield one.text
        yield one.explanation if solved else f"({one.expects})"


def _write(text: str, args: argparse.Namespace) -> None:
    if args.out is None:
        print(text)
        return
    with written(args.out.expanduser(), force=args.force) as path:
        path.write_text(text + "\n", encoding="utf-8")


# -- at a terminal --------------------------------------------------------------------------


def _ask(questions: Sequence["Question"], seed: int) -> int:
    """Ask one after the other; Ctrl-D or q ends it."""
    from kvmlab.text import say

    print(say("course.quiz.seed", seed=seed, count=len(questions)))
    right = asked = 0
    for number, one in enumerate(questions, start=1):
        print()
        print(say("course.quiz.number", number=number, count=len(questions), id=one.id))
        print(_folded(one.text))
        first = _one(one)
        if first is None:
            break
        asked += 1
        right += first
    print(say("course.quiz.score", right=right, count=asked))
    return 0


def _folded(text: str) -> str:
    """For the terminal, no word broken at its edge."""
    from kvmlab.text.fold import fold

    return fold(text, shutil.get_terminal_size().columns)


def _one(question: "Question") -> bool | None:
    """Ask until it is right or given up; whether the first answer was right, None to end."""
    from kvmlab.course import check
    from kvmlab.text import say

    hints = iter(question.hints)
    first = True
    while True:
        try:
            prompt = say("course.quiz.prompt", expects=question.expects)
            line = input(f"{_folded(prompt.rstrip())} ").strip()
        except EOFError:
            print()
            return None
        if line.lower() == "q":
            return None
        if line == "?":
            print(_folded(next(hints, say("course.quiz.nohint"))))
            first = False
        elif line == "!":
            print(_folded(question.explanation))
            return False
        elif line:
            verdict = check(question, line)
            print(_folded(verdict.feedback))
            if verdict.ok:
                return first
            first = first and verdict.outcome == "unclear"
