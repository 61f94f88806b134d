"""The instructors' page: its commands run as they stand, and its figures are the course's."""

import re
import shlex
from pathlib import Path

from kvmlab import cli
from kvmlab.course import paper
from kvmlab.course.bounded import LINES, SECONDS
from kvmlab.text.lessons import lessons

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGE = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
SERVERS = {"kvmlab app walk"}  # tests/cli/test_app.py starts it
GRADERS = ("nbgrader ", "otter ")  # tests/test_graders.py runs what it finds here
SETTING_UP = {  # needs a network: `.ci/run` installs from a wheel, and a hub with --all
    "pip wheel -q -w wheels '.[lab]'",
    "pip install -q --no-index --find-links wheels 'kvmlab[lab]'",
    "pip install -q jupyterhub 'kvmlab[lab]'",
    "npm install -g configurable-http-proxy",
    "jupyterhub -f binder/jupyterhub_config.py",
    "pip install -q voila",
}
OURS = [line for line in COMMANDS if line.startswith("kvmlab ") and line not in SERVERS]


def test_our_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("roster.csv").write_text("id\nann\nbob\n")
    for line in OURS:
        assert cli.main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    assert Path("hw1/source/hw1/hw1.ipynb").is_file()
    assert Path("hw2/hw2/hw2.ipynb").is_file()


def test_every_other_command_is_tried_somewhere():
    rest = {line for line in COMMANDS if line not in OURS and not line.startswith(GRADERS)}

    assert rest == SERVERS | SETTING_UP
    assert len(OURS) == 7


def test_the_servers_configuration_is_where_the_page_says():
    for name in re.findall(r"`((?:binder|tests)/[\w./-]+)`", PAGE):
        assert (NOTEBOOKS.parent / name).exists(), name


def test_the_time_of_each_way_is_that_of_its_lessons():
    ways = re.findall(r"^\| .* \| (\d\d[\d, to]*) \| (\d) to (\d) h \|$", PAGE, re.MULTILINE)
    minutes = {one.number: one.minutes for one in lessons()[1:]}

    assert [numbers for numbers, _, _ in ways][-1] == "01 to 14"
    for numbers, least, most in ways:
        chosen = minutes if numbers == "01 to 14" else numbers.split(", ")
        assert int(least) * 60 <= sum(minutes[one] for one in chosen) <= int(most) * 60


def test_what_a_mark_is_made_of():
    assert f"{paper.SEEN_POINTS} for cases that students can run" in PAGE
    assert f"{paper.UNSEEN_POINTS} for cases of their own" in PAGE
    assert f"worth {paper.SEEN_POINTS + paper.UNSEEN_POINTS} points" in PAGE
    assert f"{LINES:,} lines" in PAGE
    assert SECONDS == 5
