"""An assignment as nbgrader's instructor version: cell metadata of schema version 3.

``nbgrader generate_assignment`` makes of it what students get: regions between BEGIN and END
SOLUTION and HIDDEN TESTS leave it, and come back from the gradebook when work is graded.
"""

from collections.abc import Iterator
from typing import Any

from kvmlab.course.cells import (
    OPEN_SHEET,
    Cell,
    code,
    judge_answer,
    judge_program,
    markdown,
    notebook,
    question_head,
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

SCHEMA = 3
CONFIG = """\
# nbgrader's settings for this assignment: run nbgrader in this folder.
c = get_config()
c.CourseDirectory.course_id = "kvmlab"
# A task tries 50 cases, on a busy machine.
c.ExecutePreprocessor.timeout = 120
"""


def nbgrader_notebook(paper: Paper, secret: str, student: str) -> dict[str, Any]:
    """The instructor's notebook; the answers in it are those of ``student``."""
    with speaking(paper.language):
        return notebook(list(_cells(paper, secret, student)))


def _cells(paper: Paper, secret: str, student: str) -> Iterator[Cell]:
    yield _locked("intro", introduction(paper))
    yield _locked("who", say("paper.student"))
    hint = say("paper.id")
    yield _solution("student", f"student = None  # {hint}", f"student = {student!r}")
    yield code("sheet", *OPEN_SHEET, nbgrader=_about("sheet", locked=True))
    for item in paper.items:
        answer = item.asked.question(secret, student).solution
        yield from _question(paper, item, secret, answer)
    for program in paper.programs:
        yield from _program(paper, program, secret)


def _question(paper: Paper, item: Item, secret: str, answer: str) -> Iterator[Cell]:
    number = item.asked.number
    name = f"question-{number}"
    yield _locked(f"{name}-head", question_head(item))
    show = f"print(sheet.question({number}))"
    yield code(f"{name}-text", show, nbgrader=_about(f"{name}-text", locked=True))
    blank = f"answer_{number} = None  # {say('paper.answer')}"
    yield _solution(f"{name}-answer", blank, f"answer_{number} = {answer!r}")
    seen = (f"print(sheet.understood({number}, answer_{number}))",)
    yield _test(f"{name}-test", item.points, seen, judge_answer(paper, item, secret))


def _program(paper: Paper, program: Program, secret: str) -> Iterator[Cell]:
    name = f"program-{program.number}"
    yield _locked(f"{name}-head", program_text(program))
    yield _solution(f"{name}-code", f"# {say('paper.write')}", program.solution)
    yield _test(f"{name}-seen", SEEN_POINTS, try_program(paper, program), ())
    unseen = judge_program(paper, program, secret)
    yield _test(f"{name}-unseen", UNSEEN_POINTS, (f"# {say('paper.unseen')}",), unseen)


# -- kinds of cells --------------------------------------------------------------------------


def _about(name: str, *, grade: bool = False, solution: bool = False, locked: bool = False,
           points: int | None = None) -> dict[str, Any]:  # fmt: skip
    """What nbgrader is told of a cell; points are there exactly where something is graded."""
    found: dict[str, Any] = {
        "schema_version": SCHEMA,
        "grade_id": name,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
    }
    return found if points is None else found | {"points": points}


def _locked(name: str, source: str) -> Cell:
    """Prose that students cannot change."""
    return markdown(name, source, nbgrader=_about(name, locked=True))


def _solution(name: str, above: str, answer: str) -> Cell:
    """A cell that students write; ``above`` stays."""
    lines = (above, "### BEGIN SOLUTION", answer, "### END SOLUTION")
    return code(name, *lines, nbgrader=_about(name, solution=True))


def _test(name: str, points: int, seen: tuple[str, ...], hidden: tuple[str, ...]) -> Cell:
    """A cell that is worth ``points`` if it runs without an error."""
    rest = ("### BEGIN HIDDEN TESTS", *hidden, "### END HIDDEN TESTS") if hidden else ()
    return code(name, *seen, *rest, nbgrader=_about(name, grade=True, locked=True, points=points))
