"""``kvmlab sweep``: tables, files, one line for mistakes, and a journal to go on from."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvmlab import cli

ROOT = Path(__file__).parents[2]
SHORT = ("ls", "--limit", "500", "--jobs", "1")


def run(capsys, *arguments):
    """The exit status, and what was printed on standard output and on standard error."""
    status = cli.main(["sweep", *arguments])
    return status, *capsys.readouterr()


def test_json_has_a_row_for_every_combination(capsys):
    status, out, err = run(
        capsys, *SHORT, "--mmu", "native", "--mmu", "ept", "--tlb", "tiny", "--tlb", "64x4",
        "--costs", "l1", "--costs", "dram", "--json",
    )  # fmt: skip
    rows = json.loads(out)
    assert (status, err, len(rows)) == (0, "", 2 * 2 * 2)
    assert {row["cost_model"] for row in rows} == {"l1", "dram"}
    assert {row["state"] for row in rows} == {"done"}


def test_the_table_says_what_differs_and_cuts_no_number(capsys):
    _, found, _ = run(capsys, *SHORT, "--guest-page", "4K", "--guest-page", "2M", "--json")
    status, out, err = run(capsys, *SHORT, "--guest-page", "4K", "--guest-page", "2M")
    assert (status, err) == (0, "")
    assert "Guest page" in out
    assert "…" not in out
    for row in json.loads(found):
        for name in ("references", "exits", "table_bytes", "cycles"):
            assert f"{row[name]:,}" in out
    assert "A reference is one page-table-entry read" in " ".join(out.split())


def test_traces_axes_and_prices_go_together(capsys):
    status, out, _ = run(
        capsys, "ls", "sort", "--limit", "300", "--jobs", "1", "--mmu", "shadow", "--policy",
        "naive", "--policy", "today", "--walk-caches", "on", "--cost", "exit=1", "--json",
    )  # fmt: skip
    rows = json.loads(out)
    assert status == 0
    assert [(row["trace"], row["policy"]) for row in rows] == [
        ("ls", "naive"),
        ("ls", "today"),
        ("sort", "naive"),
        ("sort", "today"),
    ]
    assert all(row["cycles_exits"] == row["exits"] for row in rows)


def test_files_are_saved_and_the_journal_goes_on_at_other_prices(capsys, tmp_path):
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "jsonl", "html")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    journal = tmp_path / "journal"
    status, _, _ = run(capsys, *SHORT, *options, "--journal", str(journal))
    assert status == 0
    before = journal.read_bytes()
    run(capsys, *SHORT, *options, "--journal", str(journal), "--costs", "pvm")
    assert journal.read_bytes() == before
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [row["cost_model"] for row in rows] == ["pvm"] * 3
    assert len(files["jsonl"].read_text().splitlines()) == 3
    assert "<svg" in files["html"].read_text()


def test_a_failed_cell_is_told_and_gives_status_1(capsys):
    options = ("--mmu", "native", "--mmu", "l2-ept", "--guest-page", "1G", "--host-page", "1G")
    status, out, err = run(capsys, *SHORT, *options)
    assert (status, err) == (1, "")
    assert "Failed: ls, l2-ept" in out


def test_progress_with_the_time_that_remains_goes_to_a_terminal_only(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    status, out, err = run(capsys, *SHORT, "--json")
    assert status == 0
    assert "3/3" in err
    assert "0:00:00" in err
    assert len(json.loads(out)) == 3


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["absent"], "absent"),
        ([], "TRACE"),
        (["ls", "--tlb", "64x5"], "no power-of-two number of sets"),
        (["ls", "--tlb", "huge"], "'huge' is unknown"),
        (["ls", "--walk-caches", "9:9"], "walk caches '9:9' are unknown"),
        (["ls", "--guest-page", "3K"], "3K is no page of a guest"),
        (["ls", "--host-page", "4M"], "4M is no host page"),
        (["ls", "--guest-levels", "6"], "6 guest levels"),
        (["ls", "--guest-levels", "four"], "'four' is no number"),
        (["ls", "--mmu", "tdp"], "native"),
        (["ls", "--costs", "free"], "'free'"),
        (["ls", "--cost", "exit"], "ROW=CYCLES"),
        (["ls", "--jobs", "0"], "'0' is no number"),
        (["ls", "--jobs", "1", "--dask", "x"], "not allowed with"),
        (["ls", "--csv", "no/such/folder/out.csv"], "there is no directory"),
        (["ls", "--html", "."], "is a directory"),
        (["ls", "--journal", "."], "."),
        (["ls", "--mmu", "native", "--guest-page", "4M"], "no combination"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, complaint):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(capsys, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    status, _, err = run(capsys, *SHORT, "--csv", "/dev/full", "--html", str(tmp_path / "o.html"))
    assert status == 2
    assert err == "kvmlab: /dev/full: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_that_does_not_answer_is_one_line(capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("kvmlab.cli.sweep.DASK_TIMEOUT", 0.3)
    status, out, err = run(capsys, "ls", "--dask", "tcp://127.0.0.1:1")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:1'" in err


def test_without_dask_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    status, _, err = run(capsys, "ls", "--dask", "tcp://x:1")
    assert status == 2
    assert "kvmlab[cluster]" in err


def test_an_interrupt_says_where_the_finished_cells_are_and_the_command_goes_on(tmp_path):
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "kvmlab", "sweep", "ls", "sort", "--jobs", "2", "--mmu",
               "shadow", "--mmu", "ept", "--tlb", "tiny", "--tlb", "16x4", "--limit", "10000",
               "--journal", str(journal)]  # fmt: skip
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while child.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    kept = f"what is finished is in {journal}; the same command goes on from there"
    assert err == f"kvmlab: interrupted; {kept}\n"
    first = journal.read_bytes()
    whole = first[: first.rfind(b"\n") + 1]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert journal.read_bytes().startswith(whole)
    assert len({*journal.read_text().splitlines()}) == 1 + 8
