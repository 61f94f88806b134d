"""The format of a trace is told by what is in the file; what is no trace is told too."""

import gzip
import lzma

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads.reading import format_of

LACKEY = b"==1== Lackey\nI  0401ab70,3\n L 1fff000778,8\n"
VIEW = b"""Output format:
<--record#-> <--instr#->: <---tid---> <record details>
------------------------------------------------------------
           1           0:     2765542 <marker: version 6>
           2           1:     2765542 ifetch       3 byte(s) @ 0x000000000401ab70 90 90 90  nop
           3           1:     2765542 read         8 byte(s) @ 0x0000001fff000778 by PC 0x0401ab70
View tool results:
              1 : total instructions
"""
CHAMPSIM = (0x401AB70).to_bytes(8, "little") + bytes(24) + (0x1FFF000778).to_bytes(8, "little")
CHAMPSIM += bytes(64 - len(CHAMPSIM))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    "name, data, sizes",
    [("lackey", LACKEY, [3, 8]), ("DynamoRIO view", VIEW, [3, 8]), ("ChampSim", CHAMPSIM, [1, 1])],
)
def test_one_program_reads_the_same_from_every_format(tmp_path, pack, name, data, sizes):
    path = tmp_path / "trace.txt.lackey.champsim"  # the name of a file says nothing
    path.write_bytes(pack(data))
    trace = workloads.read(path)
    assert format_of(data, "t").name == name
    assert trace.kinds.tolist() == [Kind.FETCH, Kind.READ]
    assert trace.addresses.tolist() == [0x401AB70, 0x1FFF000778]
    assert trace.sizes.tolist() == sizes


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"\x7fELF\x02\x01\x01" + bytes(99), "t is a program or a core dump (ELF); a trace is"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "t is packed with zstd; pack it with xz or gzip"),
        (b"BZh91AY&SY", "t is packed with bzip2; "),
        (b"PK\3\4" + bytes(30), "t is a zip archive; unpack it"),
        (b"\x89PNG\r\n\x1a\n\0\0", "t looks binary, with records of an unknown size: 64 bytes of"),
        ("L 10,1\n".encode("utf-16"), "t looks binary"),
        (bytes(640), "t looks binary"),
        (
            b"\x0a\0\3\0" + b"\x12\x34\x56\x78\xff\x7f\0\0" * 20,
            "t looks binary, with records of an unknown size: ",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_what_it_looks_like(
    tmp_path, monkeypatch, data, complaint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(TraceError) as caught:
        workloads.read("t")
    assert str(caught.value).startswith(complaint)
    assert str(caught.value).isprintable()


@given(
    st.binary(max_size=400)
    | st.builds(
        lambda start, keep, rest: start[:keep] + rest,
        *(st.sampled_from([VIEW, LACKEY, CHAMPSIM * 3]), st.integers(0, 200)),
        st.binary(max_size=200),
    )
)
@settings(max_examples=300)
def test_any_bytes_make_a_trace_or_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    try:
        said = str(len(workloads.read(path)))
    except TraceError as error:
        said = str(error)
    assert said.isprintable()
    assert said != "0"


def test_a_stream_that_fails_has_yielded_only_what_came_before(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(LACKEY * 20_000 + b"oops\n")
    got = []
    with pytest.raises(TraceError, match="line 60001: 'oops'"):
        got.extend(len(some.kinds) for some in workloads.stream(path))
    assert 0 < sum(got) < 40_000
