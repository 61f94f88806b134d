"""A sweep: every cell once, whatever happens to it, to its worker, or to the sweep itself."""

import json
import multiprocessing
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kvmlab import workloads
from kvmlab.base.errors import BadChoice
from kvmlab.hardware.records import Kind
from kvmlab.study import sweep as sweeping
from kvmlab.study.cells import Parcel
from kvmlab.study.compare import compare
from kvmlab.study.executors import Inline
from kvmlab.study.grid import Axes
from kvmlab.study.sweep import SweepStopped, sweep
from kvmlab.workloads import Trace
from tests.deadly_cell import deadly, sleepy

ROOT = Path(__file__).parents[2]
AXES = Axes(mmus=("native", "shadow", "ept"), policies=("naive", "today"), tlbs=("tiny", "16x4"))
CELLS = 8  # two TLBs: native, two policies of shadow, EPT


@pytest.fixture(scope="module")
def trace():
    return workloads.shipped("ls").head(3000)


@pytest.fixture(scope="module")
def whole(trace):
    """What a sweep in this process finds."""
    return sweep([trace], AXES, jobs=1)


def cells_in(journal):
    """The cells of a journal, in the order in which they were finished."""
    return [json.dumps(json.loads(line)["cell"]) for line in journal.read_text().splitlines()[1:]]


def stop_after(number):
    """A progress that ends the sweep, as an interrupt would, after so many finished cells."""

    def progress(finished, total):
        if finished == number:
            raise KeyboardInterrupt

    return progress


class Counting(Inline):
    """Counts what it is asked to run."""

    def __init__(self):
        self.cells = []

    def submit(self, fn, /, task):
        self.cells.append(task.cell)
        return super().submit(fn, task)


def columns(addresses, kind=Kind.WRITE):
    size = len(addresses)
    kinds, sizes = np.full(size, kind, np.uint8), np.full(size, 8, np.uint16)
    return kinds, np.array(addresses, np.uint64), sizes


# -- what a cell finds ------------------------------------------------------------------------


def test_a_cell_counts_what_a_comparison_of_that_machine_counts(trace, whole):
    for cell, row in whole.done:
        options = {"geometry": cell.geometry, "policy": cell.policy or "naive"}
        (alone,) = compare(trace, [cell.mmu], **options)
        assert row.to_json() == alone.to_json() | {"policy": cell.policy or None}


def test_a_smaller_tlb_misses_more_and_faults_are_the_same(whole):
    rows = {(cell.mmu, cell.policy, cell.tlb): row.total for cell, row in whole.done}
    for (mmu, policy, tlb), total in rows.items():
        if tlb == "tiny":
            larger = rows[mmu, policy, "16x4"]
            assert total.lookups["miss"] > larger.lookups["miss"]
            assert total.page_faults == larger.page_faults


def test_walk_caches_shorten_walks_and_nothing_else(trace):
    outcome = sweep([trace], Axes(mmus=("ept",), walk_caches=("off", "on", "2:8")), jobs=1)
    off, on, some = (row.total for _, row in outcome.done)
    assert on.all_references < some.all_references < off.all_references
    assert off.cached == 0 < some.cached < on.cached
    assert off.exits == on.exits == some.exits
    assert off.lookups == on.lookups == some.lookups


def test_a_trace_arrives_as_it_was_sent():
    addresses = [0x7FFF_FFFF_F000, 0, 0x40_0000, 0x7FFF_FFFF_F000]
    sent = Trace("there and back", *columns(addresses, Kind.FETCH))
    arrived = Parcel.of(sent).unpack()
    assert arrived.name == sent.name
    for column in ("kinds", "addresses", "sizes"):
        assert np.array_equal(getattr(arrived, column), getattr(sent, column))


def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_others_go_on(trace, tmp_path):
    """A nested guest on pages of 1G finds no room in its L1: nobody knows before it is built."""
    axes = Axes(mmus=("native", "l2-ept"), guest_pages=("1G",), host_pages=("1G",))
    journal = tmp_path / "j.jsonl"
    outcome = sweep([trace], axes, jobs=1, journal=journal)
    ((cell, reason),) = outcome.failed
    assert (cell.mmu, len(outcome.done)) == ("l2-ept", 1)
    assert "leaves L1" in reason
    assert "\n" not in reason
    counting = Counting()
    again = sweep([trace], axes, executor=counting, journal=journal)
    assert (again, counting.cells) == (outcome, [])  # a failed cell is finished
    sweep([trace], axes, executor=counting, journal=journal, retry=True)
    assert counting.cells == [cell]


def test_an_error_that_nobody_foresaw_is_a_failed_cell_too(trace, monkeypatch):
    def broken(trace, mmus, **options):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("kvmlab.study.cells.compare", broken)
    outcome = sweep([trace], Axes(mmus=("ept",)), jobs=1)
    assert [reason for _, reason in outcome.failed] == ["ZeroDivisionError: division by zero"]


# -- resuming ---------------------------------------------------------------------------------


def test_an_interrupted_sweep_goes_on_and_runs_no_cell_twice(trace, whole, tmp_path):
    journal = tmp_path / "j.jsonl"
    for number in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            sweep([trace], AXES, jobs=1, journal=journal, progress=stop_after(number))
        assert len(cells_in(journal)) == number
    counting = Counting()
    assert sweep([trace], AXES, executor=counting, journal=journal) == whole
    assert len(counting.cells) == CELLS - 5
    assert len(set(cells_in(journal))) == len(cells_in(journal)) == CELLS


def test_a_cell_is_in_the_journal_before_the_next_one_is_begun(trace, tmp_path):
    journal = tmp_path / "j.jsonl"

    class Interrupted(Inline):
        def submit(self, fn, /, task):
            if task.cell.tlb == "16x4":  # the fifth
                raise KeyboardInterrupt
            return super().submit(fn, task)

    with pytest.raises(KeyboardInterrupt):
        sweep([trace], AXES, executor=Interrupted(), journal=journal)
    assert len(cells_in(journal)) == 4


@pytest.mark.parametrize("cut", [1, 40, 0.5])
def test_a_torn_last_line_is_run_again(trace, whole, tmp_path, cut):
    journal = tmp_path / "j.jsonl"
    sweep([trace], AXES, jobs=1, journal=journal)
    data = journal.read_bytes()
    last = len(data) - data[:-1].rfind(b"\n") - 1
    journal.write_bytes(data[: -(cut if cut >= 1 else int(cut * last))])
    counting = Counting()
    assert sweep([trace], AXES, executor=counting, journal=journal) == whole
    assert len(counting.cells) == 1
    assert journal.read_bytes() == data


def test_a_torn_first_line_begins_anew(trace, whole, tmp_path):
    journal = tmp_path / "j.jsonl"
    sweep([trace], AXES, jobs=1, journal=journal)
    data = journal.read_bytes()
    journal.write_bytes(data[:30])
    assert sweep([trace], AXES, jobs=1, journal=journal) == whole
    assert journal.read_bytes() == data


@pytest.mark.parametrize(
    "other, complaint",
    [
        ({"tlbs": ("tiny",)}, r'its tlbs are \["tiny", "16x4"\], not \["tiny"\]'),
        ({"guest_pages": ("2M",)}, "its guest pages are"),
    ],
)
def test_the_journal_of_another_sweep_is_refused_and_left_alone(trace, tmp_path, other, complaint):
    journal = tmp_path / "j.jsonl"
    sweep([trace], AXES, jobs=1, journal=journal)
    data = journal.read_bytes()
    with pytest.raises(BadChoice, match=complaint) as caught:
        sweep([trace], Axes(mmus=AXES.mmus, policies=AXES.policies, **other), journal=journal)
    assert "\n" not in str(caught.value)
    assert journal.read_bytes() == data


def test_a_trace_that_changed_under_its_name_is_another_sweep(trace, tmp_path):
    journal = tmp_path / "j.jsonl"
    sweep([trace], Axes(mmus=("native",)), jobs=1, journal=journal)
    kinds = trace.kinds.copy()
    kinds[7] = Kind.READ if kinds[7] != Kind.READ else Kind.WRITE
    changed = Trace(trace.name, kinds, trace.addresses, trace.sizes)
    with pytest.raises(BadChoice, match="its traces are"):
        sweep([changed], Axes(mmus=("native",)), jobs=1, journal=journal)


@pytest.mark.parametrize(
    "contents, complaint",
    [
        (b"notes of mine\n", "no journal of a sweep"),
        (b"notes of mine", "no journal of a sweep"),
        (b'{"a": 1}\n', "no journal of a sweep"),
    ],
)
def test_a_file_that_is_no_journal_is_left_alone(trace, tmp_path, contents, complaint):
    path = tmp_path / "notes"
    path.write_bytes(contents)
    with pytest.raises(BadChoice, match=complaint):
        sweep([trace], AXES, jobs=1, journal=path)
    assert path.read_bytes() == contents


def test_damage_in_the_middle_is_named_with_its_line(trace, tmp_path):
    journal = tmp_path / "j.jsonl"
    sweep([trace], AXES, jobs=1, journal=journal)
    lines = journal.read_bytes().split(b"\n")
    lines[3] = lines[3][:20]
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(BadChoice, match="line 4 is no cell"):
        sweep([trace], AXES, jobs=1, journal=journal)


def test_two_sweeps_do_not_write_to_one_journal(trace, tmp_path):
    pytest.importorskip("fcntl")
    journal = tmp_path / "j.jsonl"
    told = []

    def meanwhile(finished, total):
        if finished == 1:
            with pytest.raises(BadChoice, match="written to by another sweep") as caught:
                sweep([trace], AXES, jobs=1, journal=journal)
            told.append(caught)

    sweep([trace], AXES, jobs=1, journal=journal, progress=meanwhile)
    assert len(told) == 1


def test_a_full_disk_is_an_error_with_the_file_s_name_and_leaves_whole_lines(trace, tmp_path):
    resource = pytest.importorskip("resource")
    journal = tmp_path / "j.jsonl"
    sweep([trace], AXES, jobs=1, journal=journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sum(map(len, lines[:3])) + 100, hard))
    try:
        with pytest.raises(OSError, match=r"j\.jsonl") as caught:
            sweep([trace], AXES, jobs=1, journal=journal)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, heard)
    assert caught.value.filename == str(journal)
    assert journal.read_bytes() == b"".join(lines[:3])


# -- executors --------------------------------------------------------------------------------


def test_every_executor_finds_the_same(trace, whole):
    with ThreadPoolExecutor(3) as threads:
        assert sweep([trace], AXES, executor=threads, jobs=3) == whole


def test_processes_of_this_machine_find_the_same(trace, whole, tmp_path):
    journal = tmp_path / "j.jsonl"
    assert sweep([trace], AXES, jobs=2, journal=journal) == whole
    assert len(set(cells_in(journal))) == len(cells_in(journal)) == CELLS
    assert multiprocessing.active_children() == []


def test_a_cell_that_kills_its_process_fails_alone(trace, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "run_task", deadly)
    journal, axes = tmp_path / "j.jsonl", Axes(mmus=("native", "ept"), tlbs=("tiny",))
    outcome = sweep([trace], axes, jobs=2, journal=journal)
    assert [(cell.mmu, why) for cell, why in outcome.failed] == [("ept", "its process was killed")]
    assert [cell.mmu for cell, _ in outcome.done] == ["native"]
    assert len(set(cells_in(journal))) == len(cells_in(journal)) == 2


def test_an_interrupt_ends_the_processes_at_once_with_what_they_are_at(
    trace, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweeping, "run_task", sleepy)
    axes, threads = Axes(mmus=("native",), tlbs=("tiny", "16x4")), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        sweep([trace], axes, jobs=2, journal=tmp_path / "j", progress=stop_after(1))
    assert set(threading.enumerate()) <= threads  # or one may stumble over the interpreter's end
    for child in multiprocessing.active_children():
        child.join(10)
    assert multiprocessing.active_children() == []
    assert len(cells_in(tmp_path / "j")) == 1


def test_an_executor_that_goes_away_stops_the_sweep_in_one_line(trace, whole, tmp_path):
    journal = tmp_path / "j.jsonl"
    threads = ThreadPoolExecutor(1)

    def close(finished, total):
        if finished == 3:
            threads.shutdown(wait=False, cancel_futures=True)

    with pytest.raises(SweepStopped, match=f"of {CELLS} cells are finished"):
        sweep([trace], AXES, executor=threads, jobs=1, journal=journal, progress=close)
    assert sweep([trace], AXES, jobs=1, journal=journal) == whole
    assert len(set(cells_in(journal))) == len(cells_in(journal)) == CELLS


def test_one_job_needs_no_processes_at_all():
    """As in Pyodide, whose Python has no _multiprocessing."""
    script = (
        "import sys; sys.modules['_multiprocessing'] = None\n"
        "from kvmlab import workloads\n"
        "from kvmlab.study.sweep import sweep\n"
        "print(len(sweep([workloads.shipped('ls').head(300)], jobs=1).done))"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_too_few_cells_at_a_time_are_refused(trace):
    with pytest.raises(BadChoice, match="choose 1 or more"):
        sweep([trace], AXES, jobs=0)
