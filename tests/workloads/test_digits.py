"""Numbers out of text by the thousand are the numbers that Python's `int` finds, or none."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.workloads.digits import PAD, Text, decimal, hexadecimal

LIKELY = b"0189afAFgG/:@`\x10\x19\x1a\x30\xb0\xc1 ,\n"
HEX = "0123456789abcdefABCDEF"
DIGITS = (st.text(HEX, max_size=12) | st.text(HEX, min_size=13, max_size=20)).map(str.encode)
SPOILT = st.builds(
    lambda word, byte, where: word[: where % 17] + bytes([byte]) + word[where % 17 :],
    *(DIGITS, st.sampled_from(LIKELY), st.integers(0, 16)),
)
WORDS = st.binary(max_size=20) | DIGITS | DIGITS.map(lambda word: word[:16]) | SPOILT


def spans(words):
    """The words one after the other, and where each begins and how long it is."""
    lengths = np.array([len(word) for word in words], np.int64)
    starts = PAD + np.cumsum(lengths) - lengths
    return Text(b"".join(words)), starts, lengths


@given(st.lists(WORDS, min_size=1, max_size=8))
def test_hex_numbers_are_those_of_int_and_what_is_none_is_told(words):
    text, starts, lengths = spans(words)
    values, good = hexadecimal(text, starts + lengths, lengths)
    expected = [bool(re.fullmatch(rb"[0-9a-fA-F]{1,16}", word)) for word in words]
    assert good.tolist() == expected
    for value, fine, word in zip(values.tolist(), expected, words, strict=True):
        assert not fine or value == int(word, 16)


@given(st.lists(WORDS, min_size=1, max_size=8))
def test_decimal_numbers_are_those_of_int_and_what_is_none_is_told(words):
    text, starts, lengths = spans(words)
    values, good = decimal(text, starts, lengths)
    expected = [bool(re.fullmatch(rb"[0-9]{1,18}", word)) for word in words]
    assert good.tolist() == expected
    for value, fine, word in zip(values.tolist(), expected, words, strict=True):
        assert not fine or value == int(word)


def test_as_many_digits_as_fit_are_taken_and_not_one_more():
    text, starts, lengths = spans([b"1" * count for count in range(24)])
    _, good = hexadecimal(text, starts + lengths, lengths)
    assert np.flatnonzero(good).tolist() == list(range(1, 17))
    _, good = decimal(text, starts, lengths)
    assert np.flatnonzero(good).tolist() == list(range(1, 19))


def test_each_of_the_256_bytes_is_a_hex_digit_exactly_when_it_is_one_of_22():
    words = [b"4" * before + bytes([byte]) + b"2" for byte in range(256) for before in (0, 6, 9)]
    text, starts, lengths = spans(words)
    _, good = hexadecimal(text, starts + lengths, lengths)
    assert good.sum() == 3 * len(HEX)


@given(st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), min_size=1))
def test_lines_are_those_of_split(lines):
    text = Text(b"".join(line + b"\n" for line in lines))
    starts, ends = text.lines()
    found = [text.bytes[start:end].tobytes() for start, end in zip(starts, ends, strict=True)]
    assert found == lines
