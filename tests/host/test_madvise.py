"""Giving memory back: page by page or in runs, the same frames, tables and contents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import BadAddress
from kvmlab.base.tap import silent
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.host.records import HostTookBack, WillNeed

PAGES = 1100  # more than two tables of leaves


def process_with(backed, tap):
    host = Host(Ram(16 << 20), tap)
    space = host.process()
    start = space.mmap(PAGES << 12)
    for page in backed:
        host.ram.store(space.fault_in(start + (page << 12)).address, page + 1)
    return host, space, start


def silent_process(backed):
    return process_with(backed, silent)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, PAGES - 1), max_size=60, unique=True),
    st.lists(st.integers(0, PAGES - 1), max_size=60),
    st.integers(0, PAGES - 300),
)
def test_a_batch_leaves_what_single_calls_leave(backed, given_back, run):
    given_back = [*given_back, *range(run, run + 300)]
    records = []
    one, batch = process_with(backed, records.append), silent_process(backed)
    freed = [
        space.madvise_dontneed_each(np.array([start + (page << 12) for page in given_back]))
        for _, space, start in (one, batch)
    ]
    gone = set(backed) & set(given_back)
    assert freed == [len(gone) << 12] * 2
    took = [one for one in records if isinstance(one, HostTookBack)]
    assert sorted(record.hva - one[2] >> 12 for record in took) == sorted(gone)
    assert one[0].ram.image() == batch[0].ram.image()
    assert one[0].buddy.free_blocks() == batch[0].buddy.free_blocks()
    assert [sorted(x) for x in one[0].buddy._blocks] == [sorted(x) for x in batch[0].buddy._blocks]
    for page in backed:
        found = batch[1].translate(batch[2] + (page << 12))
        assert (found is None) == (page in gone)
        assert found is None or batch[0].ram.load(found.address) == page + 1
    for page in gone:
        assert batch[0].ram.load(batch[1].fault_in(batch[2] + (page << 12)).address) == 0


def test_notifiers_hear_of_each_page_once_and_before_it_goes():
    _, space, start = silent_process([3, 4, 9])
    told = []

    def tell(first, end):
        pages = [hva - start >> 12 for hva in range(first, end, 4096)]
        told.extend(pages)
        backed = [page for page in pages if space.translate(start + (page << 12))]
        assert backed == [page for page in pages if page in (3, 4, 9)]

    space.notifiers.append(tell)
    space.madvise_dontneed_each(np.array([start + (page << 12) for page in (4, 3, 3, 7)]))
    assert sorted(told) == [3, 4, 7]


def test_willneed_backs_nothing():
    records = []
    _, space, start = process_with([], records.append)
    space.madvise_willneed(start, 8192)
    assert records == [WillNeed(start, 8192)]
    assert space.translate(start) is None
    with pytest.raises(BadAddress, match="in no area"):
        space.madvise_willneed(start + (PAGES << 12) - 4096, 8192)
