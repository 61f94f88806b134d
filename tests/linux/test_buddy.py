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


def churned(count, moves):
    """An allocator from which some blocks were taken."""
    buddy = Buddy(0, count)
    held = []
    for order in moves:
        try:
            held.append((buddy.alloc(order), order))
        except OutOfMemory:
            break
    for pfn, order in held[::2]:
        buddy.free(pfn, order)
    return buddy


MOVES = st.lists(st.integers(0, 6), max_size=40)


@given(st.integers(1, 3000), MOVES, st.integers(0, 3200))
def test_many_frames_at_once_are_those_that_come_one_by_one(count, moves, wanted):
    one, many = churned(count, moves), churned(count, moves)
    expected = [one.alloc() for _ in range(min(wanted, one.free_frames))]
    assert many.alloc_frames(wanted).tolist() == expected
    assert many.free_frames == one.free_frames
    assert [list(blocks) for blocks in many._blocks] == [list(blocks) for blocks in one._blocks]


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 3000))
def test_a_run_of_frames_comes_back_as_single_ones_would(count, first, length):
    one, many = Buddy(0, count), Buddy(0, count)
    frames = sorted(one.alloc_frames(count).tolist())
    many.alloc_frames(count)
    assert frames == list(range(count))
    run = frames[first : first + length]
    for pfn in run:
        one.free(pfn)
    many.free_run(first, len(run))
    assert many.free_blocks() == one.free_blocks()
    assert many.free_frames == len(run)


def test_a_block_is_reported_until_it_is_split_or_merged():
    buddy = Buddy(0, 4096)
    assert buddy.isolate_unreported(9) is None
    assert buddy.isolate_unreported(12) == 0
    assert buddy.free_frames == 0
    buddy.put_back_reported(0, 12)
    assert buddy.isolate_unreported(12) is None
    pfn = buddy.alloc()  # splits it: all pieces are news
    assert buddy.isolate_unreported(11) == 2048
    buddy.put_back_reported(2048, 11)
    assert buddy.isolate_unreported(10) == 1024
    buddy.put_back_reported(1024, 10)
    buddy.free(pfn)  # merges with what was reported, and what was not
    assert buddy.isolate_unreported(12) == 0


def test_a_block_that_merges_when_it_comes_back_is_not_reported():
    buddy = Buddy(0, 1024)
    pfn = buddy.alloc(9)
    assert buddy.isolate_unreported(9) == 512
    buddy.free(pfn, 9)
    buddy.put_back_reported(512, 9)
    assert buddy.isolate_unreported(10) == 0
