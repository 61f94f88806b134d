"""The text of DynamoRIO's view tool: which lines are accesses, which say nothing, which are wrong.

The lines follow the tool's source (clients/drcachesim/tools/view.cpp), which prints ordinals in
columns, a name padded to 12, sizes in decimal and addresses with 16 digits.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads import files
from kvmlab.workloads.trace import MAX_SIZE, USER_END

KIND = {"ifetch": Kind.FETCH, "read": Kind.READ, "write": Kind.WRITE}
HEADER = (
    "Output format:\n<--record#-> <--instr#->: <---tid---> <record details>\n" + "-" * 60 + "\n"
)
RECORDS = st.lists(
    st.tuples(
        st.sampled_from(sorted(KIND)), st.integers(0, USER_END - MAX_SIZE), st.integers(1, MAX_SIZE)
    ),
    min_size=1,
    max_size=30,
)


def line(number, name, address, size, tid="2765543", more=None):
    """One record as `std::setw` lays it out."""
    more = more or ("90  nop" if name == "ifetch" else "by PC 0x0000000000404a7e")
    return (
        f"{number:12} {number:11}: {tid:>11} {name:<12}{size:2} byte(s) @ 0x{address:016x} {more}\n"
    )


def rows(trace):
    return list(
        zip(trace.kinds.tolist(), trace.addresses.tolist(), trace.sizes.tolist(), strict=True)
    )


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_text(text):
        (tmp_path / "t").write_text(text)
        return workloads.read("t")

    return read_text


@given(records=RECORDS, header=st.booleans(), tid=st.sampled_from(["2765543", "W0.T77"]))
@settings(max_examples=60)
def test_what_was_written_is_read(tmp_path_factory, records, header, tid):
    path = tmp_path_factory.getbasetemp() / "view"
    lines = [line(n, *record, tid=tid) for n, record in enumerate(records, 1)]
    path.write_text(HEADER * header + "".join(lines))
    assert rows(workloads.read(path)) == [(KIND[name], *rest) for name, *rest in records]


@pytest.mark.parametrize(
    "skipped",
    [
        "           5           0:     2765542 <marker: page size 4096>\n",
        "           5           0:     2765542 <marker: system call 231>\n",
        "           5           0:     2765542 <thread 2765542 exited>\n",
        "          94          68:      296231                                            00 01\n",
        line(9, "pref-r-L1", 0x1000, 1),
        line(9, "pref-NTA", 0xFFFF_8000_0000_0000, 1),
        line(9, "dflush", 0x1000, 64),
        line(9, "ifetch", 0x1000, 2, more="non-fetched instruction"),
        "------------------------------------------------------------\n",
        "===========================================================================\n",
        "View tool results:\n              6 : total instructions\n",
        "Trace invariant checks passed\n",
        "\n",
    ],
)
def test_lines_that_tell_of_no_access_are_skipped(read, skipped):
    text = HEADER + line(1, "ifetch", 0x401000, 3) + skipped + line(2, "write", 0x2000, 8) + skipped
    assert rows(read(text)) == [(Kind.FETCH, 0x401000, 3), (Kind.WRITE, 0x2000, 8)]


@pytest.mark.parametrize(
    "bad, why",
    [
        ("read 8 byte(s) @ 0x1000\n", "is not a record such as '47446 37770: "),
        (line(2, "fetch", 0x1000, 3), "is not a record"),
        ("   2   1:  77 read    8 byte(s) @ 0x by PC 0x1\n", "is not a record"),
        ("   2   1:  77 read    8 byte(s) @ 0x1000by PC\n", "is not a record"),
        (line(2, "read", 0x1000, 0), "size 0 is not one of 1 to 4096 bytes"),
        (line(2, "read", USER_END, 8), "is not canonical"),
        (line(2, "ifetch", 0xFFFF_FFFF_8100_0000, 8), "is in the kernel's half"),
    ],
)
@pytest.mark.parametrize("chunk", [50, files.CHUNK])
def test_a_bad_line_is_named(read, monkeypatch, bad, why, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    with pytest.raises(TraceError, match=r"^t, line 5: ") as caught:
        read(HEADER + line(1, "read", 0x1000, 8) + bad + line(3, "read", 0x1000, 8))
    assert why in str(caught.value)


def test_two_programs_in_one_file_are_refused(read):
    both = line(1, "read", 0x1000, 8, "W0.T7") + line(2, "read", 0x1000, 8, "W1.T9")
    with pytest.raises(TraceError, match="several programs, W0 and W1; view one of them alone"):
        read(both)


def test_a_view_without_accesses_is_refused(read):
    with pytest.raises(TraceError, match="holds no records such as '47446"):
        read(HEADER)
