"""`kvmlab completion`: a real bash completes what the parser knows."""

import shutil
import subprocess

import pytest

from kvmlab.cli import commands, main
from kvmlab.cli.completion import words


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def completed(text, line):
    """What bash offers for the last word of ``line``."""
    last = len(line.split()) - 1
    ask = f'{text}\nCOMP_WORDS=({line}) COMP_CWORD={last}; _kvmlab; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    "line, words",
    [
        ("kvmlab wa", ["walk"]),
        ("kvmlab walk --host-p", ["--host-page"]),
        ("kvmlab walk --mmu l2", ["l2-ept", "l2-shadow"]),
        ("kvmlab completion z", ["zsh"]),
        ("kvmlab walk --nothing", []),
    ],
)
def test_bash_completes_commands_options_and_values(line, words, capsys):
    assert completed(script("bash", capsys), line) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_every_script(shell, capsys):
    text = script(shell, capsys)
    assert all(name in text for name in commands())


def test_options_behind_a_word_are_offered_too():
    assert {"walk", "balloon", "--out", "--guest-page", "2M", "--share"} <= set(words()["export"])
