"""``kvmlab quiz``: printed, solved, as JSON, for JupyterQuiz, and asked at a terminal."""

import json

import pytest

from kvmlab import cli, course
from kvmlab.course.plain import jupyterquiz

KEYS = ["id", "kind", "topic", "seed", "difficulty", "question", "expects", "hints"]


def run(capsys, *arguments):
    """The exit status, and what was printed on standard output and on standard error."""
    status = cli.main(["quiz", *arguments])
    return status, *capsys.readouterr()


def printed(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    return out


def test_the_json_keeps_its_keys_and_answers_come_with_c_only(capsys):
    asked = json.loads(printed(capsys, "--seed", "7", "-n", "3", "--json"))
    assert [list(one) for one in asked] == [KEYS] * 3
    solved = json.loads(printed(capsys, "-s", "7", "--count", "3", "-c", "--json"))
    assert [list(one) for one in solved] == [[*KEYS, "answer", "explanation"]] * 3
    for one in solved:
        question = course.question(one["kind"], one["seed"], one["difficulty"])
        assert course.check(question, one["answer"]).ok
        assert one["answer"] in one["explanation"]


def test_the_same_seed_asks_the_same(capsys):
    arguments = ("--seed", "5", "-n", "4", "--topic", "tlb")
    assert printed(capsys, *arguments) == printed(capsys, *arguments)
    assert "[tlb." in printed(capsys, *arguments)


def test_text_is_without_answers_unless_computed(capsys):
    assert "Answer: " not in printed(capsys, "-s", "7", "-n", "2")
    text = printed(capsys, "-s", "7", "-n", "2", "-c")
    assert text.count("Answer: ") == 2
    assert text.startswith("Seed 7: kvmlab quiz --seed 7 -n 2 asks the same again.\n")


def test_without_a_seed_one_is_made_and_told(capsys):
    first, second = (printed(capsys, "-n", "1").splitlines()[0] for _ in range(2))
    assert first.startswith("Seed ")
    assert first != second  # one in a million


def test_chinese(capsys):
    text = printed(capsys, "-s", "7", "-n", "2", "-c", "--language", "zh")
    assert "答案" in text
    assert "Answer" not in text


def test_one_difficulty(capsys):
    asked = json.loads(printed(capsys, "-s", "1", "-n", "3", "--difficulty", "3", "--json"))
    assert {one["difficulty"] for one in asked} == {3}


def test_the_kinds_are_listed(capsys):
    lines = printed(capsys, "--list").splitlines()
    assert "ksm: ksm.counters, ksm.saved" in lines
    assert [line.partition(":")[0] for line in lines] == list(course.topics())


# -- files -----------------------------------------------------------------------------------


def test_jupyterquiz_is_written_to_a_new_file(capsys, tmp_path):
    path = tmp_path / "quiz.json"
    arguments = ("-s", "3", "-n", "2", "--format", "jupyterquiz", "-o", str(path))
    assert printed(capsys, *arguments) == ""
    assert len(json.loads(path.read_text(encoding="utf-8"))) == 2
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err == f"kvmlab: {path} is there already; --force replaces it\n"
    assert printed(capsys, *arguments, "--force") == ""


@pytest.mark.parametrize("kind", course.kinds())
def test_every_kind_keeps_to_jupyterquiz_s_schema(kind):
    """Its mc_schema.json and num_schema.json, and for strings what its string.js reads."""
    question = course.question(kind, 7, 2)
    found = jupyterquiz(question)
    assert isinstance(found["question"], str)
    assert isinstance(found.get("code", ""), str)
    answers = found["answers"]
    *known, last = answers
    if found["type"] in ("multiple_choice", "many_choice"):
        assert all(set(one) == {"answer", "correct", "feedback"} for one in answers)
        assert sum(one["correct"] for one in answers) >= 1
        assert found["type"] == "many_choice" or sum(one["correct"] for one in answers) == 1
    else:
        assert set(last) == {"type", "feedback"}
        assert last["type"] == "default"
        field = {"numeric": "value", "string": "answer"}[found["type"]]
        values = [one[field] for one in known]
        assert len(set(values)) == len(values)
        assert {one["correct"] for one in known} <= {True, False}
        right = [one[field] for one in known if one["correct"]]
        assert right
        assert all(course.check(question, one).ok for one in right)
    assert "<" not in json.dumps(found).replace("&lt;", "")


# -- at a terminal ---------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch):
    """A learner who types these lines, and then Ctrl-D."""

    def type_lines(*lines):
        typed = iter(lines)

        def answer(prompt):
            print(prompt)
            line = next(typed, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)

    return type_lines


def solutions(count):
    return [one.solution for one in course.quiz(7, count)]


def test_right_answers_are_counted(capsys, terminal):
    terminal(*solutions(2))
    out = printed(capsys, "-s", "7", "-n", "2")
    assert out.count("Right: ") == 2
    assert out.endswith("2 of 2 right at the first try.\n")


def test_a_wrong_answer_may_be_mended_but_does_not_count(capsys, terminal):
    terminal("", "what?", "123456789", *solutions(1))
    out = printed(capsys, "-s", "7", "-n", "1")
    assert "is no whole number" in out
    assert "Not 123456789 entries." in out
    assert out.endswith("0 of 1 right at the first try.\n")


def test_hints_come_one_by_one_and_the_solution_on_demand(capsys, terminal):
    terminal("?", "?", "?", "!")
    one = course.quiz(7, 1)[0]
    out = " ".join(printed(capsys, "-s", "7", "-n", "1").split())
    assert all(hint in out for hint in one.hints)
    assert "There is no further hint" in out
    assert f"Answer: {one.solution}" in out


def test_no_word_is_broken_at_the_terminals_edge(capsys, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal("?", "!")
    _, _, told = printed(capsys, "-s", "7", "-n", "1").partition("@v1")
    lines = told.splitlines()
    assert len(lines) > 4
    assert [line for line in lines if len(line.rstrip()) > 40 and " " in line.strip()] == []


@pytest.mark.parametrize("last", [("q",), ()])
def test_q_and_the_end_of_input_end_it(capsys, terminal, last):
    terminal(*solutions(1), *last)
    assert printed(capsys, "-s", "7", "-n", "3").endswith("1 of 1 right at the first try.\n")


# -- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--topic", "x"], "there is no topic 'x'; choose one of address"),
        (["-n", "0"], "0 questions cannot be asked; choose 1 to 1000"),
        (["-n", "1001"], "1001 questions cannot be asked"),
        (["-s", "-1"], "'-1' is no whole number"),
        (["-s", "seven"], "'seven' is no whole number; write one such as 7"),
        (["-s", "9" * 30], "is no seed"),
        (["--difficulty", "4"], "invalid choice"),
        (["--language", "fr"], "invalid choice"),
        (["--json", "--format", "jupyterquiz"], "--json and --format jupyterquiz contradict"),
        (["-n", "1", "-o", "/no/such/folder/quiz.txt"], "/no/such/folder is no folder"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.startswith("kvmlab: ")
    assert err.count("\n") == 1
