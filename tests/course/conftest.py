"""Another Python than the one that runs the tests, if this machine has one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MINORS = range(11, 16)  # 3.11 is the oldest that kvmlab supports
ASK = "import sys; print(sys.version_info >= (3, 11), sys.version)"
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Other:
    """The path of another Python with NumPy, or the reason why there is none."""

    path: str = ""
    reason: str = "no other Python of 3.11 or later was found on PATH or among pyenv's"


@pytest.fixture(scope="session")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Other:
    """Another release or build of Python; NumPy is put into an environment of its own if need be.

    ``KVMLAB_OTHER_PYTHON`` names one.
    """
    reason = Other().reason
    for path in candidates():
        if answers(path, "import numpy"):
            return Other(path)
        made = with_numpy(path, tmp_path_factory.mktemp("other-python"))
        if made:
            return Other(made)
        reason = f"{path} has no NumPy, and none could be installed for it"
    return Other(reason=reason)


def candidates() -> Iterator[str]:
    """Pythons that are not the one running: newest first, each version once."""
    told = {sys.version}
    for path in named():
        done = answers(path, ASK)
        fits, _, version = done.partition(" ")
        if fits == "True" and version not in told:
            told.add(version)
            yield path


def named() -> Iterator[str]:
    """Where Pythons may be."""
    if told := os.environ.get("KVMLAB_OTHER_PYTHON"):
        yield told
        return
    folders = [Path(one) for one in os.environ.get("PATH", "").split(os.pathsep) if one]
    shims = [one.parent for one in folders if one.name == "shims"]  # pyenv's
    for minor in reversed(MINORS):
        for root in shims:
            yield from map(str, sorted(root.glob(f"versions/3.{minor}.*/bin/python"), reverse=True))
        if found := shutil.which(f"python3.{minor}"):
            yield found
    if Path("/usr/bin/python3").exists():
        yield "/usr/bin/python3"


def answers(python: str, script: str) -> str:
    """What a Python prints, or that it was content; "" if it fails."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", script],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip() or "content"


def with_numpy(python: str, folder: Path) -> str:
    """A Python like this one with NumPy, in a new environment in ``folder``; "" if it cannot be."""
    made = folder / "bin" / "python"
    try:
        for command in (
            [python, "-m", "venv", str(folder)],
            [str(made), "-m", "pip", "install", "--quiet", "numpy"],
        ):
            subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return str(made)
