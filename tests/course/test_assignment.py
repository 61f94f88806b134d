"""Assignments: everybody's kinds, each student's numbers, and what no student gets to see."""

import ast
import json
import re
from functools import cache

import nbformat
import pytest

from kvmlab import course
from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.course import paper as papers
from kvmlab.course.answers import BadAnswer
from kvmlab.course.asked import Asked, seed_of, submitted_by
from kvmlab.course.for_nbgrader import nbgrader_notebook
from kvmlab.course.for_otter import otter_notebook
from kvmlab.course.paper import compose
from kvmlab.course.sheet import Sheet, entry, ticket
from kvmlab.text import LANGUAGES, speaking
from kvmlab.text.lessons import lesson

SECRET, CLASS = "0123456789abcdef0123456789abcdef", ("ann", "bob", "cyd")
MAKERS = {"nbgrader": nbgrader_notebook, "otter": otter_notebook}

in_every_language = pytest.mark.parametrize("language", sorted(LANGUAGES))
for_each_grader = pytest.mark.parametrize("grader", sorted(MAKERS))


@cache
def made(language="en"):
    return compose("hw1", [lesson("03"), lesson("11")], each=3, language=language)


@cache
def drawn(language="en"):
    return made(language).drawn(SECRET, CLASS)


@cache
def written(grader, language="en"):
    return MAKERS[grader](made(language), SECRET, "ann")


def source(cell):
    return cell["source"]


# -- seeds -----------------------------------------------------------------------------------


def test_a_seed_depends_on_all_four_and_on_nothing_else():
    """Pinned: a roster that grows, and a newer kvmlab, must give the same seeds."""
    first = seed_of("secret", "hw1", "ann", 1)
    others = [
        seed_of("Secret", "hw1", "ann", 1),
        seed_of("secret", "hw2", "ann", 1),
        seed_of("secret", "hw1", "bob", 1),
        seed_of("secret", "hw1", "ann", 2),
        seed_of("secret", "hw1a", "nn", 1),
    ]

    assert first == seed_of("secret", "hw1", "ann", 1) == PINNED
    assert len({first, *others}) == 6
    assert all(0 <= one < 1 << 63 for one in (first, *others))


PINNED = 1983349350789417611  # by BLAKE2b, RFC 7693


def test_everybody_has_the_same_kinds_and_not_the_same_numbers():
    sheets = made().sheets(drawn())["students"]
    texts = [[one["text"] for one in sheets[ticket("hw1", student)]] for student in CLASS]
    rows = made().key(drawn())[1:]
    kinds = [[row[3] for row in rows if row[0] == student] for student in CLASS]

    assert kinds[0] == kinds[1] == kinds[2]
    assert len(kinds[0]) == len(set(kinds[0])) == 6
    assert len({tuple(one) for one in texts}) == 3
    assert len({row[5] for row in rows}) == len(rows) == 18


def test_the_key_is_the_engine_s_and_is_accepted():
    for student, number, _, kind, difficulty, seed, answer in made().key(drawn())[1:]:
        question = course.question(kind, int(seed), int(difficulty))

        assert course.check(question, answer).ok
        assert Asked("hw1", int(number), kind, int(difficulty)).judge(SECRET, student, answer).ok


def test_questions_grow_harder_and_are_worth_their_difficulty():
    assert [one.points for one in made().items] == [1, 1, 2, 2, 3, 3]
    assert [one.lesson for one in made().items] == ["03"] * 3 + ["11"] * 3
    assert [one.task for one in made().programs] == ["policy", "sharer"]
    assert made().points == 12 + 2 * 5
    only = compose("hw1", [lesson("03")], difficulty=2, programs=False)
    assert [one.points for one in only.items] == [2, 2]


def test_the_same_name_asks_the_same_and_another_name_something_else():
    def kinds(name):
        return [one.asked.kind for one in compose(name, [lesson("11")], each=3).items]

    assert kinds("hw1") == kinds("hw1")
    assert len({tuple(kinds(f"hw{number}")) for number in range(10)}) > 3


# -- what students get -----------------------------------------------------------------------


def test_the_file_of_questions_holds_no_kind_no_seed_no_answer_and_no_name():
    text = json.dumps(made().sheets(drawn()))
    rows = made().key(drawn())[1:]

    assert SECRET not in text
    assert [row[3] for row in rows if row[3] in text] == []
    assert [row[5] for row in rows if row[5] in text] == []
    assert [student for student in CLASS if f'"{student}"' in text] == []
    fields = {"text", "expects", "form"}
    entries = [one for found in json.loads(text)["students"].values() for one in found]
    assert all(set(one) == fields for one in entries)


@pytest.mark.parametrize("kind", course.kinds())
def test_of_every_kind_an_answer_is_understood_from_the_file_alone(kind, tmp_path):
    """By the form in the file: the solution and each misconception are read as they are shown."""
    question = course.question(kind, 11, 2)
    data = {
        "format": "kvmlab-questions-1",
        "assignment": "hw1",
        "language": "en",
        "students": {ticket("hw1", "ann"): [entry(question)]},
    }
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(data))
    sheet = Sheet(str(path), " ann ")

    assert sheet.question(1).startswith(question.text)
    for answer in (question.answer, *question.wrong.values()):
        shown = question.form.show(answer)
        assert sheet.understood(1, shown) == f"Understood: {shown}"
    for nothing in (None, ...):
        with pytest.raises(BadAnswer, match="No answer yet"):
            sheet.understood(1, nothing)
    if not shown.startswith(("A)", "B)")) and question.form.__class__.__name__ != "Bits":
        with pytest.raises(BadAnswer):
            sheet.understood(1, "a lot")


@pytest.fixture
def sheet_path(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(made("zh").sheets(drawn("zh"))), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "student", [None, ..., "", "  ", 17, "eve", "Ann", "../../x", "<img src=x>"]
)
def test_who_is_not_in_the_class_gets_one_line(student, sheet_path):
    with pytest.raises(BadChoice) as caught:
        Sheet(sheet_path, student)
    assert "\n" not in str(caught.value)


def test_a_sheet_speaks_the_assignment_s_language(sheet_path):
    sheet = Sheet(sheet_path, "ann")

    assert all(re.search("[一个从]", sheet.question(number)) for number in range(1, 7))
    with pytest.raises(BadAnswer, match="尚未作答"):
        sheet.understood(1, None)
    for number in (0, 7, -1, "1", True):
        with pytest.raises(BadChoice, match="题号为 1 到 6"):
            sheet.question(number)
    assert repr(sheet) == "Sheet('ann', 6 questions)"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "\0", '"kvmlab-questions-1"'])
def test_a_file_that_is_no_sheet_is_one_line(text, tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(text)
    for name in (path, tmp_path / "absent.json", tmp_path):
        with pytest.raises(BadChoice, match="is not the file of questions"):
            Sheet(str(name), "ann")


# -- whose work it is ------------------------------------------------------------------------


def test_nbgrader_s_folder_says_whose_work_it_is(tmp_path, monkeypatch):
    """Who writes a neighbour's id gets no marks for the neighbour's answers."""
    folder = tmp_path / "autograded" / "bob" / "hw1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    pairs = zip(drawn()["ann"], drawn()["bob"], strict=True)
    number, answer = next(
        (n, one.solution) for n, (one, other) in enumerate(pairs) if one.answer != other.answer
    )
    asked = made().items[number].asked

    assert submitted_by("ann") == "ann"
    assert asked.judge(SECRET, "ann", answer).ok
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert submitted_by("ann") == submitted_by(None) == "bob"
    assert not asked.judge(SECRET, "ann", answer).ok
    assert asked.judge(SECRET, "ann", drawn()["bob"][number].solution).ok


# -- the notebooks ---------------------------------------------------------------------------


@in_every_language
@for_each_grader
def test_a_notebook_is_valid_and_its_code_is_python(grader, language):
    notebook = written(grader, language)

    nbformat.validate(nbformat.from_dict(notebook))
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(source(cell))


@in_every_language
@for_each_grader
def test_it_is_made_of_the_lessons_notebooks(grader, language):
    first = next(c for c in written(grader, language)["cells"] if c["cell_type"] == "markdown")

    assert "> A page table does more than lead to memory." in first["source"]
    assert all(goal in first["source"] for goal in lesson("11").goals)
    assert ("超量分配" in first["source"]) == (language == "zh")


NBGRADER = {  # its schema, version 3: nbgrader/nbgraderformat/v3.json
    "schema_version": int,
    "grade": bool,
    "solution": bool,
    "locked": bool,
    "task": bool,
    "grade_id": str,
    "points": int,
}


@in_every_language
def test_every_cell_keeps_nbgrader_s_schema(language):
    cells = written("nbgrader", language)["cells"]
    about = [cell["metadata"]["nbgrader"] for cell in cells]
    ids = [one["grade_id"] for one in about]

    assert len(set(ids)) == len(ids)
    for cell, one in zip(cells, about, strict=True):
        assert all(type(value) is NBGRADER[name] for name, value in one.items())
        assert set(NBGRADER) - set(one) <= {"points"}
        assert one["schema_version"] == 3
        assert re.fullmatch(r"[a-zA-Z0-9_\-]+", one["grade_id"])
        assert ("points" in one) == one["grade"]
        assert not (one["grade"] and one["solution"])  # nothing is graded by hand
        assert one["locked"] != one["solution"]
        assert cell["cell_type"] == "code" or not (one["grade"] or one["solution"])


def regions(text, what):
    """The parts between ``### BEGIN what`` and ``### END what``, and the text without them."""
    pattern = rf"### BEGIN {what}\n(.*?)\n### END {what}"
    return re.findall(pattern, text, re.DOTALL), re.sub(pattern, "", text, flags=re.DOTALL)


def test_nbgrader_s_regions_are_where_they_apply():
    """Solutions in solution cells, one each; the secret in hidden tests of graded cells only."""
    points = 0
    for cell in written("nbgrader")["cells"]:
        about = cell["metadata"]["nbgrader"]
        solutions, _ = regions(source(cell), "SOLUTION")
        hidden, open_part = regions(source(cell), "HIDDEN TESTS")
        assert len(solutions) == about["solution"]
        assert len(hidden) <= about["grade"]
        assert SECRET not in open_part
        points += about.get("points", 0)
    assert points == made().points


def test_without_its_regions_no_answer_and_no_kind_is_left():
    text = json.dumps(written("nbgrader"))
    for what in ("SOLUTION", "HIDDEN TESTS"):
        text = regions(text.replace("\\n", "\n"), what)[1]

    assert SECRET not in text
    assert [one.asked.kind for one in made().items if one.asked.kind in text] == []
    assert "first.setdefault" not in text  # the sharer's solution


MARKERS = [
    ("# ASSIGNMENT CONFIG", None),
    ("# BEGIN QUESTION", "# END QUESTION"),
    ("# BEGIN SOLUTION", "# END SOLUTION"),
    ("# BEGIN TESTS", "# END TESTS"),
]


@in_every_language
def test_otter_s_markers_are_nested_as_it_wants(language):
    opened: list[str] = []
    for cell in written("otter", language)["cells"]:
        if cell["cell_type"] == "raw":
            first = source(cell).splitlines()[0]
            begins = {begin: end for begin, end in MARKERS if end}
            if first in begins:
                opened.append(begins[first])
            elif first != "# ASSIGNMENT CONFIG":
                assert first == opened.pop()
        elif "# SOLUTION" in source(cell) and cell["id"] != "student":
            assert opened == ["# END QUESTION", "# END SOLUTION"]
        elif "BEGIN TEST CONFIG" in source(cell):
            assert opened == ["# END QUESTION", "# END TESTS"]
    assert opened == []
    assert source(written("otter")["cells"][0]).startswith("# ASSIGNMENT CONFIG\nname: hw1\n")


def test_otter_s_secret_is_in_hidden_tests_only():
    tests = [c for c in written("otter")["cells"] if "BEGIN TEST CONFIG" in source(c)]
    config = [re.match(r'""" # BEGIN TEST CONFIG\npoints: (\d)\nhidden: (\w+)\n', source(c))
              for c in tests]  # fmt: skip

    assert all(config)
    for cell, found in zip(tests, config, strict=True):
        assert (found[2] == "true") == (SECRET in source(cell))
    assert sum(int(found[1]) for found in config) == made().points
    rest = [c for c in written("otter")["cells"] if c not in tests]
    assert SECRET not in json.dumps(rest)


@for_each_grader
def test_the_answers_in_it_are_those_of_the_student_asked_for(grader, sheet_path):
    """Run from top to bottom as Python, with its own solutions: every test passes."""
    names: dict[str, object] = {}
    for cell in written(grader)["cells"]:
        if cell["cell_type"] == "code":
            text = source(cell).replace('"questions.json"', repr(sheet_path))
            exec(compile(text, cell["id"], "exec"), names)  # noqa: S102  what a kernel does
    assert names["student"] == "ann"


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"name": "../x"}, "names no assignment"),
        ({"name": ""}, "names no assignment"),
        ({"name": "a b"}, "names no assignment"),
        ({"each": -1}, "-1 questions"),
        ({"each": True}, "True questions"),
        ({"difficulty": 4}, "4 is no difficulty"),
        ({"each": 0, "programs": False}, "nothing is asked"),
        ({"lessons": []}, "nothing is asked"),
        ({"language": "fr"}, "no sentences in 'fr'"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, says):
    plain = {"name": "hw1", "lessons": [lesson("03")]} | arguments
    with pytest.raises(BadChoice, match=says):
        compose(**plain)


def test_a_wheel_has_no_solutions_and_says_so(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "kvmlab" / "course" / "paper.py"
    monkeypatch.setattr(papers, "__file__", str(installed))

    with pytest.raises(KvmlabError, match=r"checkout of kvmlab.*--no-programs"):
        compose("hw1", [lesson("11")])
    assert compose("hw1", [lesson("11")], programs=False).programs == ()


def test_the_section_of_a_notebook_is_what_stands_below_its_heading(tmp_path):
    cells = [
        {"cell_type": "code", "source": "## The question\nno"},
        {
            "cell_type": "markdown",
            "source": ["# One\n", "## The question\n", "\n", "Why?\n", "# No"],
        },
    ]
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": cells}))

    assert papers.section(path, "The question") == "Why?"
    assert papers.section(path, "Goals") == ""


def test_everything_is_the_same_in_another_language_but_the_words():
    with speaking("zh"):
        shown = [one.asked.kind for one in made("zh").items]
    assert shown == [one.asked.kind for one in made("en").items]
    assert [row[:6] for row in made("zh").key(drawn("zh"))] == [
        row[:6] for row in made("en").key(drawn("en"))
    ]
