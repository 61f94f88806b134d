"""`labs.ask`: a question in widgets, as scripts drive it."""

import pytest

from kvmlab import course, labs
from kvmlab.base.errors import BadChoice
from kvmlab.course.problem import Bits, Choice
from kvmlab.course.progress import Progress

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def beside_the_notebook(tmp_path, monkeypatch):
    """What is answered is kept where the notebook is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "kvmlab-progress.json"


def field(lab):
    return lab._field.children


def press(lab, words):
    button = next(one for one in lab.children[2].children if one.description == words)
    button.click()


@pytest.mark.parametrize("kind", course.kinds())
def test_every_kind_can_be_answered_by_its_controls(kind):
    lab = labs.ask(kind)
    question = lab.question
    if isinstance(question.form, Bits):
        for box in field(lab):
            box.value = box.description in question.answer
    elif isinstance(question.form, Choice):
        field(lab)[0].value = question.answer
    else:
        field(lab)[0].value = question.solution
    press(lab, "Check")
    assert lab.verdict.ok, repr(lab)
    assert "Right: " in lab.status.value
    assert lab.notice.value == ""
    assert repr(lab) == f"ask({question.id}: right)"


def test_a_wrong_answer_is_told_its_misconception():
    lab = labs.ask("ept.references")
    name, answer = next(iter(lab.question.wrong.items()))
    field(lab)[0].value = str(answer)  # Enter is enough
    assert (lab.verdict.outcome, lab.verdict.mistake) == ("wrong", name)
    assert course.check(lab.question, answer).feedback in lab.status.value


def test_hints_come_one_by_one_and_the_solution_with_its_steps():
    lab = labs.ask("fault.code")
    assert repr(lab) == f"ask({lab.question.id}: open)"
    for count in (1, 2, 2):
        press(lab, "Hint")
        assert sum(hint in lab.status.value for hint in lab.question.hints) == count
    press(lab, "Show the solution")
    assert f"Answer: {lab.question.solution}" in lab.status.value


def test_another_one_is_the_next_seed():
    lab = labs.ask("tlb.hits", seed=41, difficulty=2)
    lab.check(lab.question.answer)
    press(lab, "Another one")
    assert (lab.question.seed, lab.question.difficulty) == (42, 2)
    assert lab.verdict is None
    assert lab.status.value == '<div role="status"></div>'


def test_a_topic_will_do():
    assert labs.ask("walk", seed=7).question.topic == "walk"


@pytest.mark.parametrize("kind", ["fault.which", "entry.bits", "address.split"])
def test_the_language_changes_and_nothing_is_lost(kind):
    lab = labs.ask(kind)
    lab.hint()
    answer = lab.question.answer
    lab.check(answer)
    lab.language.value = "zh"
    assert "正确" in lab.status.value
    assert lab.question.id in lab.prompt.value
    assert {one.description for one in lab.children[2].children[:4]} == {
        *("检查", "提示", "显示答案", "再来一题")
    }
    assert lab.notice.value == ""


def test_nothing_chosen_is_not_judged():
    lab = labs.ask("cloud.place")
    press(lab, "Check")
    assert lab.verdict is None


def test_answers_are_kept(tmp_path):
    path = tmp_path / "progress.json"
    lab = labs.ask("fault.code", progress=str(path))
    lab.hint()
    wrong = next(iter(lab.question.wrong.values()))
    lab.check(wrong)
    lab.check(wrong)  # the same again is no new answer
    lab.check(lab.question.answer)
    kept = Progress(path).entries
    assert [(one.outcome, one.hints) for one in kept] == [("wrong", 1), ("right", 1)]


def test_a_file_that_cannot_be_written_is_told_in_the_lab(tmp_path):
    path = tmp_path / "progress.json"
    lab = labs.ask("fault.code", progress=str(path))
    path.write_text('{"format": "kvmlab-progress", "version": 9}', encoding="utf-8")
    lab.check(lab.question.answer)
    assert "of version 9" in lab.notice.value
    later = labs.ask("fault.code", progress=str(path))
    assert "of version 9" in later.notice.value
    later.check(later.question.answer)
    assert later.verdict.ok
    assert "9" in path.read_text(encoding="utf-8")


def test_answers_are_kept_beside_the_notebook_unless_that_is_not_wanted(beside_the_notebook):
    silent = labs.ask("fault.code", progress="")
    silent.check(silent.question.answer)
    assert not beside_the_notebook.exists()
    lab = labs.ask("fault.code")
    lab.check(lab.question.answer)
    assert len(Progress(beside_the_notebook).entries) == 1


def test_what_there_is_not_is_refused():
    with pytest.raises(BadChoice, match="no kind of question 'x'"):
        labs.ask("x")


def test_what_a_question_shows_is_escaped():
    lab = labs.ask("cloud.place")
    lab.check("<script>alert(1)</script>")
    assert "<script" not in lab.status.value
    assert "&lt;script" in lab.status.value
