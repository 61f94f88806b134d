"""``kvmlab assignment``: a whole folder or none, the key apart, one line for a mistake."""

import csv
import json
import os
import stat
from pathlib import Path

import pytest

from kvmlab import cli
from kvmlab.cli import assignment
from kvmlab.course import paper as papers

ROSTER = "id,name\nann,Ann Lee\nbob,=1+1\ncyd,Cyd\n"
NOTEBOOKS = {"nbgrader": "source/hw1/hw1.ipynb", "otter": "hw1/hw1.ipynb"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the command is run: a folder with a class list."""
    monkeypatch.chdir(tmp_path)
    Path("roster.csv").write_text(ROSTER)
    return tmp_path


def run(capsys, *arguments, grader="nbgrader"):
    """The exit status, and what was printed on standard output and on standard error."""
    status = cli.main(["assignment", "--for", grader, "--seed-from", "roster.csv", *arguments])
    return status, *capsys.readouterr()


def make(capsys, *arguments, grader="nbgrader"):
    status, out, err = run(capsys, "--lesson", "3", "--name", "hw1", *arguments, grader=grader)
    assert (status, err) == (0, "")
    return out


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("grader", sorted(NOTEBOOKS))
def test_notebook_questions_and_key_are_made_and_nothing_else(grader, folder, capsys):
    out = make(capsys, grader=grader)
    made = contents(folder / "hw1")
    notebook = NOTEBOOKS[grader]
    config = {"nbgrader_config.py"} if grader == "nbgrader" else set()

    assert out.startswith("hw1: 2 questions, 0 programs, ")
    assert set(made) == config | {
        notebook,
        notebook.replace("hw1.ipynb", "questions.json"),
        "key/answers.csv",
        "key/secret.txt",
    }
    assert sorted(path.name for path in folder.iterdir()) == ["hw1", "roster.csv"]


def test_the_key_has_a_row_for_each_student_and_question_and_is_its_owner_s(folder, capsys):
    make(capsys)
    key = folder / "hw1" / "key"
    rows = list(csv.DictReader((key / "answers.csv").read_text("utf-8").splitlines()))

    assert [(row["id"], row["question"]) for row in rows] == [
        (student, number) for student in ("ann", "bob", "cyd") for number in ("1", "2")
    ]
    assert all(row["answer"] for row in rows)
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    assert stat.S_IMODE(key.stat().st_mode) == 0o700
    assert stat.S_IMODE((key / "secret.txt").stat().st_mode) == 0o600


def test_with_the_secret_the_same_comes_again_and_a_longer_list_keeps_what_was(folder, capsys):
    make(capsys, "--out", "one")
    again = ("--secret", "one/key/secret.txt")
    make(capsys, "--out", "two", *again)
    Path("roster.csv").write_text(ROSTER.replace("ann", "aaron,\nann"))
    make(capsys, "--out", "three", *again)
    make(capsys, "--out", "four")
    one, two, three, four = (contents(folder / name) for name in ("one", "two", "three", "four"))

    assert one == two
    kept, longer = (
        json.loads(made["source/hw1/questions.json"])["students"] for made in (one, three)
    )
    assert kept.items() < longer.items()
    assert len(longer) == len(kept) + 1
    assert one["key/answers.csv"] != four["key/answers.csv"]


def test_the_json_says_what_was_made(folder, capsys):
    facts = json.loads(make(capsys, "-n", "3", "--difficulty", "2", "--json"))

    assert facts == {
        "assignment": "hw1",
        "for": "nbgrader",
        "out": "hw1",
        "lessons": ["03"],
        "students": 3,
        "questions": 3,
        "programs": 0,
        "points": 6,
    }


def test_without_lessons_it_is_on_all_that_have_a_notebook(folder, capsys):
    """As the command stands in the course's own description: nothing but the tool and the list."""
    status, out, err = run(capsys, "--json", "-n", "1")
    facts = json.loads(out)

    assert (status, err) == (0, "")
    assert {"01", "03", "07", "11"} <= set(facts["lessons"])
    assert facts["questions"] >= len(facts["lessons"]) - 1  # 12 may find all its kinds taken
    assert facts["out"] == "kvmlab"


def test_chinese(folder, capsys):
    make(capsys, "--language", "zh")
    made = contents(folder / "hw1")

    assert "你是谁" in made["source/hw1/hw1.ipynb"]
    assert '"language": "zh"' in made["source/hw1/questions.json"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--lesson", "99"), "there is no lesson '99'; choose from 01, "),
        (("--lesson", "../03"), "there is no lesson '../03'"),
        (("--name", "a/b"), "names no assignment"),
        (("--name", "../../x"), "names no assignment"),
        (("-n", "-1"), "'-1'"),
        (("-n", "two"), "'two' is no number of questions"),
        (("-n", "999"), "999 questions for each lesson cannot be asked"),
        (("--difficulty", "7"), "invalid choice: 7"),
        (("--id-column", "sid"), "roster.csv has no column 'sid' in its first line, but id, name"),
        (("--out", "roster.csv"), "roster.csv is there already"),
        (("--out", "."), "is there already"),
        (("--out", "absent/hw1"), "absent is no folder"),
        (("--secret", "absent.txt"), "absent.txt: No such file"),
        (("--secret", "roster.csv"), "roster.csv holds no secret"),
        (("--seed-from", "absent.csv"), "absent.csv: No such file"),
        (("--seed-from", "."), "Is a directory"),
        (("--for", "gradescope"), "invalid choice: 'gradescope'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(arguments, says, folder, capsys):
    status, out, err = run(capsys, *arguments)

    assert (status, out) == (2, "")
    assert says in err
    assert err.startswith("kvmlab: ")
    assert err.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["roster.csv"]


@pytest.mark.parametrize(
    "roster", ["name\nAnn\n", "id\n../../x\n", "id\nann\nann\n", "id\n=1+1\n", "\0", ""]
)
def test_a_broken_class_list_is_one_line_and_nothing_is_written(roster, folder, capsys):
    Path("roster.csv").write_text(roster)
    status, out, err = run(capsys)

    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("kvmlab: roster.csv")
    assert [path.name for path in folder.iterdir()] == ["roster.csv"]


def test_without_a_checkout_there_is_no_key_of_programs(folder, capsys, monkeypatch):
    monkeypatch.setattr(papers, "__file__", str(folder / "kvmlab" / "course" / "paper.py"))
    status, out, err = run(capsys, "--lesson", "11")

    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "in a checkout of kvmlab" in err
    assert [path.name for path in folder.iterdir()] == ["roster.csv"]
    assert run(capsys, "--lesson", "11", "--no-programs")[0] == 0


def test_what_fails_on_the_way_leaves_nothing(folder, capsys, monkeypatch):
    """A disk that is full at the third file."""
    write = Path.write_text
    written = []

    def full(path, *arguments, **named):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, os.strerror(28), str(path))
        return write(path, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", full)
    status, _, err = run(capsys, "--lesson", "3")

    assert status == 2
    assert "No space left on device" in err
    assert [path.name for path in folder.iterdir()] == ["roster.csv"]


def test_a_folder_that_appears_meanwhile_is_not_touched(folder, capsys, monkeypatch):
    monkeypatch.setattr(assignment, "_refuse_old", lambda out: None)
    (folder / "kvmlab").mkdir()
    (folder / "kvmlab" / "mine").write_text("mine")
    status, _, _ = run(capsys, "--lesson", "3")

    assert status == 2
    assert contents(folder / "kvmlab") == {"mine": "mine"}
    assert sorted(path.name for path in folder.iterdir()) == ["kvmlab", "roster.csv"]
