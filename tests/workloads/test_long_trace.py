"""A trace that is never in memory as a whole says the same as one that is."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.study.replay import accesses
from kvmlab.workloads import LongTrace, files, long_trace
from kvmlab.workloads.trace import MAX_SIZE, USER_END

LETTERS = {"I": Kind.FETCH, "L": Kind.READ, "S": Kind.WRITE}
ADDRESSES = st.integers(0, 5 * 4096) | st.integers(0, USER_END - MAX_SIZE)
RECORDS = st.lists(
    st.tuples(st.sampled_from("ILS"), ADDRESSES, st.sampled_from([1, 8, 4096])), min_size=1
)


def text(records):
    return "".join(f"{letter} {address:x},{size}\n" for letter, address, size in records)


@given(RECORDS, st.integers(1, 30), st.sampled_from([1, 5, 1 << 20]))
@settings(max_examples=80)
def test_pages_kinds_and_counts_are_those_of_the_whole_trace(
    tmp_path_factory, records, chunk, pending
):
    path = tmp_path_factory.getbasetemp() / "long"
    path.write_text(text(records))
    whole = workloads.read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        patch.setattr(long_trace, "_PENDING", pending)
        long = LongTrace(path)
        parts = list(long.parts())
    assert long.pages.tolist() == whole.pages().tolist()
    assert (len(long), long.accesses) == (len(whole), len(accesses(whole)))
    for name in ("kinds", "addresses", "sizes"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.tolist() == getattr(whole, name).tolist()
    expected = {}
    for letter, address, size in records:
        for page in {address >> 12, (address + size - 1) >> 12}:
            expected[page] = expected.get(page, 0) | LETTERS[letter]
    assert dict(zip(long.pages.tolist(), long.kinds.tolist(), strict=True)) == expected


def test_a_bad_line_at_the_end_is_found_before_anything_is_replayed(tmp_path):
    path = tmp_path / "bad"
    path.write_bytes(gzip.compress(b"L 10,1\n" * 100_000 + b"oops\n"))
    with pytest.raises(TraceError, match="line 100001: 'oops'"):
        LongTrace(path)


def test_a_file_that_changes_between_two_readings_is_refused(tmp_path):
    path = tmp_path / "changing"
    path.write_text("L 10,1\n" * 9)
    long = LongTrace(path)
    path.write_text("L 10,1\n" * 8)
    with pytest.raises(TraceError, match="changing changed while it was replayed"):
        list(long.parts())


def test_progress_rises_to_the_size_of_the_file(tmp_path):
    path = tmp_path / "long"
    path.write_text("L 10,1\n" * 100_000)
    told = []
    LongTrace(path, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (os.path.getsize(path),) * 2  # noqa: PTH202  the same number, otherwise


def test_a_long_file_is_taken_part_by_part_and_a_limit_takes_its_beginning(tmp_path, monkeypatch):
    path = tmp_path / "long"
    path.write_text("L 10,1\n" * 300)
    monkeypatch.setattr(workloads, "LONG", 200)
    assert isinstance(workloads.named(str(path)), LongTrace)
    assert len(workloads.named(str(path), 150)) == 150
    with pytest.raises(TraceError, match="holds 300 records; set a limit of 200 or less"):
        workloads.trace_named(str(path))
    monkeypatch.setattr(workloads, "LONG", 400)
    assert len(workloads.trace_named(str(path))) == 300
