"""A quiet stretch: where each access is found, what its walk reads, and all caches afterwards."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.hardware.batch_quiet import make_quietly, stretch
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR4_PKE, CR4_PKS
from kvmlab.hardware.records import (
    Kind,
    NestedTlbLookup,
    NestedTlbLookups,
    Step,
    Steps,
    TlbLookup,
    TlbLookups,
    WalkCacheLookup,
    WalkCacheLookups,
)
from kvmlab.hardware.tlb import ALL_SIZES, TINY, UNIFIED, ArrayShape, Geometry
from tests.bench import data
from tests.tables_shared import HOST_FRAMES, MODES, shared

SMALL = Geometry(
    "small",
    data=(ArrayShape(4, 2, (12,)), ArrayShape(2, 2, (21, 22))),  # 1 GiB has only the second level
    fetch=(ArrayShape(2, 1, ALL_SIZES),),
    second=(ArrayShape(8, 4, ALL_SIZES),),
    walk_caches=((2, 2), (3, 2), (4, 1), (5, 1)),
    nested=ArrayShape(4, 2, ALL_SIZES),
)
NO_CACHES = replace(TINY, name="no caches", walk_caches=(), nested=None)
GEOMETRIES = (UNIFIED, TINY, SMALL, NO_CACHES)
KINDS = [int(kind) for kind in Kind]
WHERE = ("miss", "L1", "L2")
EXAMPLES = settings(max_examples=int(os.environ.get("KVMLAB_CASES", "8")))


class Told:
    """What a CPU says, as one row for each access, and as totals."""

    def __init__(self):
        self.rows, self.totals, self.read = [], Counter(), []

    def __call__(self, record):
        match record:
            case TlbLookup(where=where):
                self.rows.append([where, 0, 0, 0])
                self.totals[where] += 1
            case WalkCacheLookup(level=level):
                self.rows[-1][1] = level
                self.totals["level", level] += 1
            case NestedTlbLookup(hit=hit):
                self.rows[-1][2] += 1
                self.rows[-1][3] += hit
                self.totals["nested", hit] += 1
            case Step(table=table, level=level):
                self.totals[table, level] += 1
                self.read.append((len(self.rows) - 1, table, level))
            case TlbLookups(where=where, count=count):
                self.totals[where] += count
            case WalkCacheLookups(level=level, count=count):
                self.totals["level", level] += count
            case NestedTlbLookups(hit=hit, count=count):
                self.totals["nested", hit] += count
            case Steps(table=table, level=level, count=count):
                self.totals[table, level] += count


def cpu_of(seed, mode, second, geometry):
    """A CPU over random tables, accesses by a user or the kernel, and what the CPU tells."""
    origin, gva, kinds, _ = shared(seed, mode, second)
    origin.controls.cr4 &= ~(CR4_PKE | CR4_PKS)
    origin.refresh()
    told = Told()
    cpu = Cpu(origin.ram, origin.processor, geometry, told)
    cpu.vmcs, cpu.context = origin.vmcs, origin.context
    if cpu.vmcs is None:
        cpu.start(origin.controls)
    cpu.cpl = 0 if seed & 4 else 3
    return cpu, gva, kinds, told


def attempt_all(cpu, gva, kinds):
    return [cpu.attempt(int(one), Kind(kind)) for one, kind in zip(gva, kinds, strict=True)]


def warm(seed, mode, second, geometry):
    """A and D bits set, caches with something in them, and accesses that arrive."""
    cpu, gva, kinds, told = cpu_of(seed, mode, second, geometry)
    for _ in range(2):
        arrived = [isinstance(one, int) for one in attempt_all(cpu, gva, kinds)]
        gva, kinds = gva[arrived], kinds[arrived]
    rng = np.random.default_rng(seed)
    order = rng.integers(0, len(gva), 6 * len(gva)) if len(gva) else np.zeros(0, int)
    gva, kinds = gva[order], kinds[order]
    cpu.flush_tlb()
    before = len(order) // 6
    attempt_all(cpu, gva[:before], kinds[:before])
    if seed % 2:
        meddle(cpu, rng, seed % 4 == 3)
        kinds[before:] = rng.choice(KINDS, len(kinds) - before, p=(0.8, 0.1, 0.1))
    told.__init__()
    return cpu, gva[before:], kinds[before:], told


def meddle(cpu, rng, point_elsewhere):
    """Change tables behind the back of what is cached of them, as one who forgets to flush.

    Half of the entries get another bit 9, which means nothing but in a leaf of EPT, where it is
    D, and bit 6, where no table of EPT is: D again.  Or some point where others did.
    """
    for pfn in cpu.ram.image():
        words = cpu.ram.frame(pfn)
        used = np.flatnonzero(words)
        if point_elsewhere:
            words[rng.choice(used, 2)] = words[rng.choice(used, 2)]
        else:
            some = used[rng.random(len(used)) < 0.5]
            words[some] |= 1 << 9 | (pfn << 12 >= HOST_FRAMES[0]) << 6
            words[some[words[some] >> 32 != 0]] |= (cpu.context.width == 32) << 41
        cpu.ram.store_words(pfn << 12, words)


def cached(cpu):
    """All that is cached, each set in its order of use."""
    sets = [ways for array in cpu.tlb.arrays() for ways in array.sets]
    sets += cpu.walk_caches.held.values() if cpu.walk_caches else []
    sets += cpu.nested_tlb.array.sets if cpu.nested_tlb else []
    return [list(one.items()) for one in sets]


def check(seed, mode, second, geometry):
    """Whether there was a stretch, and it was what the scalar path makes of it."""
    cpu, gva, kinds, told = warm(seed, mode, second, geometry)
    made = stretch(cpu, gva.view(np.int64), kinds, 1)
    if made is None:
        return False
    count = len(made.where)
    slow, *accesses, said = warm(seed, mode, second, geometry)
    attempt_all(slow, *(one[:count] for one in accesses))
    rows = [[WHERE[where], 0, 0, 0] for where in made.where.tolist()]
    served = made.served
    for number, *row in zip(made.missed.tolist(), *columns(served), strict=True):
        rows[number][1:] = row
    assert rows == said.rows
    assert +reads_of(made) == Counter(said.read)
    assert cached(cpu) == cached(slow)
    assert cpu.ram.image() == slow.ram.image()
    again, gva, kinds, told = warm(seed, mode, second, geometry)
    assert len(make_quietly(again, gva.view(np.int64), kinds, 1)) == count
    assert told.totals == said.totals
    return True


def reads_of(made):
    """How often each access read an entry of a table and level."""
    return Counter(
        {
            (int(number), *entry): int(count)
            for entry, counts in made.reads().items()
            for number, count in zip(made.missed, counts, strict=True)
        }
    )


def columns(served):
    return served.start.tolist(), served.asked.tolist(), served.hits.tolist()


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda one: one.name)
@pytest.mark.parametrize("second", ["", "ept", "npt"])
@pytest.mark.parametrize("mode", MODES[1:])
@EXAMPLES
@given(seed=st.integers(0, 1 << 32))
def test_a_stretch_is_many_single_accesses(mode, second, geometry, seed):
    check(seed, mode, second, geometry)


@pytest.mark.parametrize("second", ["", "ept", "npt"])
@pytest.mark.parametrize("mode", MODES[1:])
def test_most_tables_have_a_stretch(mode, second):
    """So that the test above has something to say."""
    made = [check(seed, mode, second, SMALL) for seed in range(16)]
    assert any(made) or (mode, second) == ("pae", "npt")  # there no page of theirs is reached


PAGES = np.arange(6) << 9 | np.arange(6) << 18  # a table of each level for each
READ, FETCH = int(Kind.READ), int(Kind.FETCH)


def regular(made):
    """A CPU over tables that allow all, after reads of the pages ``made``; A bits are set."""
    told, origin = Told(), data.build(PAGES, nested=False, flawed=False)
    cpu = Cpu(origin.ram, origin.processor, SMALL, told)
    cpu.start(origin.controls)
    cpu.cpl = 3
    attempt_all(cpu, PAGES << 12, [READ] * len(PAGES))
    cpu.flush_tlb()
    attempt_all(cpu, PAGES[made] << 12, [READ] * len(made))
    return cpu, told


def leaf_of(cpu, page):
    """Where the leaf entry of a page lies."""
    table = cpu.context.root
    for shift in (27, 18, 9):
        table = cpu.ram.load(table + 8 * (page >> shift & 511)) & ~0xFFF & (1 << 52) - 1
    return table + 8 * (page & 511)


def test_what_is_stale_in_one_array_and_fresh_in_another_stays_so():
    """Data keep a translation that the second level lost, and that a fetch then walks for."""
    twins = []
    for _ in range(2):
        cpu, told = regular([0])
        leaf = leaf_of(cpu, 0)
        cpu.ram.store(leaf, cpu.ram.load(leaf) | 1 << 9)
        told.__init__()
        twins.append((cpu, told))
    (fast, _), (slow, said) = twins
    pages = np.array([0, *PAGES[1:], 0])
    kinds = np.full(len(pages), FETCH, np.uint8)
    kinds[0] = READ
    made = stretch(fast, pages << 12, kinds, 1)
    attempt_all(slow, pages << 12, kinds)
    assert [WHERE[one] for one in made.where] == [row[0] for row in said.rows]
    assert cached(fast) == cached(slow)
    data_side, second = slow.tlb.arrays()[0], slow.tlb.arrays()[-1]
    for array, version in ((data_side, 0), (second, 1 << 9)):
        (entry,) = [one for ways in array.sets for one in ways.values() if one.vpn == 0]
        assert entry.leaf & 1 << 9 == version


def test_a_walk_that_would_begin_at_a_stale_upper_entry_is_for_the_scalar_path():
    cpu, _ = regular([0, 1])
    kinds = np.full(2, READ, np.uint8)
    assert stretch(cpu, PAGES[:2] << 12, kinds, 1) is not None
    table = leaf_of(cpu, PAGES[0]) & ~0xFFF
    cpu.tlb.drop()
    for level in cpu.walk_caches.held.values():
        for upper in level.values():
            upper.base += 0x1000 * (upper.base == table)
    assert stretch(cpu, PAGES[:2] << 12, kinds, 1) is None
    assert stretch(cpu, PAGES[1:2] << 12, kinds[:1], 1) is not None  # which is not concerned
