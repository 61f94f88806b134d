"""An assignment before it is written for nbgrader or otter: who is asked what, for how many points.

Everybody gets the same kinds of questions at the same difficulty, drawn from the assignment's name,
and numbers of their own.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.course.asked import Asked
from kvmlab.course.checks import describe
from kvmlab.course.draw import Draw
from kvmlab.course.questions import DIFFICULTIES, Question
from kvmlab.course.sheet import FORMAT, entry, ticket
from kvmlab.course.tasks import TASKS
from kvmlab.text import LANGUAGES, say, speaking
from kvmlab.text.lessons import Lesson

SEEN_POINTS, UNSEEN_POINTS = 2, 3  # of a program
SEEN_CASES, UNSEEN_CASES = 10, 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


Drawn = Mapping[str, tuple[Question, ...]]
"""Every student's questions, by id."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question, and where in the course it belongs; it is worth its difficulty in points."""

    asked: Asked
    lesson: str

    @property
    def points(self) -> int:
        """What a right answer is worth."""
        return self.asked.difficulty


@dataclass(frozen=True, slots=True)
class Program:
    """A program to write: its task, and a solution as text."""

    number: int
    task: str
    lesson: str
    solution: str

    @property
    def function(self) -> str:
        """What the function is called."""
        return TASKS[self.task].function


@dataclass(frozen=True, slots=True)
class Paper:
    """A whole assignment, but for the class."""

    name: str
    language: str
    lessons: tuple[Lesson, ...]
    items: tuple[Item, ...]
    programs: tuple[Program, ...]

    @property
    def points(self) -> int:
        """What all of it is worth."""
        programs = len(self.programs) * (SEEN_POINTS + UNSEEN_POINTS)
        return sum(one.points for one in self.items) + programs

    def drawn(self, secret: str, students: Sequence[str]) -> Drawn:
        """Every student's own questions, which take a moment each: some run whole machines."""
        return {
            student: tuple(one.asked.question(secret, student) for one in self.items)
            for student in students
        }

    def sheets(self, drawn: Drawn) -> dict[str, object]:
        """The file of questions that all students get."""
        with speaking(self.language):
            entries = {
                ticket(self.name, student): [entry(one) for one in questions]
                for student, questions in drawn.items()
            }
        given = dict(sorted(entries.items()))  # not in the order of the class list
        return {
            "format": FORMAT,
            "assignment": self.name,
            "language": self.language,
            "students": given,
        }

    def key(self, drawn: Drawn) -> list[list[str]]:
        """Rows of the answers: titles first, then one for each student and question."""
        rows = [["id", "question", "lesson", "kind", "difficulty", "seed", "answer"]]
        with speaking(self.language):
            for student, questions in drawn.items():
                for item, one in zip(self.items, questions, strict=True):
                    facts = one.kind, str(one.difficulty), str(one.seed), one.solution
                    rows.append([student, str(item.asked.number), item.lesson, *facts])
        return rows


def compose(
    name: str,
    lessons: Sequence[Lesson],
    *,
    each: int = 2,
    difficulty: int | None = None,
    programs: bool = True,
    language: str = "en",
) -> Paper:
    """An assignment with ``each`` questions on every lesson, as far as there are kinds.

    Without a ``difficulty`` they grow harder.  With ``programs`` the lessons' programming tasks are
    in it.  Raises `BadChoice`, and `KvmlabError` where the solutions of the tasks are not at hand.
    """
    if not _NAME.fullmatch(name):
        raise BadChoice(f"{name[:64]!r} names no assignment; use letters, digits, - and _")
    if type(each) is not int or not 0 <= each <= 100:
        raise BadChoice(f"{each!r} questions for each lesson cannot be asked; choose 0 to 100")
    if language not in LANGUAGES:
        raise BadChoice(f"no sentences in {language!r}; there are {', '.join(LANGUAGES)}")
    if difficulty not in (None, *DIFFICULTIES):
        raise BadChoice(f"{difficulty!r} is no difficulty; there are 1, 2 and 3")
    kinds: dict[str, str] = {}
    for lesson in lessons:
        fresh = [kind for kind in lesson.questions if kind not in kinds]
        picked = Draw(f"assignment/{name}/{lesson.number}").sample(fresh, each)
        kinds |= dict.fromkeys(picked, lesson.number)
    items = tuple(
        Item(Asked(name, number, kind, difficulty or 1 + (number - 1) * 3 // len(kinds), language),
             lesson)
        for number, (kind, lesson) in enumerate(kinds.items(), start=1)
    )  # fmt: skip
    tasks = [(task, one.number) for one in lessons if programs for task in one.programs]
    written = tuple(
        Program(number, task, lesson, solution(task))
        for number, (task, lesson) in enumerate(tasks, start=1)
    )
    if not items and not written:
        raise BadChoice("nothing is asked; choose lessons with questions, or some for each")
    return Paper(name, language, tuple(lessons), items, written)


def solution(task: str) -> str:
    """The text of a solution, from a checkout; raises `KvmlabError` where there is none."""
    path = Path(__file__).parents[2] / "tests" / "solutions" / f"{task}.py"
    if not path.is_file():
        raise KvmlabError(
            "the solutions of the programming tasks are in a checkout of kvmlab, not in what pip "
            "installs; run this from a checkout, or leave the tasks out with --no-programs"
        )
    return path.read_text(encoding="utf-8").strip()


# -- what is said at the head of it ----------------------------------------------------------


def introduction(paper: Paper) -> str:
    """The first cell: what it is about, from the lessons' notebooks."""
    titles = [one.called(paper.language) for one in paper.lessons]
    with speaking(paper.language):
        facts = {"questions": len(paper.items), "programs": len(paper.programs)}
        parts = [
            "# " + say("paper.title", name=paper.name, titles=", ".join(titles)),
            say("paper.intro", points=paper.points, **facts),
            *(_lesson(one, paper.language) for one in paper.lessons),
        ]
    return "\n\n".join(parts)


def program_text(program: Program) -> str:
    """The cell above a program."""
    points = SEEN_POINTS + UNSEEN_POINTS
    facts = {"number": program.number, "lesson": program.lesson, "points": points}
    return say("paper.program", text=describe(program.task), seen=SEEN_POINTS, **facts)


def _lesson(lesson: Lesson, language: str) -> str:
    facts = {"number": lesson.number, "title": lesson.called(language), "minutes": lesson.minutes}
    head = say("paper.lesson", question=lesson.question, **facts)
    asked = section(lesson.path, "The question").replace("\n", "\n> ")
    goals = [f"- {say('paper.goal', goal=goal)}" for goal in lesson.goals]
    return "\n\n".join(part for part in (head, asked and f"> {asked}", "\n".join(goals)) if part)


def section(path: Path, heading: str) -> str:
    """What a notebook says below the heading ``## heading``; nothing if it has none."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and f"## {heading}\n" in text:
            below = text.partition(f"## {heading}\n")[2]
            return re.split(r"^#", below, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return ""
