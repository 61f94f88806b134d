"""Sizes and addresses as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.addresses import is_canonical, parse_address, parse_size, size_text
from kvmlab.base.errors import BadAddress, BadSize


@pytest.mark.parametrize(
    "text, size",
    [
        ("4K", 4096),
        ("2M", 2 << 20),
        ("1 GiB", 1 << 30),
        ("1073741824", 1 << 30),
        (4096, 4096),
        ("64m", 64 << 20),
        ("3kB", 3 << 10),
        ("1T", 1 << 40),
        (" 16 MiB ", 16 << 20),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "4X", "-4K", "0", "0x1000", "1.5G", "4K4", 0, -1, None])
def test_other_sizes_are_refused_in_one_line(text):
    with pytest.raises(BadSize) as refused:
        parse_size(text)
    assert "\n" not in str(refused.value)


@given(st.integers(1, 1 << 50))
def test_a_size_survives_being_written_and_read(size):
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize(
    "text, address",
    [("0x7f1234567000", 0x7F1234567000), ("7F12_3456_7000", 0x7F1234567000), ("0", 0), (5, 5)],
)
def test_addresses_are_hex_with_or_without_prefix(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "0x", "xyz", "-1", "0x1" + "0" * 16, "1 2", -1, 1 << 64, True]
)
def test_other_addresses_are_refused_in_one_line(text):
    with pytest.raises(BadAddress) as refused:
        parse_address(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 160


@pytest.mark.parametrize("width", [48, 57])
def test_an_address_is_canonical_iff_it_is_the_sign_extension_of_its_low_bits(width):
    top = 1 << width - 1
    for address in (0, top - 1, (1 << 64) - top, (1 << 64) - 1):
        assert is_canonical(address, width)
    for address in (top, (1 << 64) - top - 1, 1 << 63):
        assert not is_canonical(address, width)
