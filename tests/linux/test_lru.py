"""The LRU lists against plain Python lists, and runs of neighbours against a count."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.linux.frames import NOWHERE, Frames, Role, runs
from kvmlab.linux.lru import Lists, Lru

PAGES = 40
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "tail"]),
        st.sampled_from(list(Lru)),
        st.lists(st.integers(1, PAGES), min_size=1, max_size=12, unique=True),
    ),
    max_size=40,
)


@given(DEEDS)
def test_the_tail_gives_the_oldest_first_whatever_came_and_went(deeds):
    frames = Frames(PAGES + 1)
    frames.take_pages(np.arange(1, PAGES + 1), Role.ANON)
    lists, model = Lists(frames), {lru: [] for lru in Lru}
    for deed, lru, pages in deeds:
        if deed == "add":
            fresh = [one for one in pages if frames.lru[one] == NOWHERE]
            lists.add(np.array(fresh, np.int64), lru)
            model[lru] += fresh
        elif deed == "remove":
            lists.remove(np.array(pages))
            model = {one: [x for x in held if x not in pages] for one, held in model.items()}
        else:
            count = len(pages)
            assert lists.tail(lru, count).tolist() == model[lru][:count]
            model[lru] = model[lru][count:]
        assert lists.size == [len(model[one]) for one in Lru]
        assert [lists.pages(one).tolist() for one in Lru] == list(model.values())


def test_a_huge_page_counts_as_many_frames_as_it_has():
    frames = Frames(2048)
    frames.take(512, 9, Role.ANON)
    frames.take(1, 0, Role.ANON)
    lists = Lists(frames)
    lists.add(np.array([512, 1]), Lru.INACTIVE_ANON)
    assert lists.size[Lru.INACTIVE_ANON] == 513
    assert lists.tail(Lru.INACTIVE_ANON, 1).tolist() == [512]
    assert lists.size[Lru.INACTIVE_ANON] == 1


@given(st.lists(st.integers(0, 60)))
def test_runs_are_all_numbers_once_as_neighbours_in_order(numbers):
    found = list(runs(np.array(numbers, np.int64)))
    assert [n for first, count in found for n in range(first, first + count)] == sorted(
        set(numbers)
    )
    ends = [first + count for first, count in found]
    assert all(end < first for end, (first, _) in zip(ends, found[1:], strict=False))
