"""Every bit of every entry has exactly one meaning, and the walker reads the same table."""

import itertools

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.describe import describe
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import FORMATS, PS, can_be_leaf, compile_tables, format_named
from kvmlab.hardware.processor import Processor

PROCESSORS = [
    Processor(maxphyaddr=46),
    Processor(maxphyaddr=36, gigabyte_pages=False, ept_1g=False, ept_2m=False),
    Processor(maxphyaddr=52, vendor="amd", ept_execute_only=False),
    Processor(maxphyaddr=40, vendor="amd", gigabyte_pages=False),
]
SWITCHES = [
    Switches(*chosen) for chosen in itertools.product((False, True), repeat=5)
]  # NXE, PSE, keys, mode-based execute, A and D of EPT
LEVELS = [(name, level) for name, fmt in FORMATS.items() for level in range(1, fmt.levels + 1)]


def both_kinds(name, level, cpu, switches):
    """(whether it maps a page, its description) for each kind of entry that can be here."""
    fmt = format_named(name)
    yield level == 1, describe(0, name, level, cpu, switches)
    if level > 1 and can_be_leaf(fmt, level, cpu, switches):
        yield True, describe(PS, name, level, cpu, switches)


@pytest.mark.parametrize("name, level", LEVELS)
def test_fields_cover_an_entry_without_gap_or_overlap(name, level):
    for cpu, switches in itertools.product(PROCESSORS, SWITCHES):
        for _, bits in both_kinds(name, level, cpu, switches):
            next_high = 8 * format_named(name).entry_bytes - 1
            for one in bits:
                assert one.high == next_high
                assert one.high >= one.low
                next_high = one.low - 1
            assert next_high == -1


@pytest.mark.parametrize("name, level", LEVELS)
def test_the_walker_refuses_exactly_the_bits_described_as_reserved(name, level):
    for cpu, switches in itertools.product(PROCESSORS, SWITCHES):
        tables = compile_tables(format_named(name), cpu, switches)
        row = tables.rows[-level]
        assert row.level == level
        for leaf, bits in both_kinds(name, level, cpu, switches):
            described = sum(mask(one) for one in bits if one.name == "reserved")
            assert described == (row.page_reserved if leaf else row.table_reserved)


@pytest.mark.parametrize("name, level", LEVELS)
def test_the_values_together_are_the_entry(name, level):
    for entry in (0, 0x8123_4567_89AB_CDEF, 0x7EDC_BA98_7654_3290):
        wide = entry & (1 << 8 * format_named(name).entry_bytes) - 1
        bits = describe(wide, name, level)
        assert sum(one.value << one.low for one in bits) == wide
        assert all(one.meaning and one.section for one in bits)


def mask(one):
    return (1 << one.high + 1) - (1 << one.low)


def reserved(name, level, entry=0, cpu=None, **switches):
    bits = describe(entry, name, level, cpu or Processor(maxphyaddr=46), Switches(**switches))
    return {(one.high, one.low) for one in bits if one.name == "reserved"}


# By hand, from the tables of the manuals.
@pytest.mark.parametrize(
    "name, level, entry, switches, expected",
    [
        ("4-level", 1, 0, {}, {(51, 46)}),
        ("4-level", 1, 0, {"nxe": False}, {(51, 46), (63, 63)}),
        ("4-level", 2, 0, {}, {(51, 46)}),
        ("4-level", 2, PS, {}, {(51, 46), (20, 13)}),
        ("4-level", 3, PS, {}, {(51, 46), (29, 13)}),
        ("4-level", 4, 0, {}, {(51, 46), (7, 7)}),
        ("4-level", 4, PS, {}, {(51, 46), (7, 7)}),  # PS maps nothing here: it is reserved
        ("5-level", 5, 0, {}, {(51, 46), (7, 7)}),
        ("PAE", 1, 0, {}, {(62, 46)}),
        ("PAE", 2, PS, {}, {(62, 46), (20, 13)}),
        ("PAE", 3, 0, {}, {(63, 46), (8, 5), (2, 1)}),
        ("32-bit", 1, 0, {}, set()),
        ("32-bit", 2, 0, {}, set()),
        ("32-bit", 2, PS, {}, {(21, 21)}),
        ("32-bit", 2, PS, {"pse": False}, set()),
        ("EPT-4", 1, 0, {}, {(51, 46)}),
        ("EPT-4", 2, 0, {}, {(51, 46), (6, 3)}),
        ("EPT-4", 2, PS, {}, {(51, 46), (20, 12)}),
        ("EPT-4", 3, PS, {}, {(51, 46), (29, 12)}),
        ("EPT-4", 4, 0, {}, {(51, 46), (7, 3)}),
        ("EPT-5", 5, 0, {}, {(51, 46), (7, 3)}),
    ],
)
def test_reserved_bits_are_those_of_the_manual(name, level, entry, switches, expected):
    assert reserved(name, level, entry, **switches) == expected


def test_a_4_mib_page_on_a_processor_of_36_bits_reserves_bits_21_to_17():
    assert reserved("32-bit", 2, PS, Processor(maxphyaddr=36)) == {(21, 17)}


def test_without_1_gib_pages_bit_7_of_a_pdpte_is_reserved():
    small = Processor(maxphyaddr=46, gigabyte_pages=False, ept_1g=False)
    assert reserved("4-level", 3, PS, small) == {(51, 46), (7, 7)}
    assert reserved("EPT-4", 3, PS, small) == {(51, 46), (7, 3)}


@pytest.mark.parametrize("name, level", [("4-level", 4), ("5-level", 5), ("5-level", 4)])
def test_only_amd_reserves_bit_8_of_a_pml4e_and_above(name, level):
    amd = Processor(maxphyaddr=46, vendor="amd")
    assert reserved(name, level, 0, amd) == {(51, 46), (8, 7)}
    assert reserved(name, level) == {(51, 46), (7, 7)}


def named(entry, name, level, **switches):
    """The fields that are not 0, and not merely ignored."""
    bits = describe(entry, name, level, Processor(maxphyaddr=46), Switches(**switches))
    return {one.name: one.value for one in bits if one.value and one.name != "ign"}


def test_entries_read_as_by_hand():
    assert named(0x8000_0001_2345_6067, "4-level", 1) == (
        {"P": 1, "R/W": 1, "U/S": 1, "A": 1, "D": 1, "address": 0x12_3456, "XD": 1}
    )
    # 5 in bits 62:59 is a key with CR4.PKE and means nothing without
    assert named(5 << 59 | 1, "4-level", 1, keys=True) == {"P": 1, "PKEY": 5}
    assert named(5 << 59 | 1, "4-level", 1) == {"P": 1}
    # bit 7: PAT in a PTE, PS in a PDE; bit 12 of a 2 MiB page: its PAT
    assert named(0x81, "4-level", 1) == {"P": 1, "PAT": 1}
    assert named(0x20_1081, "4-level", 2) == {"P": 1, "PS": 1, "PAT": 1, "address": 1}
    # bit 6 is D in a leaf and ignored above it
    assert named(0x41, "4-level", 2) == {"P": 1}
    # bits 39:32 of a 4 MiB page lie in bits 20:13
    assert named(0xC0_2083, "32-bit", 2) == (
        {"P": 1, "R/W": 1, "PS": 1, "address-high": 1, "address": 3}
    )
    # EPT: R W X, memory type 6 in bits 5:3, IPAT, A, D
    assert named(0x1_2377, "EPT-4", 1) == (
        {"R": 1, "W": 1, "X": 1, "MT": 6, "IPAT": 1, "A": 1, "D": 1, "address": 0x12}
    )
    assert named(0x777, "EPT-4", 1, mode_based=True)["XU"] == 1
    assert named(0x300 | 1, "EPT-4", 1, accessed_dirty=False) == {"R": 1}


@pytest.mark.parametrize("name, level", [("4-level", 5), ("4-level", 0), ("32-bit", 3)])
def test_a_level_that_a_format_does_not_have_is_refused(name, level):
    with pytest.raises(BadChoice, match=rf"{name} tables have levels 1 to \d, not {level}"):
        describe(0, name, level)


def test_a_format_that_does_not_exist_is_refused():
    with pytest.raises(BadChoice, match="6-level"):
        describe(0, "6-level", 1)
