"""The page table of a host process, many entries in one step: what one by one would do."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.host.page_table import ACCESSED, BLOCK, swap_entry
from tests.host.setting import HUGE, Setting

PAGE = 4096


def crowd(pages):
    """A process with these pages of its first 4 MiB, one of them in swap."""
    setting = Setting(32)
    space, start = setting.process(8)
    start = -(-start // BLOCK) * BLOCK
    for page in pages:
        setting.write(space, start + page * PAGE, page + 1)
    return setting, space, start


def entries(space, start):
    return {leaf.hva: leaf.entry for leaf in space.table.between(start, start + 2 * BLOCK)}


@given(st.sets(st.integers(0, 1023), min_size=1, max_size=12), st.data())
def test_clearing_the_a_bits_of_many_pages_tells_whose_were_set_and_touches_nothing_else(
    pages, data
):
    _setting, space, start = crowd(pages)
    used = data.draw(st.sets(st.sampled_from(sorted(pages))))
    asked = data.draw(st.permutations(sorted(pages)))[: data.draw(st.integers(1, len(pages)))]
    for page in pages - used:
        leaf = space.table.find(start + page * PAGE)
        space.table.set(leaf.address, leaf.entry & ~ACCESSED)
    before = entries(space, start)
    found = space.table.clear_accessed(np.array([start + page * PAGE for page in asked]))
    assert found.tolist() == [page in used for page in asked]
    cleared = {start + page * PAGE for page in asked}
    assert entries(space, start) == {
        hva: entry & ~ACCESSED if hva in cleared else entry for hva, entry in before.items()
    }


def test_the_small_entries_of_a_huge_page_are_those_that_a_split_puts_in_its_place():
    setting = Setting(32)
    space, start = setting.process(8)
    start = -(-start // HUGE) * HUGE
    space.advise_huge(start, wanted=True)
    setting.write(space, start, 5)
    leaf = space.table.find(start)
    assert leaf.level == 2
    whole = space.table.as_small(start, start + HUGE)
    some = space.table.as_small(start + 7 * PAGE, start + 9 * PAGE)
    space.split_entry(leaf)
    found = [one.entry for one in space.table.between(start, start + HUGE)]
    assert whole.tolist() == found == space.table.as_small(start, start + HUGE).tolist()
    assert some.tolist() == found[7:9]


def test_where_nothing_is_the_small_entries_are_empty():
    _setting, space, start = crowd([3])
    space.table.set(space.table.find(start + 3 * PAGE).address, swap_entry(9))
    assert space.table.as_small(start, start + 5 * PAGE).tolist() == [0, 0, 0, swap_entry(9), 0]
    assert not space.table.as_small(start + BLOCK, start + 2 * BLOCK).any()
    assert len(space.table.as_small(start + BLOCK, start + BLOCK + 3 * PAGE)) == 3


@given(st.sets(st.integers(0, 1023), max_size=20), st.integers(0, 1023), st.integers(1, 1024))
def test_the_entries_between_two_addresses_are_those_that_a_look_at_each_page_finds(
    pages, first, count
):
    _setting, space, start = crowd(pages)
    here, end = start + first * PAGE, start + min(first + count, 1024) * PAGE
    looked = [space.table.find(hva) for hva in range(here, end, PAGE)]
    assert list(space.table.between(here, end)) == [leaf for leaf in looked if leaf]
