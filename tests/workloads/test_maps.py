"""Layouts from /proc/PID/maps: this very process's, made-up ones, and wrong ones."""

import ctypes
import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import TraceError
from kvmlab.workloads import maps
from kvmlab.workloads.maps import Mapping
from kvmlab.workloads.trace import USER_END

GOOD = "00400000-00401000 r-xp 00001000 00:02 7                        /bin/busy box\n"
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), max_size=12)


def as_linux(one):
    """One line as fs/proc/task_mmu.c lays it out: the name begins in column 74."""
    flags = "".join(c if yes else "-" for c, yes in zip("rwx", one[2:5], strict=True))
    text = f"{one[0]:08x}-{one[1]:08x} {flags}{'s' if one[5] else 'p'} {one[6]:08x} 08:01 77 "
    return text.ljust(73) + one[7] if one[7] else text


@st.composite
def layouts(draw):
    """Mappings that do not overlap, ascending."""
    edges = draw(st.lists(st.integers(0, USER_END >> 12), min_size=2, max_size=20, unique=True))
    edges = sorted(edges)
    flags = st.booleans()
    return [
        Mapping(
            start << 12, end << 12, *(draw(flags) for _ in range(4)),
            draw(st.integers(0, 1 << 40)) << 12, draw(NAMES.filter(str.isprintable)),
        )
        for start, end in zip(edges[::2], edges[1::2], strict=False)
    ]  # fmt: skip


def fields(one):
    return (one.start, one.end, one.read, one.write, one.execute, one.shared, one.offset, one.name)


@given(layouts())
def test_what_linux_would_print_is_read(layout):
    assert maps.parse([as_linux(fields(one)) for one in layout], "t") == layout


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no /proc")
def test_this_process_is_read_as_it_is(tmp_path):
    with mmap.mmap(-1, 3 * mmap.PAGESIZE) as area:
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        text = Path("/proc/self/maps").read_text()
    (tmp_path / "maps").write_text(text)
    found = maps.read(tmp_path / "maps")
    assert len(found) >= text.count("\n") - 1  # the vsyscall page is left out
    mine = next(one for one in found if one.start <= start < one.end)
    assert mine.rights[:2] == "rw"
    assert found == sorted(found, key=lambda one: one.start)


def test_the_vsyscall_page_is_left_out():
    vsyscall = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]"
    assert len(maps.parse([GOOD, vsyscall], "t")) == 1


@pytest.mark.parametrize(
    "line, why",
    [
        ("00401000-00402000 rwx 0 00:00 0", "'00401000-00402000 rwx 0 00:00 0' is not a mapping"),
        ("00401000 00402000 r-xp 0 00:00 0", "is not a mapping such as"),
        ("00401800-00402000 r-xp 0 00:00 0", "0x401800 to 0x402000 is no range of whole pages"),
        ("00403000-00402000 r-xp 0 00:00 0", "0x403000 to 0x402000 is no range"),
        ("00400000-00402000 r-xp 0 00:00 0", "0x400000 lies in or before the mapping that ends"),
        ("ffffffff80000000-ffffffff80001000 r-xp 0 00:00 0", "is past the end of user space"),
        ("\x1b[31m", r"'\x1b[31m' is not a mapping"),
    ],
)
def test_a_bad_line_is_named(tmp_path, monkeypatch, line, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text(GOOD + "\n" + line + "\n")
    with pytest.raises(TraceError, match=r"^t, line 3: ") as caught:
        maps.read("t")
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_without_mappings_is_refused():
    with pytest.raises(TraceError, match=r"^t holds no mappings such as"):
        maps.parse(["", " "], "t")


def test_a_layout_given_as_a_trace_is_told_apart(tmp_path):
    (tmp_path / "t").write_text(GOOD)
    with pytest.raises(TraceError, match="is a /proc/PID/maps: a layout, no trace"):
        workloads.read(tmp_path / "t")


@given(st.text(max_size=60))
def test_any_text_is_a_layout_or_one_line(text):
    try:
        said = "".join(one.rights + one.name for one in maps.parse(text.split("\n"), "t"))
    except TraceError as error:
        said = str(error)
    assert said.isprintable()
