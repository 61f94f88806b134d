"""ChampSim's binary records, packed here with `struct` from the layout of its trace files."""

import gzip
import lzma
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads import files
from kvmlab.workloads.trace import USER_END

LAYOUT = {64: "<QBB2B4B2Q4Q", 96: "<QBB4B4B6x4Q4Q2B6x"}
WRITES = {64: 2, 96: 4}
ADDRESS = st.integers(1, USER_END - 1)
FAR = st.integers(1 << 20, USER_END - 1)


def record(size, ip, writes=(), reads=(), taken=0):
    """One instruction; absent operands are zero."""
    registers = [5] * (6 if size == 64 else 8)
    operands = [*writes, *[0] * (WRITES[size] - len(writes)), *reads, *[0] * (4 - len(reads))]
    asid = [1, 2] * (size == 96)
    return struct.pack(LAYOUT[size], ip, taken, taken, *registers, *operands, *asid)


def rows(trace):
    assert set(trace.sizes.tolist()) <= {1}
    return list(zip(trace.kinds.tolist(), trace.addresses.tolist(), strict=True))


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_bytes(data):
        (tmp_path / "t").write_bytes(data)
        return workloads.read("t")

    return read_bytes


@pytest.fixture
def complaint(read):
    def of(data):
        with pytest.raises(TraceError) as caught:
            read(data)
        return str(caught.value)

    return of


def test_the_layouts_have_the_sizes_of_the_formats():
    assert [struct.calcsize(layout) for layout in LAYOUT.values()] == list(LAYOUT)


@pytest.mark.parametrize("size", LAYOUT)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@settings(max_examples=25)
@given(data=st.data())
def test_each_instruction_is_its_fetch_its_reads_and_its_writes(tmp_path_factory, size, pack, data):
    some = st.tuples(
        FAR,
        st.lists(ADDRESS, max_size=WRITES[size]),
        st.lists(ADDRESS, max_size=4),
        st.integers(0, 1),
    )
    # A last instruction without operands makes the wrong stride land on zeros.
    made = [*data.draw(st.lists(some, max_size=20)), (0x400000, [], [], 0), (0x400004, [], [], 0)]
    path = tmp_path_factory.getbasetemp() / "champsim"
    path.write_bytes(pack(b"".join(record(size, *one) for one in made)))
    expected = []
    for ip, writes, reads, _ in made:
        expected += [(Kind.FETCH, ip), *((Kind.READ, one) for one in reads)]
        expected += [(Kind.WRITE, one) for one in writes]
    assert rows(workloads.read(path)) == expected


@pytest.mark.parametrize("size", LAYOUT)
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_where_the_pieces_are_cut_makes_no_difference(read, monkeypatch, size, chunk):
    data = b"".join(record(size, 0x400000 + n, [0x7000 + n], [0x9000]) for n in range(9))
    whole = rows(read(data))
    monkeypatch.setattr(files, "CHUNK", chunk)
    assert rows(read(data)) == whole
    assert len(whole) == 27


@pytest.mark.parametrize("size", LAYOUT)
@pytest.mark.parametrize("keep", [1, 17, -1])
def test_a_file_that_ends_inside_a_record_is_refused_with_the_offset(complaint, size, keep):
    data = b"".join(record(size, 0x400000 + n) for n in range(300))
    cut = keep % size
    text = complaint(data + record(size, 0x500000)[:cut])
    where = f"t, offset {300 * size:#x}: the file ends inside record 300"
    assert text == f"{where}, after {cut} of its {size} bytes"


@pytest.mark.parametrize(
    "bad, why",
    [
        ({"ip": 0xFFFF_FFFF_8100_0000}, "address 0xffffffff81000000 is in the kernel's half"),
        ({"ip": 0x400000, "reads": [USER_END]}, "address 0x800000000000 is not canonical"),
        ({"ip": 0x400000, "writes": [0, 1 << 63]}, "address 0x8000000000000000 is not canonical"),
        ({"ip": 0, "reads": [1]}, "its instruction lies at address 0: not a ChampSim record"),
        ({"ip": 0x400000, "taken": 7}, "is_branch is 7, neither 0 nor 1: not a ChampSim record"),
    ],
)
@pytest.mark.parametrize("size", LAYOUT)
def test_an_impossible_record_is_named_with_its_offset(complaint, size, bad, why):
    good = b"".join(record(size, 0x400000 + n) for n in range(10_000))
    text = complaint(good + record(size, **bad) + good)
    assert text.startswith(f"t, record 10000, offset {10_000 * size:#x}: {why}")


def test_a_cut_archive_is_refused(complaint):
    packed = lzma.compress(b"".join(record(64, 0x400000 + 97 * n) for n in range(900)))
    assert complaint(packed[:-40]) == "t is truncated: its packed data ends too early"
