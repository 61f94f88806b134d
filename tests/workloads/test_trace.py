"""What a `Trace` guarantees to whoever replays it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadSize, TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads.trace import MAX_SIZE, USER_END, Trace, acceptable, refusal

EDGES = (0, 1, 4095, USER_END - MAX_SIZE, USER_END - 1, USER_END, (1 << 64) - USER_END, 1 << 63)
ADDRESSES = st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1) | st.integers(0, USER_END)
SIZES = st.sampled_from([0, 1, 8, MAX_SIZE, MAX_SIZE + 1, 10**18 - 1]) | st.integers(0, 5000)


def trace(*rows):
    kinds, addresses, sizes = zip(*rows, strict=True) if rows else ((), (), ())
    return Trace(
        "made",
        np.array(kinds, np.uint8),
        np.array(addresses, np.uint64),
        np.array(sizes, np.uint16),
    )


ROWS = [(Kind.FETCH, 0x401000, 4), (Kind.WRITE, 0x7FFC, 8), (Kind.READ, 0x7FF0, 8)]


def test_length_is_the_number_of_records():
    assert len(trace(*ROWS)) == 3
    assert len(trace()) == 0


def test_repr_is_short_and_names_the_trace():
    assert repr(trace(*ROWS)) == "<Trace made: 3 records>"


def test_arrays_cannot_be_written_through_a_trace():
    made = trace(*ROWS)
    for column in (made.kinds, made.addresses, made.sizes, made.head(2).kinds):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_making_a_trace_leaves_the_callers_arrays_writable():
    kinds = np.array([1], np.uint8)
    Trace("made", kinds, np.array([0], np.uint64), np.array([1], np.uint16))
    kinds[0] = 2


@pytest.mark.parametrize("count, length", [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_head_takes_the_first_records_or_all(count, length):
    head = trace(*ROWS).head(count)
    assert head.addresses.tolist() == [address for _, address, _ in ROWS[:length]]
    assert (head.name, len(head)) == ("made", length)


def test_head_refuses_a_negative_count():
    with pytest.raises(BadSize, match="-1 records"):
        trace(*ROWS).head(-1)


def test_pages_are_distinct_and_rising_and_count_both_sides_of_a_crossing():
    assert trace(*ROWS).pages().tolist() == [0x7, 0x8, 0x401]
    assert trace((Kind.READ, USER_END - 1, 1)).pages().tolist() == [(USER_END >> 12) - 1]
    assert trace().pages().tolist() == []


def test_an_array_of_another_type_is_refused():
    with pytest.raises(TraceError, match="addresses has type int64"):
        Trace("made", np.array([1], np.uint8), np.array([0], np.int64), np.array([1], np.uint16))


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(TraceError, match=r"sizes has .* shape \(2,\)"):
        Trace("made", np.array([1], np.uint8), np.array([0], np.uint64), np.ones(2, np.uint16))


def test_a_two_dimensional_array_is_refused():
    with pytest.raises(TraceError, match="kinds"):
        Trace("made", np.ones((1, 1), np.uint8), np.zeros(1, np.uint64), np.ones(1, np.uint16))


@pytest.mark.parametrize("kind", [0, 3, 5, 8])
def test_a_value_that_is_no_kind_is_refused(kind):
    with pytest.raises(TraceError, match=f"record 1: {kind} is no Kind"):
        trace(ROWS[0], (kind, 0, 1))


def test_the_first_impossible_row_is_named():
    with pytest.raises(TraceError, match="record 1: address 0x800000000000 is not canonical"):
        trace(ROWS[0], (Kind.READ, USER_END, 1), (Kind.READ, 0, 0))


@pytest.mark.parametrize(
    "address, size, why",
    [
        (0, 1, None),
        (USER_END - 8, 8, None),
        (USER_END - 8, 9, "9 bytes at 0x7ffffffffff8 run past the end of user space"),
        (USER_END, 1, "0x800000000000 is not canonical"),
        (0xFFFF_7FFF_FFFF_FFFF, 1, "0xffff7fffffffffff is not canonical"),
        (0xFFFF_8000_0000_0000, 1, "0xffff800000000000 is in the kernel's half"),
        ((1 << 64) - 1, 8, "0xffffffffffffffff is in the kernel's half"),
        (0, 0, "size 0 "),
        (0, MAX_SIZE, None),
        (0, MAX_SIZE + 1, "size 4097 "),
    ],
)
def test_refusal_names_what_is_wrong(address, size, why):
    found = refusal(address, size)
    assert found == why if why is None else why in found


@given(ADDRESSES, SIZES)
def test_the_rule_on_arrays_is_the_rule_on_numbers(address, size):
    good = acceptable(np.array([address], np.uint64), np.array([size], np.uint64))
    assert good.tolist() == [refusal(address, size) is None]
