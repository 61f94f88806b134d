"""`labs.progress`: what was answered is seen, saved with the labs, downloaded and merged."""

import json
from datetime import UTC, datetime

import pytest

from kvmlab import labs
from kvmlab.course.progress import Progress

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "kvmlab-progress.json"


def answer(kind="fault.code", seed=7):
    lab = labs.ask(kind, seed)
    lab.check(lab.question.answer)


def pressed(panel):
    """What the browser is sent when the button is pressed."""
    sent = []
    panel.keeper.send = sent.append
    panel.keeper._handle_custom_msg({"wanted": "file"}, [])
    return sent


def uploaded(panel, data, name="theirs.json"):
    about = {"type": "application/json", "last_modified": datetime.now(UTC)}
    panel.upload.value = ({"name": name, "content": memoryview(data), "size": len(data), **about},)


def test_nothing_is_written_before_something_is_saved(path):
    panel = labs.progress()
    assert "No question has been answered yet" in panel.desk.value
    assert not path.exists()
    assert repr(panel) == "progress('kvmlab-progress.json')"


def test_what_was_answered_is_seen_by_kinds():
    answer()
    answer(seed=8)
    answer("tlb.hits")
    panel = labs.progress()
    assert "3 of 3 questions answered rightly" in panel.desk.value
    assert '<th scope="row">fault.code</th><td>2</td><td>2</td><td>2</td>' in panel.desk.value


def test_one_button_saves_the_answers_and_the_labs_and_hands_over_the_file(path):
    lab = labs.balloon()
    panel = labs.progress("kvmlab-progress.json", lab)
    answer()  # after the panel was shown
    lab.change(language="zh")
    (sent,) = pressed(panel)
    assert sent == {"name": path.name, "text": path.read_text(encoding="utf-8")}
    found = json.loads(sent["text"])
    assert [one["id"] for one in found["answers"]] == ["fault.code-1-7@v1"]
    assert [(one["lab"], one["share"]) for one in found["shares"]] == [("balloon", lab.share)]
    assert lab.share in panel.desk.value
    assert "Saved, with the labs" in panel.desk.value
    assert labs.balloon(share=lab.share).plan == lab.plan


def test_labs_that_the_notebook_has_names_for_are_saved(monkeypatch):
    shell = type("Shell", (), {"user_ns": {"mine": (lab := labs.balloon()), "_3": lab, "x": 7}})
    monkeypatch.setattr("IPython.get_ipython", shell)
    panel = labs.progress()
    panel.save()
    assert [one.share for one in Progress().shares] == [lab.share]


def test_a_file_from_elsewhere_is_merged_and_merged_once(path, tmp_path):
    answer()
    theirs = Progress(tmp_path / "theirs.json")
    question = labs.ask("tlb.hits", progress=str(theirs.path))
    question.check(question.question.answer)
    data = theirs.path.read_bytes()
    panel = labs.progress()
    uploaded(panel, data)
    assert "1 new answers were taken over from theirs.json" in panel.desk.value
    assert panel.upload.value == ()
    uploaded(panel, data)
    assert "0 new answers" in panel.desk.value
    assert len(Progress().entries) == 2


@pytest.mark.parametrize(
    "data, words",
    [
        (b"\xff\xfe", "it is no text"),
        (b"{", "it is no JSON"),
        (b'{"format": "kvmlab-progress", "version": 2, "answers": []}', "of version 2"),
    ],
)
def test_a_file_that_is_none_is_told_in_a_line_and_changes_nothing(path, data, words):
    answer()
    before = path.read_bytes()
    panel = labs.progress()
    uploaded(panel, data, "<img src=x onerror=alert(1)>")
    assert words in panel.notice.value
    assert "&lt;img" in panel.notice.value
    assert "<details>" not in panel.notice.value  # one line, and no trouble of ours
    assert path.read_bytes() == before
    assert len(pressed(panel)) == 1
    assert panel.notice.value == ""


def test_a_broken_file_beside_the_notebook_is_told_and_never_overwritten(path):
    path.write_text("mine, but broken", encoding="utf-8")
    panel = labs.progress()
    assert "it is no JSON" in panel.notice.value
    assert pressed(panel) == []
    assert "it is no JSON" in panel.notice.value
    assert path.read_text(encoding="utf-8") == "mine, but broken"


def test_both_languages_are_spoken():
    answer()
    panel = labs.progress()
    panel.language.value = "zh"
    assert panel.keeper.label == "保存并下载"
    assert "1 道题中答对了 1 道" in panel.desk.value
    panel.language.value = "en"
    assert panel.keeper.label == "Save and download"


def test_other_messages_are_ignored():
    panel = labs.progress()
    sent = []
    panel.keeper.send = sent.append
    panel.keeper._handle_custom_msg({"wanted": "other"}, [])
    assert sent == []
