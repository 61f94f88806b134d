"""Reading lackey logs: what is accepted, what is refused, and with which words."""

import gzip
import lzma
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads import files, reading
from kvmlab.workloads.trace import MAX_SIZE, USER_END

KIND = {"I": Kind.FETCH, "L": Kind.READ, "S": Kind.WRITE, "M": Kind.WRITE}
PACK = {"plain": bytes, "gz": gzip.compress, "xz": lzma.compress}
GOOD = b"I  0401ab70,3\n S 1fff000638,8\n"
LONG = GOOD * 20_000  # several chunks

RECORDS = st.lists(
    st.tuples(
        st.sampled_from("ILSM"),
        st.integers(0, USER_END - MAX_SIZE) | st.integers(0, 0xFFFF),
        st.integers(1, MAX_SIZE),
    ),
    min_size=1,
    max_size=40,
)


def as_lackey(letter, address, size):
    """As lackey prints it: I in column 1 and two spaces; the others in column 2 and one."""
    return f"I  {address:08x},{size}" if letter == "I" else f" {letter} {address:08x},{size}"


def as_exercise(letter, address, size):
    """As files for cache exercises have it: short addresses, no leading space."""
    return f"{letter} {address:x},{size}"


def rows(trace):
    return list(
        zip(trace.kinds.tolist(), trace.addresses.tolist(), trace.sizes.tolist(), strict=True)
    )


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads the bytes given, from a file named t."""
    monkeypatch.chdir(tmp_path)

    def read_bytes(data, **options):
        (tmp_path / "t").write_bytes(data)
        return workloads.read("t", **options)

    return read_bytes


@pytest.fixture
def complaint(read):
    """The one line with which the bytes given are refused."""

    def of(data):
        with pytest.raises(TraceError) as caught:
            read(data)
        assert str(caught.value).isprintable(), "one line without control characters"
        return str(caught.value)

    return of


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("spell", [as_lackey, as_exercise])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.differing_executors])
@given(records=RECORDS, newline=st.sampled_from(["\n", "\r\n"]), ends=st.booleans())
def test_what_was_written_is_read(tmp_path_factory, pack, spell, records, newline, ends):
    text = newline.join(spell(*record) for record in records) + newline * ends
    path = tmp_path_factory.getbasetemp() / "round-trip"  # the name says nothing of the packing
    path.write_bytes(PACK[pack](text.encode()))
    expected = [(KIND[letter], address, size) for letter, address, size in records]
    assert rows(workloads.read(path)) == expected


@pytest.mark.parametrize("pack", PACK)
@given(records=RECORDS, chunk=st.integers(1, 60))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.differing_executors])
def test_where_the_chunks_are_cut_makes_no_difference(tmp_path_factory, pack, records, chunk):
    text = "\n".join(as_lackey(*record) for record in records)
    path = tmp_path_factory.getbasetemp() / "chunks"
    path.write_bytes(PACK[pack](text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        expected = [(KIND[letter], address, size) for letter, address, size in records]
        assert rows(workloads.read(path)) == expected


@pytest.mark.parametrize(
    "line",
    [
        "==5075== Lackey, an example Valgrind tool",
        "==5075== ",
        "==5075==   guest instrs:  723,187",
        "==00:00:00:00.127 5075== Counted 1 call to main()",
        "--5075-- Valgrind options:",
        "**5075** a message of the program through valgrind",
        "",
        "  \t",
    ],
)
def test_lines_of_valgrind_and_blank_lines_are_skipped(read, line):
    data = f"{line}\n L 10,1\n{line}\n{line}\n S 20,4\n{line}".encode()
    assert rows(read(data)) == [(Kind.READ, 0x10, 1), (Kind.WRITE, 0x20, 4)]


def test_hex_digits_may_be_capitals(read):
    assert rows(read(b"L ABCDEF,1")) == [(Kind.READ, 0xABCDEF, 1)]


def test_the_trace_is_named_after_the_file(tmp_path):
    path = tmp_path / "mine.lackey"
    path.write_bytes(GOOD)
    assert workloads.read(str(path)).name == "mine.lackey"


def test_streams_written_one_after_another_are_all_read(read):
    assert len(read(gzip.compress(GOOD) * 2)) == 4
    assert len(read(lzma.compress(GOOD) * 2)) == 4


@pytest.mark.parametrize("chunk", [1, 7, files.CHUNK])
def test_zeros_may_pad_an_xz_stream(read, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    assert len(read(lzma.compress(GOOD) + bytes(8) + lzma.compress(GOOD) + bytes(4))) == 4


@pytest.mark.parametrize("pack", PACK)
def test_progress_rises_to_the_size_of_the_file(read, pack):
    told = []
    data = PACK[pack](LONG)
    read(data, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (len(data), len(data))


def test_progress_is_told_more_than_once_for_a_long_file(read):
    told = []
    read(LONG, progress=lambda done, _: told.append(done))
    assert len(told) > 1


BROKEN = [
    "I  0401ab70",
    "I  0401ab70,",
    "I  ,3",
    "I  0401ab70, 3",
    "I  0401ab70,3 4",
    "I  0401ab70,-3",
    "I  0401ab70,0x3",
    "I   0401ab70,3",
    "  L 0401ab70,3",
    "L0401ab70,3",
    "\tL 0401ab70,3",
    "X 0401ab70,3",
    "l 0401ab70,3",
    "L 0x10,3",
    "L 10g,3",
    "L 00000000000000010,3",
    "L 10,3L 10,3",
    "L 10x000000000000000008",
    "L 10,0000000000000000008",
    "guest instrs:  723,187",
]


@pytest.mark.parametrize("line", BROKEN)
@pytest.mark.parametrize("newline", ["\n", ""])
def test_a_broken_line_is_shown_with_its_number(complaint, line, newline):
    text = complaint(GOOD + b"==1== a\n\n" + line.encode() + newline.encode())
    assert text == f"t, line 5: {line!r} is not a record such as ' L 1fff000778,8'"


@given(st.text("ILSMx 0189af,\r\n\t=-*\0", max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.differing_executors])
def test_a_line_is_accepted_exactly_when_it_has_the_shape_of_one(tmp_path_factory, text):
    """The shape, once more and by hand: no regular expression of the reader is used."""

    def is_record(line):
        line = line.removesuffix("\r").removeprefix(" ")
        letter, _, rest = line.partition(" ")
        address, comma, size = rest.removeprefix(" ").partition(",")
        hexadecimal = 1 <= len(address) <= 16 and set(address) <= set("0123456789abcdefABCDEF")
        decimal = bool(size) and set(size) <= set("0123456789")
        if not (letter in set("ILSM") and comma and hexadecimal and decimal):
            return False
        return int(address, 16) + int(size) <= USER_END and 1 <= int(size) <= MAX_SIZE

    def is_skipped(line):
        return line[:2] in ("==", "--", "**") or not line.strip(" \t\r")

    lines = text.split("\n")
    path = tmp_path_factory.getbasetemp() / "shape"
    path.write_bytes(
        b"==1== a log, or the zeros below would make it binary\nL 10,1\n" + text.encode()
    )
    bad = [n for n, line in enumerate(lines, 3) if not is_record(line) and not is_skipped(line)]
    if bad:
        with pytest.raises(TraceError, match=f"line {bad[0]}: "):
            workloads.read(path)
    else:
        assert len(workloads.read(path)) == 1 + sum(map(is_record, lines))


def test_the_number_of_a_broken_line_counts_all_chunks_before(complaint):
    assert complaint(LONG + b"oops\n" + LONG).startswith("t, line 40001: 'oops' ")


def test_the_first_of_two_bad_lines_is_named(complaint):
    assert "line 3: 'L 10,0': size 0" in complaint(GOOD + b"L 10,0\noops\n")
    assert "line 3: 'oops'" in complaint(GOOD + b"oops\nL 10,0\n")


def test_a_long_line_is_shown_shortened(complaint):
    assert complaint(b"L " + b"1" * 1000) == (
        f"t, line 1: 'L {'1' * 38}'... is not a record such as ' L 1fff000778,8'"
    )


def test_control_characters_are_shown_escaped(complaint):
    assert r"line 1: 'L 10,1\x1b[31m\x07' is not" in complaint(b"L 10,1\x1b[31m\x07\n")


@pytest.mark.parametrize("start", [b"", b"==", b"L ", b" " * 9])
@pytest.mark.parametrize("size", [files.MAX_LINE, 2 * files.CHUNK])
def test_a_line_without_end_is_refused(complaint, start, size):
    text = complaint(GOOD + start + b"=" * size + b" \n" + GOOD)
    assert text.startswith("t, line 3: longer than 65,536 bytes; it starts ")


def test_the_longest_line_of_valgrind_is_skipped(read):
    assert len(read(GOOD + b"==" + b"x" * (files.MAX_LINE - 2) + b"\n" + GOOD)) == 4


@pytest.mark.parametrize(
    "line, why",
    [
        ("L 800000000000,1", "address 0x800000000000 is not canonical"),
        ("L ffffffffff600000,8", "address 0xffffffffff600000 is in the kernel's half"),
        ("S ffffffffffffffff,8", "address 0xffffffffffffffff is in the kernel's half"),
        ("M 7ffffffffffc,8", "8 bytes at 0x7ffffffffffc run past the end of user space"),
        ("I 10,0", "size 0 is not one of 1 to 4096 bytes"),
        ("I 10,4097", "size 4097 is not one of 1 to 4096 bytes"),
        ("I 10,999999999999999999", "size 999999999999999999 is not one of"),
    ],
)
def test_an_impossible_access_is_refused_with_its_line(complaint, line, why):
    assert complaint(GOOD + line.encode() + b"\n" + GOOD).startswith(f"t, line 3: '{line}': {why}")


def test_an_empty_file_is_refused(complaint):
    assert complaint(b"") == "t is empty"


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("text", ["\n\n", "==1== Lackey\n"])
def test_a_file_without_records_is_refused(complaint, pack, text):
    assert complaint(PACK[pack](text.encode())) == "t holds no records such as ' L 1fff000778,8'"


def test_a_line_of_binary_data_among_the_records_is_called_that(complaint):
    text = complaint(GOOD * 3 + b"\x89PNG\0\n")
    assert text.startswith("t, line 7: ")
    assert text.endswith("; the file looks binary")


@pytest.mark.parametrize("pack", ["gz", "xz"])
@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_a_truncated_packed_file_is_refused(complaint, pack, keep):
    data = PACK[pack](os.urandom(5000).hex().encode())
    assert complaint(data[: int(len(data) * keep)]) == (
        "t is truncated: its packed data ends too early"
    )


def test_a_packed_file_cut_at_its_very_end_is_refused(complaint):
    assert "truncated" in complaint(gzip.compress(GOOD)[:-1])
    assert "truncated" in complaint(lzma.compress(GOOD)[:-1])


@pytest.mark.parametrize("pack", ["gz", "xz"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.differing_executors])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_damage_to_a_packed_file_never_yields_other_records(tmp_path_factory, pack, where, flip):
    """Bytes of a gzip header that carry no data may change; all else is refused."""
    data = bytearray(PACK[pack](GOOD * 50))
    data[int(where * len(data))] ^= flip
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        found = rows(workloads.read(path))
    except TraceError:
        return
    assert found == [(Kind.FETCH, 0x401AB70, 3), (Kind.WRITE, 0x1FFF000638, 8)] * 50


def test_damage_to_a_packed_file_is_named_before_the_nonsense_it_unpacks_to(complaint):
    data = bytearray(gzip.compress(GOOD + b"oops\n"))
    data[-6] ^= 1  # the checksum, which is read last
    assert complaint(data).startswith("t cannot be read: CRC check failed")


@pytest.mark.parametrize("pack", ["gz", "xz"])
def test_junk_after_a_packed_stream_is_refused(complaint, pack):
    text = complaint(PACK[pack](GOOD) + b"L 10,1 and more text")
    assert text.startswith("t cannot be read: ")


def test_an_xz_file_that_claims_too_much_memory_is_refused(complaint, monkeypatch):
    """Its header alone, in a file of 100 bytes, can ask the decoder for gigabytes."""
    monkeypatch.setattr(files, "XZ_MEMORY", 1 << 20)
    assert complaint(lzma.compress(GOOD)) == "t cannot be read: Memory usage limit exceeded"


def test_a_bomb_of_records_is_stopped(complaint, monkeypatch):
    monkeypatch.setattr(reading, "MAX_RECORDS", 1000)
    assert (
        complaint(gzip.compress(GOOD * 501))
        == "t holds more than 1,000 records; shorten it, or set a limit"
    )


def test_as_many_records_as_the_limit_are_read(read, monkeypatch):
    monkeypatch.setattr(reading, "MAX_RECORDS", 1000)
    assert len(read(GOOD * 500)) == 1000


@pytest.mark.parametrize("pack", PACK)
def test_a_bomb_of_skipped_lines_is_stopped(complaint, monkeypatch, pack):
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    assert complaint(PACK[pack](b"\n" * (1 << 21))) == (
        "t holds more than 1,048,576 bytes; shorten it"
    )


@pytest.mark.parametrize("pack", ["gz", "xz"])
def test_an_archive_that_expands_without_end_is_stopped(complaint, monkeypatch, pack):
    monkeypatch.setattr(files, "ANY_RATIO", 1 << 20)
    monkeypatch.setattr(files, "MAX_RATIO", 20)
    text = complaint(PACK[pack](GOOD * 200_000))
    assert text.startswith("t expands without end: 1,")
    assert "bytes from the first" in text


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("limit, length", [(1, 1), (39_999, 39_999), (10**9, 40_000)])
def test_a_limit_takes_the_first_records_or_all(read, pack, limit, length):
    whole = rows(read(PACK[pack](LONG)))
    assert rows(read(PACK[pack](LONG), limit=limit)) == whole[:length]


def test_with_a_limit_no_more_is_read_than_it_asks_for(read, monkeypatch):
    """So that a part of a trace of any length is at hand at once."""
    monkeypatch.setattr(reading, "MAX_RECORDS", 1000)
    told = []
    assert len(read(LONG, limit=10, progress=lambda done, _: told.append(done))) == 10
    assert told == [] or told[-1] < len(LONG)


def test_a_stream_hands_on_all_records_in_pieces_however_many(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_RECORDS", 1000)
    path = tmp_path / "long"
    path.write_bytes(LONG)
    lengths = [len(some.kinds) for some in workloads.stream(path)]
    assert sum(lengths) == 40_000
    assert max(lengths) <= files.CHUNK


def test_text_of_another_kind_is_not_called_binary(complaint):
    assert complaint("Grüße\n".encode()).endswith(" is not a record such as ' L 1fff000778,8'")
