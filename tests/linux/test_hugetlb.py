"""Pools of huge pages: cases 57 and 58 of the facts, worked out of the kernel's documentation."""

import pytest

from kvmlab.base.errors import BadSize, OutOfMemory
from kvmlab.linux.frames import Role
from kvmlab.linux.hugetlb import HugetlbPool
from kvmlab.linux.meminfo import meminfo
from tests.linux.kernel import Kernel

PAGES = 1 << 18  # a GiB of frames


def pool_of(count, frames=2 * PAGES):
    kernel = Kernel(frames)
    pool = HugetlbPool(kernel.memory, 21)
    assert pool.set_nr(count) == count
    return kernel, pool


def fields(kernel, pool):
    found = meminfo(kernel.memory, [pool])
    return tuple(found[f"HugePages_{name}"] for name in ("Total", "Free", "Rsvd", "Surp"))


def use(pool, count):
    pool.reserve(count)
    return [pool.alloc() for _ in range(count)]


def test_pool_pages_are_gone_for_everyone_else_even_while_free():
    kernel, pool = pool_of(100)
    assert meminfo(kernel.memory, [pool])["MemFree"] == (2 * PAGES - 51_200) * 4
    assert meminfo(kernel.memory, [pool])["Hugetlb"] == 204_800
    assert pool.set_nr(0) == 0
    assert kernel.memory.buddy.free_frames == 2 * PAGES


def test_a_reservation_counts_as_free_but_nobody_else_gets_it():
    kernel, pool = pool_of(512)
    pool.reserve(500)
    assert fields(kernel, pool) == (512, 512, 500, 0)
    with pytest.raises(OutOfMemory, match=r"Cannot allocate memory: 13 pages of 2M .* 12 are"):
        pool.reserve(13)
    assert fields(kernel, pool) == (512, 512, 500, 0)
    pool.unreserve(500)
    pool.reserve(512)


def test_lowering_nr_below_use_turns_the_excess_into_surplus():
    """Case 57."""
    kernel, pool = pool_of(512)
    pages = use(pool, 300)
    assert pool.set_nr(200) == 200
    assert fields(kernel, pool) == (300, 0, 0, 100)
    for pfn in pages:
        pool.give_back(pfn)
    assert fields(kernel, pool) == (200, 200, 0, 0)


def test_overcommit_takes_pages_from_ordinary_memory_and_returns_them():
    """Case 58."""
    kernel, pool = pool_of(0)
    pool.overcommit = 100
    pages = use(pool, 100)
    assert fields(kernel, pool) == (100, 0, 0, 100)
    with pytest.raises(OutOfMemory):
        pool.reserve(1)
    for pfn in pages:
        pool.give_back(pfn)
    assert fields(kernel, pool) == (0, 0, 0, 0)
    assert kernel.memory.buddy.free_frames == 2 * PAGES


def test_raising_nr_turns_surplus_into_persistent_first():
    kernel, pool = pool_of(0)
    pool.overcommit = 100
    use(pool, 100)
    assert pool.set_nr(60) == 60
    assert fields(kernel, pool) == (100, 0, 0, 40)


def test_nr_may_achieve_less_than_asked_and_counts_the_failure():
    kernel = Kernel(10 * 512)
    pool = HugetlbPool(kernel.memory, 21)
    kernel.memory.alloc(Role.KERNEL)
    assert pool.set_nr(100) < 10
    assert kernel.stat["htlb_buddy_alloc_fail"] == 1
    assert kernel.stat["htlb_buddy_alloc_success"] == pool.total


def test_a_reservation_that_cannot_grow_leaves_nothing_behind():
    kernel, pool = pool_of(0, frames=8 * 512)
    pool.overcommit = 100
    with pytest.raises(OutOfMemory):
        pool.reserve(50)
    assert fields(kernel, pool) == (0, 0, 0, 0)
    assert kernel.memory.buddy.free_frames == 8 * 512


def test_a_gigabyte_page_demotes_to_512():
    kernel = Kernel(3 * PAGES)
    large, small = HugetlbPool(kernel.memory, 30), HugetlbPool(kernel.memory, 21)
    large.set_nr(1)
    large.demote(small)
    assert (large.total, small.total, small.free) == (0, 512, 512)
    assert small.set_nr(0) == 0
    assert kernel.memory.buddy.free_frames == 3 * PAGES
    with pytest.raises(OutOfMemory, match="no page of 1G is free"):
        large.demote(small)


def test_a_negative_pool_is_refused():
    _kernel, pool = pool_of(1)
    for write in (pool.set_nr, lambda count: setattr(pool, "overcommit", count)):
        with pytest.raises(BadSize, match="-1"):
            write(-1)
