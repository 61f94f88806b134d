"""LRU by a cascade of stages: stack distances, every set's order, and the two-level TLB."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.hardware import batch_lru, batch_tlb
from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_tlb import BatchTlb
from kvmlab.hardware.tlb import (
    SKYLAKE,
    TINY,
    UNIFIED,
    ZEN4,
    ArrayShape,
    Geometry,
    Tag,
    Tlb,
    TlbEntry,
)

SMALL = Geometry(
    "small",
    data=(ArrayShape(4, 2, (12,)), ArrayShape(2, 2, (21, 22))),
    fetch=(ArrayShape(2, 1, (12, 21)),),
    second=(ArrayShape(8, 4, (12, 21)),),  # nothing for pages of 1 GiB
)
WHERE = ("miss", "L1", "L2")


class Stacks:
    """Sets as lists, the most recent tag first."""

    def __init__(self, sets, ways):
        self.ways, self.stacks = ways, [[] for _ in range(sets)]

    def refer(self, tag):
        stack = self.stacks[tag % len(self.stacks)]
        distance = stack.index(tag) if tag in stack else self.ways
        if tag in stack:
            stack.remove(tag)
        stack.insert(0, tag)
        del stack[self.ways :]
        return distance


def loops(draw_tag):
    """References as programs make them: a few tags, again and again in turn."""
    turn = st.tuples(st.lists(draw_tag, min_size=1, max_size=4), st.integers(1, 9))
    return st.lists(turn, max_size=30).map(
        lambda turns: [tag for tags, times in turns for tag in tags * times]
    )


@given(
    st.sampled_from((1, 2, 4, 8)),
    st.integers(1, 9),
    st.lists(loops(st.integers(0, 40)), min_size=1, max_size=4),
    st.sampled_from((0, 1 << 40)),
)
def test_stack_distances_and_order_are_those_of_plain_lists(sets, ways, feeds, far):
    array, naive = LruArray(sets, ways), Stacks(sets, ways)
    for feed in feeds:
        tags = [tag + far * (tag % 3 == 0) for tag in feed]  # near and far from one another
        found = array.feed(np.array(tags, np.int64))
        assert found.tolist() == [naive.refer(tag) for tag in tags]
        held = [[tag for tag in row if tag >= 0] for row in array.held.tolist()]
        assert held == naive.stacks


def test_one_pass_tells_the_hits_of_every_smaller_associativity():
    tags = np.random.default_rng(1).zipf(1.3, 5000) % 500
    distances = LruArray(16, 8).feed(tags)
    for ways in range(1, 8):
        assert ((distances < ways) == (LruArray(16, ways).feed(tags) < ways)).all()


def test_misses_alone_where_most_references_hit():
    """Far down the stack a few hits are passed over; they are no misses all the same."""
    rng, array, naive = np.random.default_rng(5), LruArray(16, 4), Stacks(16, 4)
    rare = np.where(rng.random(20_000) < 0.85, 1, rng.integers(2, 1000, 20_000))
    tags = rng.integers(0, 16, 20_000) + 16 * rare
    missed = [n for n, tag in enumerate(tags.tolist()) if naive.refer(tag) == 4]
    assert array.misses(len(tags), lambda part: tags[part]).tolist() == missed
    assert 0 < len(missed) < len(tags) / 4


def test_more_ways_than_a_byte_counts():
    tags = np.tile(np.arange(300), 2)
    assert LruArray(1, 512).feed(tags).tolist() == [512] * 300 + [299] * 300


REGIONS = {12: 0, 21: 1 << 40, 30: 2 << 40}  # each page size in a region of its own


@pytest.mark.parametrize(
    "geometry", [UNIFIED, SKYLAKE, ZEN4, TINY, SMALL], ids=lambda one: one.name
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((12, 12, 12, 21, 30)),
            st.integers(0, 70),
            st.booleans(),
            st.integers(0, 2),
        ),
        max_size=300,
    ),
    st.integers(1, 3),
)
def test_each_lookup_is_found_where_the_scalar_tlb_finds_it(geometry, asked, cut):
    tlb, expected = Tlb(geometry), []
    rows = [(REGIONS[s] + (page << s) + 0x123, s, fetch, space) for s, page, fetch, space in asked]
    for gva, shift, fetch, space in rows:
        tag = Tag(space, 0, 0)
        entry, where = tlb.lookup(gva, (tag,), fetch=fetch)
        expected.append(where)
        if entry is None:
            tlb.fill(TlbEntry(gva >> shift, 0, shift, 15, 7, 0, tag, span=shift), fetch=fetch)
    batch, found = BatchTlb(geometry), []
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    types = (np.uint64, np.uint8, np.bool_, np.int64)
    arrays = [np.array(one, kind) for one, kind in zip(columns, types, strict=True)]
    for part in np.array_split(np.arange(len(rows)), cut):
        found += batch.lookups(*(one[part] for one in arrays)).tolist()
    assert [WHERE[one] for one in found] == expected


def test_lookups_that_are_looked_at_in_parts(monkeypatch):
    """Sizes, sides and spaces of each part are its own."""
    rng = np.random.default_rng(4)
    shifts, fetch = rng.choice([12, 12, 21], 3000).astype(np.uint8), rng.random(3000) < 0.3
    columns = (rng.integers(0, 300, 3000) << 15).astype(np.uint64), shifts, fetch
    spaces = rng.integers(0, 2, 3000)
    whole = BatchTlb(SKYLAKE).lookups(*columns, spaces)
    monkeypatch.setattr(batch_tlb, "_PART", 700)
    monkeypatch.setattr(batch_lru, "_CHUNK", 64)
    monkeypatch.setattr(batch_lru, "_ENOUGH", 100)
    assert (BatchTlb(SKYLAKE).lookups(*columns, spaces) == whole).all()
    assert len(np.unique(whole)) == 3


def test_a_long_series_in_one_call_and_one_page_size():
    rng = np.random.default_rng(2)
    gva = (rng.zipf(1.2, 400_000) % 5000 << 12).astype(np.uint64)
    batch, first, second = BatchTlb(), Stacks(16, 4), Stacks(128, 12)
    expected = [
        1 if first.refer(page) < 4 else 2 * (second.refer(page) < 12)
        for page in (gva >> np.uint64(12)).tolist()
    ]
    assert batch.lookups(gva).tolist() == expected
