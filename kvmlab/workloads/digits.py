"""Numbers written in text, thousands at a time.

Eight characters are one 64-bit word, so hex digits are judged and packed eight at a time with a
few operations on whole arrays of words: each byte of a word is a lane of its own.
"""

import numpy as np
from numpy.typing import NDArray

PAD = 32  # zero bytes before and after: whatever is looked for near a line lies within
_LANES = 0x0101_0101_0101_0101
# Of a word whose last n characters are wanted: the mask of those, and zeros for the others.
_WANTED = np.frombuffer(b"".join(bytes(8 - n) + b"\xff" * n for n in range(9)), "<u8")
_ZEROS = ~_WANTED & np.uint64(0x30 * _LANES)

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


class Text:
    """Bytes of text, to be looked at from positions that start at `PAD`."""

    def __init__(self, text: bytes) -> None:
        padded = bytes(PAD) + text + bytes(PAD)
        self.bytes = np.frombuffer(padded, np.uint8)
        # The eight bytes from each position on, as one number: views of the same memory.
        self.words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))

    def lines(self) -> tuple[Ints, Ints]:
        """Where each line begins, and where its newline is; text ends with a newline."""
        ends = np.flatnonzero(self.bytes == ord("\n"))
        starts = np.empty_like(ends)
        starts[:1], starts[1:] = PAD, ends[:-1] + 1
        return starts, ends

    def has(self, positions: Ints, character: str) -> NDArray[np.bool_]:
        """For each position, whether this ASCII character stands there."""
        found: NDArray[np.bool_] = self.bytes.take(positions) == ord(character)
        return found


def hexadecimal(text: Text, ends: Ints, lengths: Ints) -> tuple[Words, NDArray[np.bool_]]:
    """The numbers of so many hex digits each that end before ``ends``; which of them are such.

    Those of no digit, or of more than 16, are not.
    """
    good = (lengths >= 1) & (lengths <= 16)
    values, fine = _eight(text.words[ends - 8], np.clip(lengths, 0, 8))
    good &= fine
    more = np.flatnonzero(good & (lengths > 8))
    if len(more):
        high, fine = _eight(text.words[ends.take(more) - 16], lengths.take(more) - 8)
        values[more] |= high << np.uint64(32)
        good[more] &= fine
    return values, good


def decimal(text: Text, starts: Ints, lengths: Ints) -> tuple[Words, NDArray[np.bool_]]:
    """The numbers of so many decimal digits each from ``starts`` on; which of them are such.

    Those of no digit, or of more than 18, are not.
    """
    good = (lengths >= 1) & (lengths <= 18)
    digits = text.bytes.take(starts) - np.uint8(ord("0"))
    good &= digits <= 9
    values = digits.astype(np.uint64)
    rows = np.flatnonzero(good & (lengths > 1))
    place = 1
    while len(rows):
        digits = text.bytes.take(starts.take(rows) + place) - np.uint8(ord("0"))
        good[rows] &= digits <= 9
        values[rows] = values.take(rows) * np.uint64(10) + digits
        place += 1
        rows = rows.compress(lengths.take(rows) > place)
    return values, good


def _eight(words: Words, lengths: Ints) -> tuple[Words, NDArray[np.bool_]]:
    """Up to eight hex digits, the last ``lengths`` characters of each word, as numbers."""
    words = words & _WANTED.take(lengths) | _ZEROS.take(lengths)
    small = words | np.uint64(0x20 * _LANES)  # A to F become a to f; digits have this bit already
    letter = small >> np.uint64(6) & np.uint64(_LANES)
    value = (small & np.uint64(0x0F * _LANES)) + letter * np.uint64(9)
    beyond = value + np.uint64(6 * _LANES) >> np.uint64(4) & np.uint64(_LANES)  # more than 9
    again = value + np.uint64(0x30 * _LANES) + beyond * np.uint64(ord("a") - ord("9") - 1)
    wrong = again ^ small | value & np.uint64(0xF0 * _LANES)
    wrong |= (words ^ small) & ~(letter << np.uint64(5))  # only letters may lack that bit
    packed = value.byteswap()  # the first character is the most significant digit
    packed = (packed | packed >> np.uint64(4)) & np.uint64(0x00FF_00FF_00FF_00FF)
    packed = (packed | packed >> np.uint64(8)) & np.uint64(0x0000_FFFF_0000_FFFF)
    return (packed | packed >> np.uint64(16)) & np.uint64(0xFFFF_FFFF), wrong == 0
