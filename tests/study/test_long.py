"""A trace replayed part by part costs to the last count what it costs in one piece."""

import pytest

from kvmlab import workloads
from kvmlab.study import replay
from kvmlab.study.compare import compare
from kvmlab.workloads import LongTrace, files

RECORDS = 14_000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The beginning of `sort`, as a log of its own."""
    trace = workloads.shipped("sort").head(RECORDS)
    letter = {1: " L", 2: " S", 4: "I "}
    rows = zip(trace.kinds.tolist(), trace.addresses.tolist(), trace.sizes.tolist(), strict=True)
    path = tmp_path_factory.mktemp("long") / "sort.lackey"
    path.write_text("".join(f"{letter[kind]} {gva:08x},{size}\n" for kind, gva, size in rows))
    return path


@pytest.mark.parametrize("page", ["4K", "2M"])
def test_every_count_is_that_of_one_piece(path, monkeypatch, page):
    mmus = ("native", "shadow", "ept", "agile")
    whole = compare(workloads.read(path), mmus, guest_page=page)
    monkeypatch.setattr(files, "CHUNK", 10_000)
    monkeypatch.setattr(replay, "PART", 3_100)  # no divisor of a stride
    told = []
    parts = compare(
        LongTrace(path), mmus, lambda mmu, done, total: told.append((mmu, done, total)),
        guest_page=page,
    )  # fmt: skip
    assert [row.to_json() for row in parts] == [row.to_json() for row in whole]
    accesses = whole[0].accesses
    assert {mmu: done for mmu, done, _ in told} == dict.fromkeys(mmus, accesses)
    assert {total for *_, total in told} == {accesses}


def test_no_more_than_a_part_is_held_at_a_time(path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 10_000)
    monkeypatch.setattr(replay, "PART", 3_100)
    lengths = [len(part) for part in replay.LongAccesses(LongTrace(path)).parts()]
    assert lengths[:-1] == [3_100] * (len(lengths) - 1)
    assert 0 <= lengths[-1] < 3_100
