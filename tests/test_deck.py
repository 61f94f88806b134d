"""The deck for a lecture: its own commands make slides that show exported pages."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kvmlab.cli import main

DECK = Path(__file__).parents[1] / "notebooks" / "lecture" / "deck.ipynb"
CELLS = json.loads(DECK.read_text(encoding="utf-8"))["cells"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
SHOWN = re.findall(r'src="([^"]+)"', TEXT)


def test_the_commands_make_every_file_that_a_slide_shows():
    lines = [shlex.split(line) for line in COMMANDS.splitlines()]
    exports = [line for line in lines if line[:2] == ["kvmlab", "export"]]
    assert sorted(line[line.index("--out") + 1] for line in exports) == sorted(SHOWN)
    assert lines[-1] == ["jupyter", "nbconvert", "--to", "slides", DECK.name]
    for line in exports:
        with pytest.raises(SystemExit) as end:
            main([*line[1:], "--help"])
        assert end.value.code == 0


def test_nbconvert_makes_slides_of_it(tmp_path):
    """Each page in its frame, notes for the speaker, and nothing of the first cell."""
    (tmp_path / DECK.name).write_bytes(DECK.read_bytes())
    _, *arguments = shlex.split(COMMANDS.splitlines()[-1])
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    slides = (tmp_path / "deck.slides.html").read_text(encoding="utf-8")
    body = slides[slides.index('<div class="slides">') :]
    kinds = [cell["metadata"]["slideshow"]["slide_type"] for cell in CELLS]
    assert body.count("<section><section>") == kinds.count("slide")
    assert len(re.findall(r'<aside class="notes">', body)) == kinds.count("notes") > 0
    for name in SHOWN:
        assert re.search(rf'<(?:iframe|img) [^>]*src="{name}"', body)
    assert "kvmlab export" not in body
