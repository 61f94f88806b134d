"""Notebooks as plain data (nbformat 4.5), and the pieces that both graders' assignments share."""

from collections.abc import Sequence
from typing import Any

from kvmlab.course.paper import SEEN_CASES, UNSEEN_CASES, Item, Paper, Program
from kvmlab.text import say

Cell = dict[str, Any]

QUESTIONS = "questions.json"
"""The file of questions, beside the notebook."""


def markdown(name: str, source: str, **metadata: object) -> Cell:
    """A cell of prose; ``name`` becomes its id."""
    return {"cell_type": "markdown", "id": name, "metadata": metadata, "source": source}


def raw(name: str, *lines: str) -> Cell:
    """A cell that is neither prose nor code."""
    return {"cell_type": "raw", "id": name, "metadata": {}, "source": "\n".join(lines)}


def code(name: str, *lines: str, **metadata: object) -> Cell:
    """A cell of code that has not been run."""
    cell = markdown(name, "\n".join(lines), **metadata)
    return cell | {"cell_type": "code", "execution_count": None, "outputs": []}


def notebook(cells: Sequence[Cell]) -> dict[str, Any]:
    """A whole notebook for the kernel that everyone has."""
    spec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    metadata = {"kernelspec": spec, "language_info": {"name": "python"}}
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


# -- code that both have ---------------------------------------------------------------------

OPEN_SHEET = (
    "from kvmlab.course.sheet import Sheet",
    "",
    f'sheet = Sheet("{QUESTIONS}", student)',
)


def question_head(item: Item) -> str:
    """The heading of a question."""
    values = {"number": item.asked.number, "lesson": item.lesson, "points": item.points}
    return say("paper.question", **values)


def judge_answer(paper: Paper, item: Item, secret: str) -> tuple[str, ...]:
    """Lines that fail unless the answer is right; they hold the secret."""
    one = item.asked
    asked = f"{one.assignment!r}, {one.number}, {one.kind!r}, {one.difficulty}, {paper.language!r}"
    return (
        "from kvmlab.course.asked import Asked",
        f"verdict = Asked({asked}).judge({secret!r}, student, answer_{one.number})",
        "assert verdict.ok, verdict.feedback",
    )


def try_program(paper: Paper, program: Program) -> tuple[str, ...]:
    """Lines that fail unless a program passes the cases that students can run."""
    return (
        "from kvmlab.course import check_program",
        "from kvmlab.text import speaking",
        "",
        f"with speaking({paper.language!r}):",
        f"    report = check_program({program.task!r}, {program.function}, cases={SEEN_CASES})",
        "assert report.ok, report.text",
    )


def judge_program(paper: Paper, program: Program, secret: str) -> tuple[str, ...]:
    """The same with cases of the student's own; they hold the secret."""
    number = -program.number  # questions have the numbers from 1
    seed = f"seed_of({secret!r}, {paper.name!r}, submitted_by(student), {number})"
    call = f"check_program({program.task!r}, {program.function}, seed=seed, cases={UNSEEN_CASES})"
    return (
        "from kvmlab.course import check_program",
        "from kvmlab.course.asked import seed_of, submitted_by",
        "from kvmlab.text import speaking",
        f"seed = {seed}",
        f"with speaking({paper.language!r}):",
        f"    report = {call}",
        "assert report.ok, report.text",
    )
