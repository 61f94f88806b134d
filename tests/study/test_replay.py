"""A trace becomes mappings and accesses; nothing of it is lost and nothing is added."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.hardware.records import Kind, TlbLookup
from kvmlab.machine import Machine
from kvmlab.study import replay as replay_module
from kvmlab.study.compare import study
from kvmlab.study.replay import (
    LEAST_GUEST_MEMORY,
    Area,
    accesses,
    areas,
    guest_memory_for,
    replay,
)
from kvmlab.workloads import Trace, shipped

READ, WRITE, FETCH = Kind


def trace(*records):
    kinds, addresses, sizes = zip(*records, strict=True) if records else ((), (), ())
    return Trace(
        "made",
        np.array(kinds, np.uint8),
        np.array(addresses, np.uint64),
        np.array(sizes, np.uint16),
    )


def made(what):
    return list(zip(what.kinds.tolist(), what.addresses.tolist(), strict=True))


def test_an_access_within_a_page_is_one():
    assert made(accesses(trace((READ, 0x1FF8, 8)))) == [(READ, 0x1FF8)]


def test_an_access_that_crosses_a_page_is_two_of_its_kind():
    what = accesses(trace((READ, 0x1000, 4), (WRITE, 0x1FFC, 8), (FETCH, 0x5000, 1)))
    assert made(what) == [(READ, 0x1000), (WRITE, 0x1FFC), (WRITE, 0x2000), (FETCH, 0x5000)]


def test_no_records_are_no_accesses():
    assert len(accesses(trace())) == 0


def test_neighbours_of_equal_rights_are_one_mapping():
    what = accesses(trace((WRITE, 0x3000, 4), (READ, 0x1000, 4), (READ, 0x2000, 4)))
    assert areas(what) == [
        Area(0x1000, 0x2000, write=False, execute=False),
        Area(0x3000, 0x1000, write=True, execute=False),
    ]


def test_a_gap_parts_two_mappings():
    what = accesses(trace((READ, 0x1000, 4), (READ, 0x3000, 4)))
    assert [area.start for area in areas(what)] == [0x1000, 0x3000]


def test_a_page_allows_all_that_was_done_in_it():
    what = accesses(trace((FETCH, 0x1000, 4), (READ, 0x1004, 4), (WRITE, 0x1008, 8)))
    assert areas(what) == [Area(0x1000, 0x1000, write=True, execute=True)]


def test_large_pages_make_large_mappings():
    what = accesses(trace((READ, 0x1000, 4), (WRITE, 0x1FFFFC, 8)))
    assert areas(what, 2 << 20) == [Area(0, 4 << 20, write=True, execute=False)]


RECORDS = st.tuples(
    st.sampled_from(Kind), st.integers(0, 40 << 12), st.sampled_from((1, 2, 4, 8, 32))
)


@given(st.lists(RECORDS, min_size=1, max_size=60))
def test_mappings_allow_every_access_and_do_not_touch(records):
    what = accesses(trace(*records))
    found = areas(what)
    for kind, gva in made(what):
        (home,) = [area for area in found if area.start <= gva < area.start + area.length]
        assert home.write or kind != WRITE
        assert home.execute or kind != FETCH
    for one, following in pairwise(found):
        meet = one.start + one.length == following.start
        assert one.start + one.length <= following.start
        assert not meet or (one.write, one.execute) != (following.write, following.execute)


def test_memory_grows_with_the_pages_touched():
    small, many = trace((READ, 0, 1)), trace(*((READ, page << 12, 1) for page in range(10_000)))
    assert guest_memory_for(accesses(small), "4K") == LEAST_GUEST_MEMORY
    assert guest_memory_for(accesses(many), "4K") == 128 << 20


@pytest.mark.parametrize("mmu", ["native", "shadow", "ept", "agile"])
def test_a_slow_machine_reports_oftener_and_counts_the_same(mmu, monkeypatch):
    one, found = shipped("ls").head(20_000), []
    for pause in (0.0, 1e9):  # no report is quick enough, or every one is
        monkeypatch.setattr(replay_module, "PAUSE", pause)
        run = study(one, mmu)
        done = list(told(run))
        found.append((len(done), done.pop()))
    assert found[0][1] == found[1][1]
    assert found[0][0] > found[1][0] or mmu == "agile"


def told(run):
    """What a study yields, and in the end what it returns."""
    yield (yield from run)


@pytest.mark.parametrize("mmu", ["native", "shadow", "ept"])
def test_every_access_is_made_in_order_by_the_program(mmu):
    records = []
    machine = Machine(mmu, tap=records.append)
    what = accesses(trace((FETCH, 0x400000, 4), (WRITE, 0x7FFC, 8), (READ, 0x400FF8, 8)))
    run = replay(machine, what)
    assert next(run) == 0
    records.clear()
    assert list(run) == [4]
    program = [(r.kind, r.gva) for r in records if isinstance(r, TlbLookup) and r.user]
    assert list(dict.fromkeys(program)) == made(what)  # less the retries after faults
