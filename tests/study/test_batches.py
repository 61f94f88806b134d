"""A program replayed in batches is the same program: counts, TLB and memory as access by access."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.hardware import batch_quiet
from kvmlab.hardware.records import Kind
from kvmlab.hardware.tlb import SKYLAKE, TINY, UNIFIED, ZEN4, ArrayShape
from kvmlab.machine import Machine
from kvmlab.study import batches
from kvmlab.study.counters import Counters
from kvmlab.study.replay import Accesses, areas, replay

NARROW = replace(TINY, name="narrow", data=(ArrayShape(4, 1, (12,)),), walk_caches=(), nested=None)
SIDES = replace(NARROW, name="sides", fetch=(ArrayShape(2, 1, (12, 21)),))
GEOMETRIES = [UNIFIED, SKYLAKE, ZEN4, TINY, NARROW, SIDES]

BASES = (0x40_0000, 0x7FFF_0000_0000)
PIECES = st.lists(
    st.tuples(
        st.sampled_from(BASES),
        st.integers(0, 40),  # page
        st.sampled_from([int(kind) for kind in Kind]),
        st.integers(1, 9),  # how often
        st.integers(1, 3),  # with how many pages in turn
    ),
    min_size=1,
    max_size=25,
)


def program(pieces, turns):
    """Accesses as programs make them: a page again and again, or a few in turn."""
    made = [
        (base + (page + step % width << 12), kind if step % 3 else int(Kind.READ))
        for _ in range(turns)
        for base, page, kind, times, width in pieces
        for step in range(times)
    ]
    addresses, kinds = zip(*made, strict=True)
    return Accesses(np.array(kinds, np.uint8), np.array(addresses, np.uint64))


def machine(mmu, geometry, **options):
    counters = Counters()
    return Machine(mmu, geometry=geometry, tap=counters, **options), counters


def one_by_one(target, what, page):
    process = target.guest.spawn("replayed")
    for area in areas(what, 1 << 21 if page == "2M" else 1 << 12):
        process.mmap(area.start, area.length, write=area.write, execute=area.execute, page=page)
    target.guest.switch(process)
    for kind, gva in zip(what.kinds.tolist(), what.addresses.tolist(), strict=True):
        target.guest.touch(gva, Kind(kind))


def held(target):
    """Every set of the TLB, in its order of use."""
    return [list(ways.items()) for array in target.cpu.tlb.arrays() for ways in array.sets]


def check(mmu, geometry, what, page="4K", **options):
    (fast, told), (slow, counted) = (machine(mmu, geometry, **options) for _ in range(2))
    list(replay(fast, what, page))
    one_by_one(slow, what, page)
    assert (told.program, told.kernel) == (counted.program, counted.kernel)
    assert held(fast) == held(slow)
    assert fast.ram.image() == slow.ram.image()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda one: one.name)
@pytest.mark.parametrize("mmu", ["native", "shadow", "ept"])
@settings(max_examples=4)
@given(pieces=PIECES, turns=st.integers(1, 4))
def test_batches_change_nothing(mmu, geometry, pieces, turns):
    check(mmu, geometry, program(pieces, turns))


@pytest.mark.parametrize("geometry", [UNIFIED, SKYLAKE, SIDES], ids=lambda one: one.name)
@settings(max_examples=4)
@given(pieces=PIECES, turns=st.integers(1, 3))
def test_nor_with_large_pages(geometry, pieces, turns):
    check("ept", geometry, program(pieces, turns), "2M", host_page="2M")


BUSY = [UNIFIED, NARROW, SIDES]


@pytest.mark.parametrize("geometry", [*BUSY, SKYLAKE], ids=lambda one: one.name)
@pytest.mark.parametrize("mmu", ["native", "shadow", "ept", "npt"])
def test_nor_where_most_accesses_miss(mmu, geometry, monkeypatch):
    """Some pages are touched late, so that quiet stretches end in a fault."""
    monkeypatch.setattr(batches, "_LEAST", 20)
    stretches = []
    monkeypatch.setattr(batches, "make_quietly", counting(stretches))
    rng = np.random.default_rng(3)
    pages = rng.integers(0, 40 + np.arange(6000) // 100)
    kinds = rng.choice([1, 2, 4], 6000, p=(0.7, 0.2, 0.1)).astype(np.uint8)
    gva = 0x40_0000 + (pages << 12) + rng.integers(0, 4096, 6000)
    check(mmu, geometry, Accesses(kinds, gva.astype(np.uint64)))
    assert any(stretches) == (geometry in BUSY)


def counting(stretches):
    def make(*args):
        stretches.append(batch_quiet.make_quietly(*args))
        return stretches[-1]

    return make


@given(pieces=PIECES)
def test_what_is_left_out_repeats_page_and_kind_in_its_set(pieces):
    what = program(pieces, 2)
    pages = what.addresses.view(np.int64) >> 12
    kept = set(batches.events(pages, what.kinds, 16, 0).tolist())
    last, seen = {}, {}
    for n, (page, kind) in enumerate(zip(pages.tolist(), what.kinds.tolist(), strict=True)):
        own = page & 15
        if last.get(own) != page:
            last[own], seen[own] = page, set()
        assert (n not in kept) == (kind in seen[own])
        seen[own].add(kind)
