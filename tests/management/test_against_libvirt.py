"""Our libvirt and our virsh say what libvirt 9.0 says, call for call and character for character.

The answers of the real ones to `libvirt_script` and `virsh_lines` are in tests/data; where the
real ones are installed (Debian: libvirt-clients, python3-libvirt), they are asked again:

    python tests/management/test_against_libvirt.py > tests/data/libvirt-9.0.json

records them anew.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from kvmlab.management import libvirt
from kvmlab.management.virsh import virsh
from tests.management.libvirt_script import run
from tests.management.virsh_lines import LINES

RECORDED = Path(__file__).parents[1] / "data" / "libvirt-9.0.json"
SCRIPT = Path(__file__).with_name("libvirt_script.py")
REAL_PYTHON = "/usr/bin/python3"  # Debian's: its libvirt-python is built for no other


def steady(text):
    """Without the CPU time, which is the wall clock's."""
    return re.sub(r"(CPU time: *)\S+", r"\1...", text)


def real_calls():
    done = subprocess.run([REAL_PYTHON, SCRIPT, "libvirt"], capture_output=True, check=True)
    return json.loads(done.stdout)


def real_lines():
    found = {}
    for line in LINES:
        command = ["virsh", "-c", "test:///default", line]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[line] = [steady(done.stdout), done.stderr, done.returncode]
    return found


def our_line(line):
    printed = virsh(libvirt.open("test:///default"), line)
    return [steady(printed.out), printed.err, printed.status]


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def as_json(value):
    return json.loads(json.dumps(value))


def test_every_call_returns_and_raises_what_libvirt_does(recorded):
    ours = as_json(run(libvirt))
    assert len(ours) == len(recorded["calls"])
    for number, (our, real) in enumerate(zip(ours, recorded["calls"], strict=True)):
        assert our == real, f"call {number}"


@pytest.mark.parametrize("line", LINES)
def test_virsh_prints_what_virsh_prints(recorded, line):
    assert our_line(line) == recorded["virsh"][line]


@pytest.mark.skipif(
    not shutil.which("virsh"),
    reason="no libvirt-clients here; its recorded answers are tested above all the same",
)
def test_the_installed_virsh_says_what_was_recorded(recorded):
    version = subprocess.run(["virsh", "--version"], capture_output=True, text=True, check=True)
    if not version.stdout.startswith("9.0"):
        pytest.skip(f"virsh {version.stdout.strip()} is not the version recorded")
    sample = LINES[::7]  # the rest when recording
    for line in sample:
        command = ["virsh", "-c", "test:///default", line]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert [steady(done.stdout), done.stderr, done.returncode] == recorded["virsh"][line]


if __name__ == "__main__":
    print(json.dumps({"calls": real_calls(), "virsh": real_lines()}, indent=0))
