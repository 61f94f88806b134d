"""What the README shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kvmlab.cli import commands, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PICTURE = ROOT / ".github" / "walk.svg"


@pytest.mark.parametrize("code", BLOCKS)
def test_the_readme_s_python_runs(code):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "actual 32768\n" in done.stdout


def test_there_is_such_a_block():
    assert BLOCKS


def test_the_picture_is_what_the_engine_draws_today(tmp_path):
    """After a change of the figure: kvmlab export walk --out .github/walk.svg --force."""
    assert f"]({PICTURE.relative_to(ROOT)})" in README
    assert PICTURE.stat().st_size < 100_000
    assert main(["export", "walk", "--out", str(tmp_path / "walk.svg")]) == 0
    assert (tmp_path / "walk.svg").read_text("utf-8") == PICTURE.read_text("utf-8")


def test_links_for_a_class_lead_to_the_index():
    links = [urlsplit(one) for one in re.findall(r"https://[^\s)]+\?[^\s)]+", README)]
    binder, puller = (parse_qs(link.query, strict_parsing=True) for link in links)
    for query in (binder, puller):
        place = query["urlpath"][0].removeprefix("lab/tree/").removeprefix("REPOSITORY/")
        assert (ROOT / place).is_file()
    assert puller["repo"] == ["https://github.com/OWNER/REPOSITORY"]
    assert links[0].path == "/v2/gh/OWNER/REPOSITORY/HEAD"


@pytest.mark.parametrize("path", ["README.md", ".github/CONTRIBUTING.md"])
def test_every_file_that_is_named_is_there(path):
    text = (ROOT / path).read_text("utf-8")
    named = re.findall(r"`((?:tests|kvmlab|binder|\.github|\.ci)/[\w./-]+)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_of_the_command_line_is_in_the_table():
    told = set(re.findall(r"^\| `kvmlab (\w+)", README, re.MULTILINE))
    assert set(commands()) == told
