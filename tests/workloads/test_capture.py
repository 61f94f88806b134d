"""Captures are files of strangers: whatever is wrong with one is said in a line, and none crashes.

What good ones say is held against QEMU in tests/test_captures.py.
"""

import base64
import gzip
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, TraceError
from kvmlab.hardware.ram import Ram
from kvmlab.workloads import capture, files
from kvmlab.workloads.captured_vm import CapturedVm, memory_of
from kvmlab.workloads.guest_tables import GuestTables

ROOT, TABLES = 0x1000, {0x1000: 4, 0x2000: 3, 0x3000: 2, 0x4000: 1}


def page(**entries):
    """A page of a table: entries by index, written as ``at_5=0x2007``."""
    words = [0] * 512
    for name, entry in entries.items():
        words[int(name.removeprefix("at_"))] = entry
    return b"".join(word.to_bytes(8, "little") for word in words)


def good(**changes):
    """A capture of one user page at 0 and one of 2 MiB for the kernel above it."""
    pages = [page(at_0=0x2007), page(at_0=0x3007), page(at_0=0x4007, at_1=0x200083)]
    pages.append(page(at_0=0x5067 | 1 << 63))
    made = {
        "guest": "made up",
        "levels": 4,
        "regs": {"CR0": "0x80010001", "CR3": "0x1000", "CR4": "0x20", "EFER": "0xd00"},
        "tables": {hex(gpa): level for gpa, level in TABLES.items()},
        "pages_zlib_b64": base64.b64encode(zlib.compress(b"".join(pages))).decode(),
        "proc": "00000000-00001000 rw-p 00000000 00:00 0 [data]\nName:\tmade\n",
        "gva2gpa": [["0x7", "0x5007"], ["0x1000", None]],
        "info_tlb": "",
        "info_mem": "",
    }
    return {key: value for key, value in (made | changes).items() if value is not ...}


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read_json(found):
        text = found if isinstance(found, bytes) else json.dumps(found).encode()
        (tmp_path / "t").write_bytes(text)
        return capture.read("t")

    return read_json


def test_a_made_up_guest_is_read_walked_and_listed(read):
    found = read(gzip.compress(json.dumps(good()).encode()))
    tables = found.running.tables
    assert found.running.name == "made"
    assert found.running.mapping_at(0xFFF).name == "[data]"
    assert found.running.mapping_at(0x1000) is None
    assert tables.walk(7)[1].address == 0x5007
    assert capture.tlb_lines(tables) == [
        "0000000000000000: 0000000000005000 X--DA--UW",
        "0000000000200000: 0000000000200000 --P-----W",
    ]
    assert found.search(0x5FFF) == [("made", 0xFFF)]
    assert found.search(0x3FFFFF) == [("made", 0x3FFFFF)]
    assert found.search(0x400000) == []


def test_the_rights_of_the_list_are_those_that_the_walk_gathers_over_all_levels(read):
    """Each of W, U and NX is refused at each level in turn; bit 7 of a PTE is PAT, not P."""
    for level in range(4):
        for refused in (1 << 1, 1 << 2, 1 << 63):
            entries = [0x2007, 0x3007, 0x4007, 0x50E7]
            entries[level] ^= refused
            pages = b"".join(page(at_0=entry) for entry in entries)
            packed = base64.b64encode(zlib.compress(pages)).decode()
            tables = read(good(pages_zlib_b64=packed)).running.tables
            (leaf,) = tables.leaves().tolist()
            assert leaf[4] == tables.walk(0)[1].rights
            assert capture.tlb_lines(tables)[0][35:38] in ("---", "X--")


def test_a_guest_is_loaded_by_any_means_of_writing(read):
    ram = Ram(1 << 20)
    read(good()).running.tables.load(ram.write)
    assert ram.load(0x3008) == 0x200083


def test_processes_share_the_pages_and_have_roots_of_their_own(read):
    others = [{"cr3": "0x1000", "proc": "Name:\tthread\n"}, {"cr3": "0x2fff", "proc": ""}]
    found = read(good(processes=others))
    assert [one.name for one in found.processes] == ["made", "thread", "process 3"]
    assert found.processes[2].tables.root == 0x2000
    found.processes.pop()
    assert found.search(0x5000) == [("made", 0), ("thread", 0)]


WRONG = [
    ({"levels": 3}, "t has tables of 3 levels; 4 or 5 can be walked"),
    ({"levels": "4"}, "t is no captured guest: its 'levels' is no int"),
    ({"levels": ...}, "t is no captured guest: its 'levels' is no int"),
    ({"regs": {"CR0": "0x1", "CR3": "0x1000", "EFER": "0x0"}}, "t lacks the register CR4"),
    ({"regs": {"CR0": 7}}, "t has '7' where a hex number belongs, in regs"),
    ({"regs": {"CR3": "0xq"}}, "t has '0xq' where a hex number belongs"),
    ({"tables": {}}, "t has 0 tables; 1 to 16,384 can be read"),
    ({"tables": {"0x1000": 4}}, "t has 4,097 bytes of pages or more; its tables take 4,096"),
    ({"tables": {hex(n): 1 for n in range(17000)}}, "t has 17,000 tables; 1 to 16,384"),
    ({"tables": dict.fromkeys(("0x1000", "0x2000", "0x3000", "0x4004"), 1)}, "a table at 0x4004"),
    ({"pages_zlib_b64": "!"}, "t has damaged pages: "),
    ({"pages_zlib_b64": "AAAA"}, "t has damaged pages: "),
    ({"pages_zlib_b64": 7}, "its 'pages_zlib_b64' is no str"),
    ({"proc": "00400800-00401000 r-xp 0 00:00 0\n"}, "t, line 1: 0x400800 to 0x401000 is no range"),
    ({"gva2gpa": [["0x1"]]}, "t has an answer that is not [gva, gpa]"),
    ({"gva2gpa": 5}, "its 'gva2gpa' is no list"),
    ({"processes": [{"cr3": "0x9000", "proc": ""}]}, "t has no table at 0x9000, where CR3 points"),
    ({"processes": [7]}, "its 'cr3' is no str"),
    ({"info_tlb": None}, "its 'info_tlb' is no str"),
]


@pytest.mark.parametrize("changes, why", WRONG)
def test_what_is_wrong_with_a_capture_is_said_in_a_line(read, changes, why):
    with pytest.raises(TraceError) as caught:
        read(good(**changes))
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text, why",
    [
        (b"{", "t is no JSON: "),
        (b"[1]", "t is no captured guest: its JSON is no object"),
        (b"[" * 100_000, "t is no JSON: nested too deeply"),
        (b"\xff\xfe", "t is no JSON: "),
        (b"", "t is empty"),
        (b'{"levels": 4e999}', "its 'levels' is no int"),
    ],
)
def test_what_is_no_capture_is_told(read, text, why):
    with pytest.raises(TraceError) as caught:
        read(text)
    assert why in str(caught.value)


def test_pages_that_expand_without_end_are_stopped(read):
    bomb = base64.b64encode(zlib.compress(bytes(64 << 20))).decode()
    with pytest.raises(TraceError, match="16,385 bytes of pages or more; its tables take 16,384"):
        read(good(pages_zlib_b64=bomb))


def test_json_that_is_too_large_is_stopped(read, monkeypatch):
    monkeypatch.setattr(capture, "MAX_JSON", 200)
    monkeypatch.setattr(files, "CHUNK", 100)
    with pytest.raises(TraceError, match="t holds more than 200 bytes of JSON"):
        read(good())


def test_a_table_that_the_file_does_not_hold_stops_the_list_but_not_the_walk(read):
    pages = page(at_0=0x2007), page(at_1=0x9007), page(), page()
    packed = base64.b64encode(zlib.compress(b"".join(pages))).decode()
    tables = read(good(pages_zlib_b64=packed)).running.tables
    assert tables.walk(1 << 30)[1].why == "absent"
    with pytest.raises(TraceError, match="refers to a level-2 table at 0x9000, not captured"):
        tables.leaves()


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("0x1000"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted(good())), value=JSONS)
@settings(max_examples=200)
def test_any_json_in_the_place_of_any_field_is_a_capture_or_one_line(tmp_path_factory, key, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(good(**{key: value})))
    try:
        said = capture.read(path).name
    except TraceError as error:
        said = str(error)
    assert said.isprintable()


def test_only_shipped_guests_have_names():
    with pytest.raises(BadChoice, match="no captured guest 'arch'; choose one of: debian"):
        capture.shipped("arch")


def test_a_captured_guest_runs_under_some_designs_only(read):
    with pytest.raises(BadChoice, match="runs under native, shadow, ept, npt, not 'agile'"):
        CapturedVm(read(good()), "agile")


def test_the_guest_s_memory_is_as_large_as_it_maps_and_has_tables(read):
    assert memory_of(read(good()).running) == 4 << 20
    far = page(at_0=0x2007), page(at_0=0x3007), page(at_0=0x83, at_1=0xFEE00083), page()
    packed = base64.b64encode(zlib.compress(b"".join(far))).decode()
    found = read(good(pages_zlib_b64=packed))
    assert memory_of(found.running) == 2 << 20  # what the APIC maps is a device's
    with pytest.raises(BadAddress, match="0x200020 is a device's, and none is here to answer"):
        CapturedVm(found).access(0x200020)


def test_a_table_beyond_all_memory_is_refused(read):
    tables = {hex(gpa + (1 << 40) * (gpa == 0x4000)): level for gpa, level in TABLES.items()}
    pages = page(), page(), page(), page()
    packed = base64.b64encode(zlib.compress(b"".join(pages))).decode()
    found = read(good(tables=tables, pages_zlib_b64=packed))
    with pytest.raises(BadSize, match="has a page table beyond 16G of memory"):
        CapturedVm(found)


def test_no_execute_binds_only_where_the_guest_has_switched_it_on(read):
    found = read(good()).running.tables
    plain = GuestTables(4, found.root, found.pages)
    assert found.leaves()["rights"].tolist() == plain.leaves()["rights"].tolist()
    off = read(good(regs=good()["regs"] | {"EFER": "0x500"})).running.tables
    assert off.leaves()["rights"][0] != found.leaves()["rights"][0]
    assert off.walk(0)[1].why == "reserved"
