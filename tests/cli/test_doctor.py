"""`kvmlab doctor`: what is here, what is not, and nothing of the machine goes wrong."""

import json
import sys

import numpy as np
import pytest

from kvmlab.cli import main
from kvmlab.cli.doctor import Finding, findings, kvm, package, program, said


def fake(tmp_path, script):
    path = tmp_path / "thing"
    path.write_text(f"#!{sys.executable}\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_json_lists_every_finding_with_the_same_four_keys(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(list(one) == ["name", "found", "version", "enables"] for one in found)
    by_name = {one["name"]: one for one in found}
    assert by_name["numpy"]["version"] == np.__version__
    assert {"Python", "kvmlab", "browser", "valgrind", "QEMU", "libvirt", "/dev/kvm"} <= set(
        by_name
    )


def test_the_table_says_in_words_what_is_missing(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("valgrind") and "not found" in line for line in lines)


def test_no_name_is_found_twice():
    names = [one.name for one in findings()]
    assert len(names) == len(set(names))


def test_a_package_that_is_absent_is_said_to_be():
    assert package("no-such-package", "x") == Finding("no-such-package", False, "", "x")


@pytest.mark.parametrize(
    "script, version",
    [
        ("print('thing-3.25.1 (Debian 12)')", "3.25.1"),
        ("import sys; print('Chromium 156.0.1', file=sys.stderr)", "156.0.1"),
        ("print('no number')", ""),
        ("raise SystemExit(3)", ""),
        ("import os; os.write(1, b'\\xff\\xfe 1.2')", ""),
    ],
)
def test_a_program_says_its_version_or_none(tmp_path, script, version):
    assert said(fake(tmp_path, script)) == version


def test_a_program_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("kvmlab.cli.doctor.SECONDS", 0.2)
    assert said(fake(tmp_path, "import time; time.sleep(60)")) == ""


def test_the_first_program_that_is_there_is_taken(tmp_path):
    path = fake(tmp_path, "print('2.0')")
    found = program(("absent", "here"), "it", "x", {"here": path}.get)
    assert (found.found, found.version) == (True, "2.0")
    assert not program(("absent",), "it", "x", {}.get).found


@pytest.mark.parametrize(
    "module, switch, value, how",
    [
        ("kvm_intel", "ept", "Y\n", "EPT"),
        ("kvm_intel", "ept", "N\n", "shadow paging"),
        ("kvm_amd", "npt", "1\n", "NPT"),
    ],
)
def test_kvm_is_told_by_its_module_parameters(tmp_path, module, switch, value, how):
    parameter = tmp_path / module / "parameters" / switch
    parameter.parent.mkdir(parents=True)
    parameter.write_text(value, encoding="ascii")
    device = tmp_path / "kvm"
    device.touch()
    assert kvm(device, tmp_path).version == how
    assert not kvm(tmp_path / "none", tmp_path).found
