"""The buddy allocator hands out every frame once and takes all of them back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadSize, OutOfMemory
from kvmlab.linux.buddy import MAX_ORDER, Buddy


@given(
    st.integers(0, 5000),
    st.integers(1, 5000),
    st.lists(st.tuples(st.booleans(), st.integers(0, 10)), max_size=80),
)
def test_blocks_are_aligned_and_never_overlap_and_all_come_back(first, count, moves):
    buddy, held = Buddy(first, count), []
    start = buddy.free_blocks()
    for take, number in moves:
        if take:
            try:
                pfn = buddy.alloc(number)
            except OutOfMemory:
                continue
            assert pfn % (1 << number) == 0
            held.append((pfn, number))
        elif held:
            buddy.free(*held.pop(number % len(held)))
        frames = [pfn for pfn, order in held for pfn in range(pfn, pfn + (1 << order))]
        assert len(frames) == len(set(frames))
        assert all(first <= pfn < first + count for pfn in frames)
        assert buddy.free_frames + len(frames) == count
    for pfn, order in held:
        buddy.free(pfn, order)
    assert buddy.free_blocks() == start  # merged as far as they can be


def test_lowest_frames_go_first():
    buddy = Buddy(256, 1024)
    assert [buddy.alloc() for _ in range(4)] == [256, 257, 258, 259]


def test_an_empty_allocator_says_so():
    buddy = Buddy(0, 1)
    buddy.alloc()
    with pytest.raises(OutOfMemory, match="0 frames are free"):
        buddy.alloc()
    with pytest.raises(BadSize):
        Buddy(0, 0)


def test_a_gigabyte_is_one_block():
    assert Buddy(0, 1 << 18).free_blocks()[MAX_ORDER] == 1
