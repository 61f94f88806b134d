"""``kvmlab lab``: a working copy that follows the course and never touches the learner's work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kvmlab
from kvmlab import cli
from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.cli import lab
from kvmlab.text import lessons

INDEX, LESSON = lab.INDEX, "01_lesson.ipynb"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What is shipped: two notebooks, a picture, and rubbish that is not for learners."""
    folder = tmp_path / "shipped"
    (folder / "img").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / INDEX).write_text("index 1")
    (folder / LESSON).write_text("lesson 1")
    (folder / "img" / "walk.svg").write_text("<svg/>")
    (folder / ".ipynb_checkpoints" / LESSON).write_text("old")
    return folder


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return tmp_path / "learner" / "course"


@pytest.fixture
def started(monkeypatch, source) -> list[list[str]]:
    """Command lines that would have become JupyterLab."""
    lines: list[list[str]] = []

    def execv(program, command):
        lines.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(lab.os, "execv", execv)
    monkeypatch.setattr(lab, "shipped", lambda: source)
    return lines


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder but the manifest, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != lab.MANIFEST
    }


FRESH = {INDEX: "index 1", LESSON: "lesson 1", "img/walk.svg": "<svg/>"}


def test_a_new_copy_has_what_is_shipped(course, source):
    said = lab.refresh(course, source)

    assert contents(course) == FRESH
    assert said == [f"The course is in {course}; your edits in it are kept."]


def test_a_second_time_changes_nothing(course, source):
    lab.refresh(course, source)
    before = {path: path.stat().st_mtime_ns for path in course.rglob("*")}
    lab.refresh(course, source)

    assert {path: path.stat().st_mtime_ns for path in course.rglob("*")} == before


def test_an_edit_is_kept(course, source):
    lab.refresh(course, source)
    (course / LESSON).write_text("mine")
    said = lab.refresh(course, source)

    assert contents(course) == {**FRESH, LESSON: "mine"}
    assert len(said) == 1


def test_an_untouched_notebook_follows_the_course(course, source):
    lab.refresh(course, source)
    (source / LESSON).write_text("lesson 2")
    lab.refresh(course, source)

    assert contents(course) == {**FRESH, LESSON: "lesson 2"}


def test_a_new_version_is_put_beside_an_edit_once(course, source):
    lab.refresh(course, source)
    (course / LESSON).write_text("mine")
    (source / LESSON).write_text("lesson 2")
    said = lab.refresh(course, source)
    expected = {**FRESH, LESSON: "mine", "01_lesson.new.ipynb": "lesson 2"}

    assert contents(course) == expected
    assert said[0] == (
        "01_lesson.ipynb is yours and was left alone; the new one is 01_lesson.new.ipynb"
    )
    assert len(lab.refresh(course, source)) == 1
    assert contents(course) == expected


def test_an_edited_new_version_is_kept_too(course, source):
    lab.refresh(course, source)
    (course / LESSON).write_text("mine")
    for number in (2, 3, 4):
        (source / LESSON).write_text(f"lesson {number}")
        lab.refresh(course, source)
        if number == 2:
            (course / "01_lesson.new.ipynb").write_text("mine as well")

    assert contents(course) == {
        **FRESH,
        LESSON: "mine",
        "01_lesson.new.ipynb": "mine as well",
        "01_lesson.new2.ipynb": "lesson 4",
    }


def test_a_file_that_was_there_before_is_the_learners(course, source):
    course.mkdir(parents=True)
    (course / LESSON).write_text("my own notes of that name")
    lab.refresh(course, source)

    assert contents(course)[LESSON] == "my own notes of that name"
    assert contents(course)["01_lesson.new.ipynb"] == "lesson 1"


def test_a_deleted_notebook_comes_back_fresh(course, source):
    lab.refresh(course, source)
    (course / LESSON).unlink()
    lab.refresh(course, source)

    assert contents(course) == FRESH


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": 3}', "\0"])
def test_a_damaged_manifest_costs_no_edit(course, source, damage):
    lab.refresh(course, source)
    (course / LESSON).write_text("mine")
    (course / lab.MANIFEST).write_text(damage)
    lab.refresh(course, source)

    assert contents(course)[LESSON] == "mine"


def test_the_manifest_names_the_version(course, source):
    lab.refresh(course, source)

    assert json.loads((course / lab.MANIFEST).read_text())["version"] == kvmlab.__version__


def test_the_shipped_folder_is_no_place_to_work(source):
    with pytest.raises(BadChoice, match="kvmlab's own notebooks; name another"):
        lab.refresh(source, source)
    assert not (source / lab.MANIFEST).exists()


def test_a_file_is_no_place_to_work(tmp_path, source):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BadChoice, match="is not a directory"):
        lab.refresh(tmp_path / "file", source)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_directory_in_a_notebooks_place_stops_all(course, source):
    (course / LESSON).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        lab.refresh(course, source)
    assert contents(course) == {}


def test_a_disk_that_fills_up_changes_nothing(course, source, monkeypatch):
    lab.refresh(course, source)
    (source / INDEX).write_text("index 2")
    (source / LESSON).write_text("lesson 2")
    fill_up(monkeypatch, after=1)

    with pytest.raises(OSError, match="No space left"):
        lab.refresh(course, source)
    assert contents(course) == FRESH


def test_a_copy_that_cannot_be_made_leaves_no_directory(course, source, monkeypatch):
    fill_up(monkeypatch, after=1)

    with pytest.raises(OSError, match="No space left"):
        lab.refresh(course, source)
    assert not course.parent.exists()


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_file_that_cannot_be_moved_into_place_takes_the_others_back(
    course, source, monkeypatch, last
):
    lab.refresh(course, source)
    (source / INDEX).write_text("index 2")
    (source / "new.ipynb").write_text("new")
    (source / LESSON).write_text("lesson 2")
    before, replace, moved = contents(course), Path.replace, []

    def refuse(path, target):
        moved.append(target)
        if len(moved) == last + 1:
            raise PermissionError(13, "Permission denied", str(target))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        lab.refresh(course, source)
    assert contents(course) == before
    monkeypatch.undo()
    lab.refresh(course, source)
    assert contents(course)["new.ipynb"] == "new"


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root writes everywhere")
def test_a_directory_that_may_only_be_read_is_one_line_and_2(course, source, started, capsys):
    lab.refresh(course, source)
    (source / INDEX).write_text("index 2")
    before = contents(course)
    course.chmod(0o555)
    try:
        assert cli.main(["lab", str(course)]) == 2
    finally:
        course.chmod(0o755)
    assert capsys.readouterr().err.count("\n") == 1
    assert (contents(course), started) == (before, [])


def fill_up(monkeypatch, after: int) -> None:
    """Let the disk take ``after`` more files."""
    written, write_bytes = [], Path.write_bytes

    def full(path, data):
        if len(written) == after:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))
from kvmlab.cli import main
sys.exit(main(["lab", sys.argv[1]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_real_limit_on_files_is_one_line_and_2(course):
    """The kernel itself refuses the bytes, as a full disk would."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, course], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kvmlab: ")
    assert done.stderr.count("\n") == 1
    assert not course.parent.exists()


def test_a_directory_that_refuses_is_one_line_and_2(course, started, monkeypatch, capsys):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied", str(course))

    monkeypatch.setattr(lab.tempfile, "TemporaryDirectory", refuse)

    assert cli.main(["lab", str(course)]) == 2
    assert capsys.readouterr() == ("", f"kvmlab: {course}: Permission denied\n")
    assert not course.exists()
    assert started == []


def test_jupyterlab_opens_the_index(course, started):
    with pytest.raises(SystemExit):
        cli.main(["lab", str(course), "--no-browser", "--port", "8901"])
    (command,) = started

    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={course}" in command
    assert f"--LabApp.default_url=/lab/tree/{INDEX}" in command
    assert {"--no-browser", "--port=8901"} <= set(command)


def test_without_options_the_copy_is_here_and_a_browser_opens(tmp_path, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["lab"])

    assert contents(tmp_path / lab.COURSE) == FRESH
    assert not [option for option in started[0] if option.startswith(("--no-", "--port"))]


@pytest.mark.parametrize("user, allowed", [(0, True), (1000, False)])
def test_root_in_a_container_may_run_it(tmp_path, monkeypatch, user, allowed):
    monkeypatch.setattr(lab.os, "geteuid", lambda: user, raising=False)

    command = lab.jupyterlab(tmp_path, browser=True, port=None)
    assert ("--allow-root" in command) is allowed


def test_without_jupyterlab_one_line_says_how_to_get_it(course, started, monkeypatch, capsys):
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: None)

    assert cli.main(["lab", str(course)]) == 2
    said = capsys.readouterr().err
    assert said == "kvmlab: JupyterLab is not installed; run: pip install 'kvmlab[lab]'\n"
    assert not course.exists()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8888.0", "٣", "9" * 5000, ""])
def test_a_port_that_is_none(course, started, capsys, port):
    assert cli.main(["lab", str(course), f"--port={port}"]) == 2
    assert "write a number from 1 to 65535" in capsys.readouterr().err
    assert not course.exists()


def test_the_shipped_notebooks_are_found():
    assert (lab.shipped() / INDEX).is_file()


def test_an_installation_without_notebooks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "__file__", str(tmp_path / "kvmlab" / "text" / "lessons.py"))
    with pytest.raises(KvmlabError, match="came without its notebooks"):
        lab.shipped()
