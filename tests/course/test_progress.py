"""The progress file: nothing is lost, nothing is overwritten that was not understood."""

import json
import multiprocessing
import os

import pytest

from kvmlab import course
from kvmlab.course.progress import FORMAT, BadProgress, Progress, Score

BAD_FIELD = json.dumps(
    {
        "format": FORMAT,
        "version": 1,
        "answers": [dict.fromkeys(("id", "answer", "outcome", "mistake", "hints", "time"), "x")],
    }
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kvmlab-progress.json"


def answered(progress, kind="fault.code", seed=7, right=True, hints=0):
    question = course.question(kind, seed)
    answer = question.answer if right else next(iter(question.wrong.values()))
    return progress.record(question, answer, course.check(question, answer), hints)


def test_what_was_answered_is_there_again(path):
    progress = Progress(path)
    assert progress.entries == []
    wrong = answered(progress, right=False)
    right = answered(progress, hints=1)
    assert Progress(path).entries == [wrong, right]
    assert (wrong.outcome, wrong.mistake is None, right.hints) == ("wrong", False, 1)


def test_the_format_is_the_documented_one(path):
    entry = answered(Progress(path))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert (found["format"], found["version"]) == (FORMAT, 1)
    assert list(found["answers"][0]) == ["id", "answer", "outcome", "mistake", "hints", "time"]
    assert entry.time.endswith("+00:00")


def test_scores_count_each_question_once(path):
    progress = Progress(path)
    answered(progress, seed=1, right=False)
    answered(progress, seed=1)
    answered(progress, seed=2)
    answered(progress, seed=3, hints=1)
    answered(progress, "tlb.hits")
    assert progress.scores() == {"fault.code": Score(3, 3, 1), "tlb.hits": Score(1, 1, 1)}


def test_labs_are_kept_by_their_share_strings_each_once(path):
    progress = Progress(path)
    progress.keep([])
    assert path.exists()
    progress.keep([("walk", "kvmlab1.walk.a"), ("balloon", "kvmlab1.balloon.b")])
    progress.keep([("walk", "kvmlab1.walk.a"), ("walk", "kvmlab1.walk.c")])
    answered(progress)
    again = Progress(path)
    assert [one.share[8:] for one in again.shares] == ["walk.a", "balloon.b", "walk.c"]
    assert (again.shares, again.text) == (progress.shares, path.read_text(encoding="utf-8"))


def test_a_file_of_answers_alone_is_a_progress_file_too(path):
    path.write_text('{"format": "kvmlab-progress", "version": 1, "answers": []}', encoding="utf-8")
    assert Progress(path).shares == []


def test_bytes_are_merged_as_a_file_is(path, tmp_path):
    mine, theirs = Progress(path), Progress(tmp_path / "theirs.json")
    entry = answered(theirs)
    theirs.keep([("walk", "kvmlab1.walk.a")])
    data = theirs.text.encode("utf-8-sig")  # as some editors save it
    assert (mine.merge_bytes(data, "up.json"), mine.merge_bytes(data, "up.json")) == (1, 0)
    assert (mine.entries, mine.shares) == ([entry], theirs.shares)
    before = path.read_bytes()
    with pytest.raises(BadProgress, match=r"^up\.json is a progress file of version 9; this"):
        mine.merge_bytes(b'{"format": "kvmlab-progress", "version": 9}', "up.json")
    assert path.read_bytes() == before


def test_an_answer_of_any_characters_can_be_kept(path):
    progress = Progress(path)
    question = course.question("fault.code")
    progress.record(question, "\ud800<img src=x>", course.check(question, "x"))
    assert Progress(path).entries[0].answer == "?<img src=x>"


def test_two_notebooks_lose_nothing_of_each_other(path):
    first, second = Progress(path), Progress(path)
    one = answered(first, seed=1)
    two = answered(second, seed=2)
    assert second.entries == [one, two] == Progress(path).entries


def answer_some(path, first):
    progress = Progress(path)
    for seed in range(first, first + 10):
        answered(progress, seed=seed)


@pytest.mark.skipif(os.name != "posix", reason="files are locked on POSIX only")
def test_processes_that_write_at_once_lose_nothing(path):
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=answer_some, args=(path, 100 * n)) for n in range(3)]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert [one.exitcode for one in others] == [0, 0, 0]
    assert len(Progress(path).entries) == 30


def test_files_are_exported_and_merged_each_answer_once(path, tmp_path):
    mine, theirs = Progress(path), Progress(tmp_path / "theirs.json")
    both = answered(mine, seed=1)
    mine.export(tmp_path / "copy.json")
    other = answered(theirs, seed=2)
    assert theirs.merge(tmp_path / "copy.json") == 1
    assert theirs.merge(tmp_path / "copy.json") == 0
    assert theirs.entries == [both, other]
    with pytest.raises(FileNotFoundError):
        mine.merge(tmp_path / "none.json")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it is no JSON"),
        ("[]", "its format is not 'kvmlab-progress'"),
        ('{"format": "other", "version": 1}', "its format is not"),
        ('{"format": "kvmlab-progress", "version": 2, "answers": []}', "of version 2; this kvmlab"),
        ('{"format": "kvmlab-progress", "answers": []}', "of version None"),
        ('{"format": "kvmlab-progress", "version": 1}', "it has no list of answers"),
        ('{"format": "kvmlab-progress", "version": 1, "answers": [{}]}', "answer 1 needs exactly"),
        ('{"format": "kvmlab-progress", "version": 1, "answers": [7]}', "answer 1 needs exactly"),
        (BAD_FIELD, "answer 1 has a field that cannot be read: outcome"),
        (
            '{"format": "kvmlab-progress", "version": 1, "answers": [], "shares": [{"lab": 7}]}',
            "share string 1 needs exactly lab, share, time",
        ),
        ("[" * 100_000, "it is no JSON"),
    ],
)
def test_what_is_no_progress_file_is_refused_in_one_line_and_kept(path, text, words):
    good = Progress(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadProgress, match=words) as caught:
        Progress(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadProgress):
        answered(good)
    assert path.read_text(encoding="utf-8") == text


def test_no_text_at_all_is_refused(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadProgress, match="it is no text"):
        Progress(path)


def test_a_write_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    progress = Progress(path)
    answered(progress, seed=1)
    before = path.read_bytes()

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        answered(progress, seed=2)
    assert path.read_bytes() == before
    assert not [one for one in path.parent.iterdir() if one.suffix not in (".json", ".lock")]
