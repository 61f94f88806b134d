"""``kvmlab record``: the command's own output and status, and a trace that reads; or one line."""

import json
import lzma
import os
import shutil
import stat
import sys

import numpy as np
import pytest

from kvmlab import cli, workloads
from kvmlab.hardware.records import Kind

LOG = "==1== Lackey\nI  0401ab70,3\n L 1fff000778,8\n S 1fff000770,8\n==1== Exit code:       0\n"
FAKE = f"""#!{sys.executable}
# As valgrind: options, then the command, which runs; the log goes to the descriptor asked for.
import os, sys
options = [one for one in sys.argv[1:] if one.startswith("--")][:4]
log = next(int(one[9:]) for one in options if one.startswith("--log-fd="))
os.write(log, os.environ["FAKE_LOG"].encode())
os.close(log)
with open(sys.argv[0] + ".options", "w") as file:
    print(*options, file=file)
command = sys.argv[1 + len(options):]
os.execvp(command[0], command)
"""


def run(capfd, *arguments):
    status = cli.main(["record", *map(str, arguments)])
    return status, *capfd.readouterr()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A valgrind that runs the command and writes a fixed log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "valgrind"
    program.write_text(FAKE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", LOG)
    return program


def left(folder):
    return sorted(one.name for one in folder.iterdir() if one.name != "bin")


def test_what_was_made_is_told_as_json_on_standard_error(capfd, tmp_path, fake):
    path = tmp_path / "t.lackey"
    status, out, err = run(capfd, "-o", path, "--json", "--", "echo", "--json")
    told = {"file": str(path), "records": 3, "bytes": path.stat().st_size, "status": 0}
    assert (status, out, json.loads(err)) == (0, "--json\n", told)


@pytest.mark.parametrize("name", ["t.lackey", "t.lackey.gz", "t.lackey.xz"])
def test_the_log_becomes_a_trace_packed_as_its_name_says(capfd, tmp_path, fake, name):
    path = tmp_path / name
    status, out, err = run(capfd, "-o", path, "--", "echo", "its own words")
    assert (status, out) == (0, "its own words\n")
    assert err.startswith(f"kvmlab: {path}: 3 records, ")
    trace = workloads.read(path)
    assert trace.kinds.tolist() == [Kind.FETCH, Kind.READ, Kind.WRITE]
    magic = {".lackey": b"==", ".gz": b"\x1f\x8b", ".xz": b"\xfd7"}[path.suffix]
    assert path.read_bytes()[:2] == magic
    assert left(tmp_path) == [name]


def test_valgrind_is_asked_for_lackey_s_trace_of_one_process(capfd, tmp_path, fake):
    run(capfd, "-o", tmp_path / "t", "--", "true")
    asked = (fake.parent / "valgrind.options").read_text().split()
    assert {"--tool=lackey", "--trace-mem=yes", "--child-silent-after-fork=yes"} < set(asked)


def test_the_command_s_exit_status_is_passed_on_and_the_trace_stays(capfd, tmp_path, fake):
    status, _, err = run(capfd, "-o", tmp_path / "t", "--", "sh", "-c", "echo oops >&2; exit 7")
    assert status == 7
    assert err.startswith("oops\n")
    assert left(tmp_path) == ["t"]


def test_a_command_that_dies_of_a_signal_is_reported_as_a_shell_does(capfd, tmp_path, fake):
    status, _, _ = run(capfd, "-o", tmp_path / "t", "--", "sh", "-c", "kill -9 $$")
    assert status == 128 + 9


def test_options_after_the_command_are_the_command_s(capfd, tmp_path, fake):
    status, out, _ = run(capfd, "-o", tmp_path / "t", "--", "echo", "-o", "--force", "--json")
    assert (status, out) == (0, "-o --force --json\n")


@pytest.mark.parametrize(
    "log, why",
    [
        ("", "valgrind recorded nothing; it ended with status 0"),
        ("==1== a fatal error\n", "valgrind recorded nothing"),
        ("I  0401ab70,3\noops\n", "valgrind's log, line 2: 'oops' is not a record"),
    ],
)
def test_a_log_that_is_no_trace_leaves_no_file(capfd, tmp_path, fake, monkeypatch, log, why):
    monkeypatch.setenv("FAKE_LOG", log)
    status, _, err = run(capfd, "-o", tmp_path / "t.xz", "--", "true")
    assert status == 2
    assert why in err
    assert left(tmp_path) == []


def test_an_interrupt_ends_the_command_and_leaves_no_file(capfd, tmp_path, fake, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kvmlab.workloads.lackey.parse", interrupted)
    status, _, err = run(capfd, "-o", tmp_path / "t", "--", "sleep", "600")
    assert (status, err) == (130, "kvmlab: interrupted\n")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--", "true"], "-o/--output"),
        (["-o", "{}/t"], "no command is given; write it after --"),
        (["-o", "{}/t", "--"], "no command is given"),
        (["-o", "{}/t", "--", "no-such-command"], "'no-such-command' is no program that can be"),
        (["-o", "{}/there", "--", "true"], "there is there already; --force replaces it"),
        (["-o", "{}/none/t", "--", "true"], "none is no folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capfd, tmp_path, fake, arguments, complaint):
    (tmp_path / "there").write_text("mine")
    status, out, err = run(capfd, *(one.format(tmp_path) for one in arguments))
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert left(tmp_path) == ["there"]


def test_without_valgrind_its_package_is_named(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = run(capfd, "-o", tmp_path / "t", "--", "true")
    assert (status, out) == (2, "")
    assert err == "kvmlab: valgrind is not installed; on Debian or Ubuntu: apt install valgrind\n"


def test_progress_is_told_on_a_terminal_only(capfd, tmp_path, fake, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("kvmlab.cli.record.BLINK", -1)
    _, out, err = run(capfd, "-o", tmp_path / "t", "--", "true")
    assert out == ""
    assert "\rkvmlab: 3 records\r\033[K" in err


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_valgrind_s_own_trace_of_a_program_is_recorded_whole(capfd, tmp_path):
    """As many fetches as lackey itself says were executed."""
    path = tmp_path / "true.lackey.xz"
    status, out, err = run(capfd, "-o", path, "--", "true")
    assert (status, out) == (0, ""), err
    text = lzma.decompress(path.read_bytes()).decode()
    said = int(text.partition("guest instrs:")[2].split()[0].replace(",", ""))
    trace = workloads.read(path)
    assert np.count_nonzero(trace.kinds == Kind.FETCH) == said > 10_000
    assert f"{len(trace):,} records" in err
