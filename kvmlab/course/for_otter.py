"""An assignment as otter's master notebook, with its markers in raw cells.

``otter assign`` makes of it a version for students, without solutions and hidden tests, and one for
the autograder.
"""

from collections.abc import Iterator
from typing import Any

from kvmlab.course.cells import (
    OPEN_SHEET,
    QUESTIONS,
    Cell,
    code,
    judge_answer,
    judge_program,
    markdown,
    notebook,
    question_head,
    raw,
    try_program,
)
from kvmlab.course.paper import (
    SEEN_POINTS,
    UNSEEN_POINTS,
    Item,
    Paper,
    Program,
    introduction,
    program_text,
)
from kvmlab.text import say, speaking


def otter_notebook(paper: Paper, secret: str, student: str) -> dict[str, Any]:
    """The master notebook; the answers in it are those of ``student``."""
    with speaking(paper.language):
        return notebook(list(_cells(paper, secret, student)))


def _cells(paper: Paper, secret: str, student: str) -> Iterator[Cell]:
    yield raw(
        "config",
        "# ASSIGNMENT CONFIG",
        f"name: {paper.name}",
        "files:",
        f"  - {QUESTIONS}",
        "strip_solutions_from_all_cells: true",  # the student's id stands in no question
        "export_cell:",
        "  pdf: false",
        f"  files: [{QUESTIONS}]",
        "generate: true",
    )
    yield markdown("intro", introduction(paper))
    yield markdown("who", say("paper.student"))
    yield code("student", f"# {say('paper.id')}", f"student = {student!r}  # SOLUTION")
    yield code("sheet", *OPEN_SHEET)
    for item in paper.items:
        answer = item.asked.question(secret, student).solution
        yield from _question(paper, item, secret, answer)
    for program in paper.programs:
        yield from _program(paper, program, secret)


def _question(paper: Paper, item: Item, secret: str, answer: str) -> Iterator[Cell]:
    number = item.asked.number
    name = f"question-{number}"
    solved = f"answer_{number} = {answer!r}  # SOLUTION"
    tests = (
        _test(f"{name}-seen", 0, (f"_ = sheet.understood({number}, answer_{number})",)),
        _test(f"{name}-test", item.points, judge_answer(paper, item, secret), hidden=True),
    )
    yield from _block(
        name,
        markdown(f"{name}-head", question_head(item)),
        code(f"{name}-text", f"print(sheet.question({number}))"),
        solution=code(f"{name}-answer", f"# {say('paper.answer')}", solved),
        tests=tests,
    )


def _program(paper: Paper, program: Program, secret: str) -> Iterator[Cell]:
    name = f"program-{program.number}"
    lines = (f"# {say('paper.write')}", "# BEGIN SOLUTION", program.solution, "# END SOLUTION")
    unseen = judge_program(paper, program, secret)
    yield from _block(
        name,
        markdown(f"{name}-head", program_text(program)),
        solution=code(f"{name}-code", *lines),
        tests=(
            _test(f"{name}-seen", SEEN_POINTS, try_program(paper, program)),
            _test(f"{name}-unseen", UNSEEN_POINTS, unseen, hidden=True),
        ),
    )


def _block(name: str, *asked: Cell, solution: Cell, tests: tuple[Cell, ...]) -> Iterator[Cell]:
    """One question as otter marks it."""
    yield raw(f"{name}-begin", "# BEGIN QUESTION", f"name: {name.replace('-', '_')}")
    yield from asked
    yield raw(f"{name}-solve", "# BEGIN SOLUTION")
    yield solution
    yield raw(f"{name}-solved", "# END SOLUTION")
    yield raw(f"{name}-tests", "# BEGIN TESTS")
    yield from tests
    yield raw(f"{name}-tested", "# END TESTS")
    yield raw(f"{name}-end", "# END QUESTION")


def _test(name: str, points: int, lines: tuple[str, ...], *, hidden: bool = False) -> Cell:
    """A test case with its settings, which otter reads from a string at its head."""
    config = ('""" # BEGIN TEST CONFIG', f"points: {points}", f"hidden: {str(hidden).lower()}")
    return code(name, *config, '""" # END TEST CONFIG', *lines)
