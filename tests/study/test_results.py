"""Results of a sweep as rows and files: all of it or nothing."""

import csv
import json
import math

import numpy as np
import pytest

from kvmlab import workloads
from kvmlab.study.costs import GRADED, model_named
from kvmlab.study.grid import Axes
from kvmlab.study.results import as_rows, results, write_csv, write_json_lines, write_whole
from kvmlab.study.sweep import Outcome, sweep


@pytest.fixture(scope="module")
def outcome():
    axes = Axes(mmus=("native", "ept", "l2-ept"), guest_pages=("4K", "1G"), host_pages=("1G",))
    trace = workloads.shipped("ls").head(500)
    return sweep([trace], Axes(**{**vars_of(axes), "guest_levels": (4, 2)}), jobs=1)


def vars_of(axes):
    return {name: getattr(axes, name) for name in axes.__dataclass_fields__}


def test_a_slowdown_is_end_to_end_time_over_that_of_the_native_run(outcome):
    array = results(outcome, [GRADED])
    for one in array:
        base = array[
            (array["mmu"] == "native") & (array["guest_page_bytes"] == one["guest_page_bytes"])
        ]
        (native,) = base
        time = 4 * one["accesses"] + one["cycles"]
        assert one["slowdown_ratio"] == time / (4 * native["accesses"] + native["cycles"]) >= 1


def test_a_slowdown_without_a_native_run_is_nan_and_none_in_files(outcome):
    alone = Outcome([pair for pair in outcome.done if pair[0].mmu == "ept"], [], [])
    array = results(alone)
    assert np.isnan(array["slowdown_ratio"]).all()
    assert all(row["slowdown_ratio"] is None for row in as_rows(array, alone))


def test_prices_are_a_fold_over_the_same_counts(outcome):
    array = results(outcome, [GRADED, model_named("l1"), GRADED.edit("access", 400)])
    graded, l1, slow = array[0::3], array[1::3], array[2::3]
    assert np.array_equal(graded["references"], l1["references"])
    assert np.array_equal(l1["cycles_walks"], 4 * l1["references"])  # no walk caches
    assert np.array_equal(graded["cycles"], slow["cycles"])
    assert (slow["slowdown_ratio"] <= graded["slowdown_ratio"]).all()


def test_files_have_every_cell_with_its_state(outcome, tmp_path):
    array = results(outcome)
    write_csv(tmp_path / "o.csv", array, outcome)
    write_json_lines(tmp_path / "o.jsonl", array, outcome)
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    states = [row["state"] for row in lines]
    assert {state: states.count(state) for state in states} == {
        "done": len(outcome.done),
        "failed": len(outcome.failed),
        "skipped": len(outcome.skipped),
    }
    assert all(states.count(state) for state in ("done", "failed", "skipped"))
    for row, line in zip(rows, lines, strict=True):
        assert set(row) == set(line) == {"state", "reason", *array.dtype.names}
        assert row == {name: "" if value is None else str(value) for name, value in line.items()}
        assert bool(line["reason"]) == (line["cycles"] is None) == (line["state"] != "done")


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    target = tmp_path / "out.csv"
    target.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(target, "after")
    assert caught.value.filename == str(target)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        write_whole(tmp_path / "no" / "out.csv", "x")
    assert caught.value.filename == str(tmp_path / "no" / "out.csv")


def test_no_ratio_is_infinite(outcome):
    assert all(math.isfinite(one) for one in results(outcome)["slowdown_ratio"])
