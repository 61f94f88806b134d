"""Dumps of page tables as text: what they say is what a walk over the built tables finds."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Fault
from kvmlab.workloads import dumps

GOOD = ["7f0012345000,1,2,3,4,abcde", "7f0012346000,1,2,3,4,7", "ffffffff81000000,1,9,a,b,1c"]
PAGE = st.integers(0, (1 << 36) - 1)


def text(rows, count=None):
    return "\n".join([str(len(rows) if count is None else count), *rows]) + "\n"


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_text(words, pack=bytes):
        (tmp_path / "t").write_bytes(pack(words.encode()))
        return dumps.read("t")

    return read_text


def canonical(page):
    gva = page << 12
    return gva | 0xFFFF << 48 if gva >> 47 else gva


@given(st.dictionaries(PAGE, st.integers(0, (1 << 40) - 1), min_size=1, max_size=30))
@settings(max_examples=60)
def test_every_page_is_walked_to_where_the_dump_says_through_the_tables_it_says(
    tmp_path_factory, wanted
):
    """Tables are numbered by what they cover, so that the rows agree with one another."""
    frames = {}
    paths = {}
    for page in wanted:
        covers = [(level, page >> 9 * (4 - level)) for level in range(4)]
        paths[page] = [frames.setdefault(one, 0x1000 + len(frames)) for one in covers]
    rows = [
        f"{canonical(page):x}," + ",".join(f"{one:x}" for one in (*paths[page], wanted[page]))
        for page in wanted
    ]
    path = tmp_path_factory.getbasetemp() / "dump"
    path.write_text(text(rows))
    found = dumps.read(path)
    ram = found.memory()
    for page, frame in wanted.items():
        steps, end = found.walk(canonical(page) + 0x123, ram)
        assert end.address == (frame << 12) + 0x123
        assert [step.hpa >> 12 for step in steps] == paths[page]
        assert canonical(page) + 5 in found.search((frame << 12) + 5)
    leaves = found.leaves()
    assert dict(zip(leaves["gva"].tolist(), leaves["gpa"].tolist(), strict=True)) == {
        canonical(page): frame << 12 for page, frame in wanted.items()
    }


def test_what_the_dump_does_not_map_is_absent(read):
    found = read(text(GOOD), gzip.compress)
    steps, end = found.walk(0x7F00_1234_7000)
    assert isinstance(end, Fault)
    assert (end.level, end.why, len(steps)) == (1, "absent", 4)


@pytest.mark.parametrize(
    "rows, count, why",
    [
        (GOOD, 4, "t holds 3 of the 4 rows that its first line promises"),
        (GOOD, 2, "t, line 4: a row more than the 2 that the first line promises"),
        (["7f0012345000,1,2,3,4"], 1, "t, line 2: '7f0012345000,1,2,3,4' is not VA,PE1,PE2"),
        ([GOOD[0], "oops"], 2, "t, line 3: 'oops' is not VA,PE1"),
        ([GOOD[0], "7f0012346000,2,2,3,4,7"], 2, "t, line 3: root 0x2 differs from 0x1 before it"),
        ([GOOD[0], "7f0012346000,1,2,8,4,7"], 2, "line 3: level 3 of 0x7f0012346000 leads to 0x8"),
        ([GOOD[0], "7f0012345000,1,2,3,4,7"], 2, "level 1 of 0x7f0012345000 leads to 0x7, and to"),
        (["800000000000,1,2,3,4,5"], 1, "line 2: address 0x800000000000 is not canonical"),
        (GOOD, 999_999_999, "t, line 1: 999,999,999 rows are more than 16,777,216"),
        (GOOD, "x", "t, line 1: 'x' is no number of rows"),
        ([], 0, "t holds 0 of the 0 rows"),
        (["7f0012345000,1,2,3,4,10000000000f"], 1, "is not VA,PE1"),
    ],
)
def test_a_bad_dump_is_one_line(read, rows, count, why):
    with pytest.raises(TraceError) as caught:
        read(text(rows, count))
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_dump_given_as_a_trace_is_told_apart(tmp_path):
    (tmp_path / "t").write_text(text(GOOD))
    with pytest.raises(TraceError, match="is a dump of page tables, no trace"):
        workloads.read(tmp_path / "t")


def test_tables_that_refer_to_themselves_are_walked_but_not_listed(read):
    """Level 2 to 4 all in frame 1: a legal tree, whose list has no sensible end."""
    rows = [f"{n << 39 | n << 30 | n << 21 | n << 12:x},1,1,1,1,1" for n in range(200)]
    found = read(text(rows))
    assert found.walk(5)[1].address == 0x1005
    with pytest.raises(TraceError, match="more than 32,768: they refer to themselves"):
        found.leaves()
