"""`notebooks/course.toml` says of each lesson what its notebook says, and what depends on what."""

import json
import re
from pathlib import Path

import pytest

from kvmlab import course
from kvmlab.base.errors import BadChoice
from kvmlab.text.lessons import lesson, lessons, read_lessons

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
THERE = [one for one in lessons() if one.path.is_file()]

each_that_is_there = pytest.mark.parametrize("one", THERE[1:], ids=lambda one: one.file)


def prose(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def goals(path: Path) -> list[str]:
    """The list below the heading ``Goals``, each goal on one line and without its full stop."""
    text = prose(path).partition("## Goals\n")[2].partition("\n## ")[0]
    items = re.findall(r"^- (.+?)(?=^- |\Z|\n\n)", text, re.MULTILINE | re.DOTALL)
    return [" ".join(item.split()).rstrip(";.") for item in items]


def test_every_notebook_has_its_lesson():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} <= {one.file for one in lessons()}


def test_the_lessons_are_00_to_14_in_order_and_files_begin_with_their_numbers():
    assert [one.number for one in lessons()] == [f"{number:02}" for number in range(15)]
    assert [one.file[:2] for one in lessons()] == [one.number for one in lessons()]


@each_that_is_there
def test_title_and_minutes_are_those_of_the_notebook(one):
    text = prose(one.path)

    assert text.splitlines()[0] == f"# {one.number} {one.title}"
    assert re.findall(r"\*About (\d+) minutes\.", text) == [str(one.minutes)]


@each_that_is_there
def test_the_goals_are_those_of_the_notebook_in_its_order(one):
    """What to write into course.toml is what the failure shows."""
    assert list(one.goals) == goals(one.path)


@each_that_is_there
def test_the_index_says_the_same(one):
    """A row for each: link, question, minutes, needs; no row is missing."""
    rows = re.findall(r"^\| \[(\d\d) .*?\]\((.+?)\) \| (.+?) \| (\d+) min \| (.+?) \|$",
                      prose(NOTEBOOKS / "00_index.ipynb"), re.MULTILINE)  # fmt: skip
    found = {number: rest for number, *rest in rows}
    needs = ", ".join(one.needs)

    assert found[one.number][:3] == [one.file, one.question, str(one.minutes)]
    assert re.findall(r"\d\d", found[one.number][3]) == re.findall(r"\d\d", needs)


def test_questions_and_programs_exist_and_each_is_in_some_lesson():
    kinds = [kind for one in lessons() for kind in one.questions]
    programs = [task for one in lessons() for task in one.programs]

    assert set(kinds) == set(course.kinds())
    assert sorted(programs) == sorted(course.tasks())
    assert [one.number for one in lessons() if len(one.questions) != len(set(one.questions))] == []


@each_that_is_there
def test_what_a_self_test_asks_is_a_question_of_the_lesson_or_of_one_before(one):
    text = "".join(
        "".join(cell["source"]) for cell in json.loads(one.path.read_text("utf-8"))["cells"]
    )
    asked = set(re.findall(r'course\.question\("([\w.]+)"', text))
    before = [each for each in lessons() if each.number <= one.number]

    assert asked <= {kind for each in before for kind in each.questions}


def test_a_lesson_is_found_by_its_number():
    assert lesson("3") is lesson("03") is lessons()[3]
    for wrong in ("99", "", "x", "00", "../01"):
        with pytest.raises(BadChoice, match="there is no lesson"):
            lesson(wrong)


LESSON = """[[lesson]]
number = "01"
file = "01.ipynb"
title = "One"
question = "what?"
minutes = 10
"""


@pytest.mark.parametrize(
    "text, says",
    [
        ("[[lesson", "cannot be read"),
        ("", "does not say what a lesson needs: 'lesson'"),
        ("lesson = 3", "does not say what a lesson needs"),
        (LESSON.replace("10", '"10"'), "minutes of lesson '01' is no int"),
        (LESSON + "needs = '02'", "needs of lesson '01' is no list"),
        (LESSON + "wings = 'two'", "wings"),
        (LESSON + 'needs = ["02"]', "lesson 01 needs lessons that come before it"),
        (LESSON + LESSON, "lesson 01 needs lessons that come before it, once"),
    ],
)
def test_a_broken_course_is_one_line(text, says, tmp_path):
    (tmp_path / "course.toml").write_text(text)

    with pytest.raises(BadChoice, match=says) as caught:
        read_lessons(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_course_of_one_s_own_is_read(tmp_path):
    (tmp_path / "course.toml").write_text(LESSON)
    (one,) = read_lessons(tmp_path)

    assert (one.number, one.minutes, one.needs, one.path) == ("01", 10, (), tmp_path / "01.ipynb")
