"""The shipped traces, read once more by a second, slower reader, and held to valgrind's counts."""

import lzma
import re
from collections import Counter
from importlib.resources import files

import pytest

from kvmlab import workloads
from kvmlab.base.errors import BadChoice
from kvmlab.hardware.records import Kind

DATA = files("kvmlab.workloads") / "data"
KIND = {"I": 4, "L": 1, "S": 2, "M": 2}

# name: I, L, S, M as `grep -c` counts them in the logs; distinct 4 KiB pages; first, last record
FACTS = {
    "sort": (723_241, 195_002, 102_548, 4_177, 223, (4, 0x401AB70, 3), (4, 0x4919407, 2)),
    "ls": (574_627, 140_716, 67_611, 2_680, 288, (4, 0x401AB70, 3), (4, 0x4947407, 2)),
}


def slow_read(name):
    """(letter, address, size) of each record, by fixed columns; other lines start with ==."""
    text = lzma.decompress((DATA / f"{name}.lackey.xz").read_bytes()).decode("ascii")
    for line in text.splitlines():
        if line.startswith("=="):
            continue
        assert line[2] == " "
        comma = line.index(",")
        yield line[:2].strip(), int("0x" + line[3:comma], 0), int(line[comma + 1 :])


@pytest.fixture(scope="module", params=workloads.SHIPPED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trace(name):
    return workloads.shipped(name)


@pytest.fixture(scope="module")
def slow(name):
    return list(slow_read(name))


def test_both_readers_find_the_same_records(trace, slow):
    letters, addresses, sizes = zip(*slow, strict=True)
    assert trace.kinds.tolist() == [KIND[letter] for letter in letters]
    assert trace.addresses.tolist() == list(addresses)
    assert trace.sizes.tolist() == list(sizes)


def test_the_letters_are_as_many_as_grep_counts(name, slow):
    found = Counter(letter for letter, _, _ in slow)
    assert tuple(found[letter] for letter in "ILSM") == FACTS[name][:4]


def test_kinds_are_as_many_as_grep_counts(name, trace):
    fetches, loads, stores, modifies = FACTS[name][:4]
    assert Counter(trace.kinds.tolist()) == {
        Kind.FETCH: fetches,
        Kind.READ: loads,
        Kind.WRITE: stores + modifies,
    }


def test_fetches_are_as_many_as_lackey_says_were_executed(name, trace):
    text = lzma.decompress((DATA / f"{name}.lackey.xz").read_bytes())
    said = re.search(rb"==   guest instrs:  ([\d,]+)\n", text)[1]
    assert int(said.replace(b",", b"")) == (trace.kinds == Kind.FETCH).sum()


def test_the_program_ended_well(name):
    text = lzma.decompress((DATA / f"{name}.lackey.xz").read_bytes())
    assert re.search(rb"\n==\d+== Exit code:       0\n$", text)


def test_first_and_last_record_are_those_of_the_log(name, trace):
    ends = [(int(trace.kinds[i]), int(trace.addresses[i]), int(trace.sizes[i])) for i in (0, -1)]
    assert ends == list(FACTS[name][5:])


def test_pages_are_those_of_every_byte_touched(name, trace, slow):
    pages = {byte >> 12 for _, address, size in slow for byte in (address, address + size - 1)}
    assert trace.pages().tolist() == sorted(pages)
    assert len(pages) == FACTS[name][4]


def test_the_trace_bears_the_name_asked_for(name, trace):
    assert repr(trace) == f"<Trace {name}: {len(trace):,} records>"


def test_each_call_reads_anew(name, trace):
    assert workloads.shipped(name) is not trace


@pytest.mark.parametrize("wrong", ["cat", "", "../sort", "sort.lackey.xz"])
def test_another_name_is_refused_with_the_choices(wrong):
    with pytest.raises(BadChoice, match=r"choose one of: ls, sort$"):
        workloads.shipped(wrong)


def test_both_files_together_are_under_one_mebibyte():
    sizes = [(DATA / f"{name}.lackey.xz").read_bytes() for name in workloads.SHIPPED]
    assert sum(map(len, sizes)) < 1 << 20


def test_the_page_on_the_data_gives_the_counts_of_the_data(name):
    page = (DATA / "README.md").read_text("utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}.lackey.xz`"))
    numbers = [int(cell.replace(",", "")) for cell in row.split("|")[3:-1]]
    assert numbers == [sum(FACTS[name][:4]), *FACTS[name][:5]]
