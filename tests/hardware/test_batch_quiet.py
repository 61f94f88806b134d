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
from tests.tables_shared import MODES, shared

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
WHERE = ("miss", "L1", "L2")
EXAMPLES = settings(max_examples=int(os.environ.get("KVMLAB_CASES", "8")))


class Told:
    """What a CPU says, as one row for each access, and as totals."""

    def __init__(self):
        self.rows, self.totals = [], Counter()

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
            case TlbLookups(where=where, count=count):
                self.totals[where] += count
            case WalkCacheLookups(level=level, count=count):
                self.totals["level", level] += count
            case NestedTlbLookups(hit=hit, count=count):
                self.totals["nested", hit] += count
            case Steps(table=table, level=level, count=count):
                self.totals[table, level] += count


def cpu_of(seed, mode, second, geometry):
    """A CPU over random tables, accesses by a user, and what the CPU tells."""
    origin, gva, kinds, _ = shared(seed, mode, second)
    origin.controls.cr4 &= ~(CR4_PKE | CR4_PKS)
    origin.refresh()
    told = Told()
    cpu = Cpu(origin.ram, origin.processor, geometry, told)
    cpu.vmcs, cpu.context = origin.vmcs, origin.context
    if cpu.vmcs is None:
        cpu.start(origin.controls)
    cpu.cpl = 3
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
        grow_old(cpu, rng)
    told.__init__()
    return cpu, gva[before:], kinds[before:], told


def grow_old(cpu, rng):
    """Half of all entries get another bit 9: what is cached of them is now older than they are.

    To the processor it means nothing, but in a leaf of EPT, where it is D.
    """
    for pfn in cpu.ram.image():
        words = cpu.ram.frame(pfn)
        some = rng.random(len(words)) < 0.5
        words |= np.where(some & (words != 0), 1 << 9, 0)
        words |= np.where(some & (words >> 32 != 0), (cpu.context.width == 32) << 41, 0)
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
    assert cached(cpu) == cached(slow)
    assert cpu.ram.image() == slow.ram.image()
    again, gva, kinds, told = warm(seed, mode, second, geometry)
    assert make_quietly(again, gva.view(np.int64), kinds, 1) == count
    assert told.totals == said.totals
    return True


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
