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
    """All that is cached, every set in its order of use."""
    cpu = target.cpu
    sets = [ways for array in cpu.tlb.arrays() for ways in array.sets]
    sets += cpu.walk_caches.held.values() if cpu.walk_caches else []
    sets += cpu.nested_tlb.array.sets if cpu.nested_tlb else []
    return [list(ways.items()) for ways in sets]


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


BUSY = [("ept", one) for one in GEOMETRIES]
BUSY += [(mmu, one) for mmu in ("native", "shadow", "npt") for one in (TINY, SIDES)]


@pytest.mark.parametrize("mmu, geometry", BUSY)
def test_nor_where_most_accesses_miss(mmu, geometry, monkeypatch):
    check_busy(monkeypatch, mmu, geometry)


@pytest.mark.parametrize(
    "mmu, levels", [(mmu, n) for mmu in ("native", "ept") for n in (2, 3, 5)] + [("npt", 3)]
)
def test_nor_in_other_paging_modes(mmu, levels, monkeypatch):
    check_busy(monkeypatch, mmu, TINY, guest_levels=levels)


@pytest.mark.parametrize("guest, host", [("2M", "2M"), ("2M", "4K"), ("4K", "2M")])
def test_nor_where_pages_are_large_and_many(guest, host, monkeypatch):
    sizes = {"guest_memory": "256M", "host_memory": "1G"}
    check_busy(monkeypatch, "ept", TINY, guest, host_page=host, **sizes)


def check_busy(monkeypatch, mmu, geometry, page="4K", **options):
    """Some pages are touched late, so that quiet stretches end in a fault."""
    monkeypatch.setattr(batches, "_LEAST", 20)
    monkeypatch.setattr(batches, "_PLANNED", 500)
    stretches = []
    monkeypatch.setattr(batches, "make_quietly", counting(stretches))
    rng, shift = np.random.default_rng(3), 21 if page == "2M" else 12
    pages = rng.integers(0, 40 + np.arange(2000) // 40)
    kinds = rng.choice([1, 2, 4], 2000, p=(0.7, 0.2, 0.1)).astype(np.uint8)
    gva = 0x40_0000 + (pages << shift) + rng.integers(0, 2 * 4096 if shift > 12 else 4096, 2000)
    check(mmu, geometry, Accesses(kinds, gva.astype(np.uint64)), page, **options)
    assert any(stretches)


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
