"""Assignments through the real nbgrader and otter: full marks, none, and exactly what is earned.

They live in an environment of their own, which ``KVMLAB_GRADERS`` names (`.ci/run --all` makes it:
nbgrader, otter-grader and kvmlab).
"""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmlab import cli, course

pytestmark = [
    pytest.mark.long,
    pytest.mark.graders,
    pytest.mark.skipif(not os.environ.get("KVMLAB_GRADERS"), reason="KVMLAB_GRADERS names none"),
]
ROOT = Path(__file__).parents[1]
PAGE = " ".join((ROOT / "notebooks" / "teaching.md").read_text(encoding="utf-8").split())
ALL, NOTHING, SOME, COPIED = CLASS = ("ann", "bob", "cyd", "dan")
SEEN, UNSEEN = 2, 3  # points of a program

SHARER = (ROOT / "tests" / "solutions" / "sharer.py").read_text(encoding="utf-8")
POLICY = (ROOT / "tests" / "solutions" / "policy.py").read_text(encoding="utf-8")
REMEMBERED = """
from kvmlab.course.draw import Draw
from kvmlab.course.task_share import share_case

cases = [share_case(Draw(f"task/sharer/7/{number}")) for number in range(10)]
known = {tuple(case.arguments[0]): list(case.expected) for case in cases}


def share(pages):
    return known.get(tuple(pages), [0] * len(pages))
"""


def ran(line, cwd, home):
    """Run a line of the instructors' page in the graders' environment."""
    assert line in PAGE
    folder = Path(os.environ["KVMLAB_GRADERS"], "bin")
    env = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
    env |= {"PYTHONPATH": str(ROOT), "VIRTUAL_ENV": str(folder.parent)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def made(folder, grader, name, language="en"):
    """An assignment of eight questions and two programs in ``folder / name``, and its key."""
    (folder / "roster.csv").write_text("id\n" + "\n".join(CLASS) + "\n")
    options = ["--name", name, "--lesson", "3", "--lesson", "11", "-n", "4", "--out"]
    command = ["assignment", "--for", grader, "--seed-from", str(folder / "roster.csv")]
    assert cli.main([*command, *options, str(folder / name), "--language", language]) == 0
    lines = (folder / name / "key" / "answers.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(lines))


def answers(key, student):
    return {int(row["question"]): row["answer"] for row in key if row["id"] == student}


def wrong(row):
    """An answer that can be read and is not right."""
    question = course.question(row["kind"], int(row["seed"]), int(row["difficulty"]))
    first = next(iter(question.wrong.values()), None)
    return question.form.show(first) if first is not None else "12345"


def work(key, student):
    """What a student writes: lines for the id, for each answer, and for the two programs."""
    rows = {int(row["question"]): row for row in key if row["id"] == student}
    right = answers(key, student)
    if student == SOME:
        right |= {number: wrong(rows[number]) for number in rows if number % 2 == 0}
    whose = ALL if student == COPIED else student
    if student == COPIED:
        right = answers(key, ALL)
    written = {number: f"answer_{number} = {text!r}" for number, text in right.items()}
    programs = {ALL: (POLICY, SHARER), SOME: (POLICY, REMEMBERED)}
    return {"student": f"student = {whose!r}"}, written, programs.get(student, ("", ""))


def points(key, student, right):
    """The marks for the questions whose numbers are in ``right``."""
    rows = [row for row in key if row["id"] == student and int(row["question"]) in right]
    return sum(int(row["difficulty"]) for row in rows)


def earned(key):
    """What each should get: for the questions, for the first program, for the second."""
    every = set(answers(key, ALL))
    own = answers(key, COPIED)
    same = {number for number, text in answers(key, ALL).items() if own[number] == text}
    full = SEEN + UNSEEN
    return {
        ALL: (points(key, ALL, every), full, full),
        NOTHING: (0, 0, 0),
        SOME: (points(key, SOME, {n for n in every if n % 2}), full, SEEN),
        COPIED: (points(key, COPIED, same), 0, 0),
    }


def filled(path, cells, student, key):
    """A notebook with a student's work in ``cells``: found by name, or by what they hold."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    who, written, programs = work(key, student)
    given = {cells["student"]: who["student"]}
    given |= {cells["answer"].format(number): line for number, line in written.items()}
    given |= {cells["program"].format(n): text for n, text in enumerate(programs, 1)}
    found = 0
    for cell in notebook["cells"]:
        name = cells["name"](cell, notebook["cells"])
        if name in given:
            cell["source"] = given[name]
            found += 1
    assert found == len(given)
    return json.dumps(notebook)


# -- nbgrader --------------------------------------------------------------------------------


def nbgrader_name(cell, _cells):
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


NBGRADER = {
    "name": nbgrader_name,
    "student": "student",
    "answer": "question-{}-answer",
    "program": "program-{}-code",
}


@pytest.fixture(scope="module")
def nbgrader(tmp_path_factory):
    """The folder of a course whose assignment was handed out, in and graded; and the key."""
    folder = tmp_path_factory.mktemp("nbgrader")
    key = made(folder, "nbgrader", "hw1")
    hw = folder / "hw1"
    ran("nbgrader generate_assignment hw1", hw, folder)
    released = hw / "release" / "hw1"
    for student in CLASS:
        mine = hw / "submitted" / student / "hw1"
        shutil.copytree(released, mine)
        if student != NOTHING:
            text = filled(released / "hw1.ipynb", NBGRADER, student, key)
            (mine / "hw1.ipynb").write_text(text, encoding="utf-8")
    (mine / "questions.json").write_text("{}")  # the last one meddles with it
    ran("nbgrader autograde hw1", hw, folder)
    ran("nbgrader export", hw, folder)
    return hw, key


def test_nbgrader_gives_each_what_was_earned(nbgrader):
    hw, key = nbgrader
    rows = list(csv.DictReader((hw / "grades.csv").read_text().splitlines()))
    total = sum(earned(key)[ALL])

    assert {row["student_id"]: float(row["score"]) for row in rows} == {
        student: sum(marks) for student, marks in earned(key).items()
    }
    assert {float(row["max_score"]) for row in rows} == {total}
    assert 0 < sum(earned(key)[SOME]) < total


def test_what_nbgrader_releases_holds_no_key(nbgrader):
    hw, key = nbgrader
    secret = (hw / "key" / "secret.txt").read_text().strip()
    files = [path for path in (hw / "release").rglob("*") if path.is_file()]
    text = "".join(path.read_text(encoding="utf-8") for path in files)

    assert sorted(path.name for path in files) == ["hw1.ipynb", "questions.json"]
    assert secret not in text
    assert [row["kind"] for row in key if row["kind"] in text] == []
    assert "### BEGIN" not in text
    assert text.count("raise NotImplementedError()") == 1 + 8 + 2


def test_nbgrader_validates_the_instructor_s_version_as_solved(nbgrader):
    hw, _ = nbgrader
    ran("nbgrader validate source/hw1/hw1.ipynb", hw, hw.parent)


def test_feedback_names_the_misconception(nbgrader):
    """A student whose wrong answer is a known one reads why, once it is graded."""
    hw, _ = nbgrader
    ran("nbgrader generate_feedback hw1", hw, hw.parent)
    page = (hw / "feedback" / SOME / "hw1" / "hw1.html").read_text(encoding="utf-8")

    assert "AssertionError" in page
    assert len(re.findall(r"AssertionError(?:</span>)?: ", page)) >= 4


# -- otter -----------------------------------------------------------------------------------


def otter_name(cell, cells):
    """Otter keeps no names: what a cell assigns tells it, or that a program's check follows."""
    source = "".join(cell["source"])
    if found := re.search(r"^(student|answer_\d+) = \.\.\.$", source, re.MULTILINE):
        return found[1]
    follows = cells[cells.index(cell) + 1 :]
    after = "".join(follows[0]["source"]) if follows else ""
    return after if cell["cell_type"] == "code" else None


OTTER = {
    "name": otter_name,
    "student": "student",
    "answer": "answer_{}",
    "program": 'grader.check("program_{}")',
}


@pytest.fixture(scope="module", params=["en", "zh"])
def otter(request, tmp_path_factory):
    """Where otter assigned; the key."""
    folder = tmp_path_factory.mktemp("otter")
    key = made(folder, "otter", "hw2", request.param)
    ran("otter assign hw2/hw2.ipynb dist", folder / "hw2", folder)
    return folder / "hw2", key


def test_otter_gives_each_what_was_earned(otter):
    """As `otter run` grades one submission on this machine, with no container."""
    folder, key = otter
    released = folder / "dist" / "student" / "hw2.ipynb"
    given = {}
    for student in (ALL, NOTHING, SOME):
        text = released.read_text(encoding="utf-8")
        if student != NOTHING:
            text = filled(released, OTTER, student, key)
        (folder / "hw2.ipynb").write_text(text, encoding="utf-8")
        ran(
            "otter run -a dist/autograder/hw2-autograder_*.zip -o . hw2.ipynb",
            folder,
            folder.parent,
        )
        tests = json.loads((folder / "results.json").read_text(encoding="utf-8"))["tests"]
        scores = {test["name"]: test.get("score") for test in tests}
        questions = [value for name, value in scores.items() if name.startswith("question_")]
        assert len(questions) == 8
        given[student] = (sum(questions), scores["program_1"], scores["program_2"])

    assert given == {student: earned(key)[student] for student in given}


def test_what_otter_gives_students_holds_no_key(otter):
    folder, key = otter
    secret = (folder / "key" / "secret.txt").read_text().strip()
    files = [path for path in (folder / "dist" / "student").rglob("*") if path.is_file()]
    text = "".join(path.read_text(encoding="utf-8") for path in files)

    assert {path.name for path in files} >= {"hw2.ipynb", "questions.json"}
    assert secret not in text
    assert [row["kind"] for row in key if row["kind"] in text] == []
    assert "first.setdefault" not in text
