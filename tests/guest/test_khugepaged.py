"""khugepaged in the guest: what it collapses, how fast, and what its limits hold back.

The rules are read in Linux's source and documentation; none of the numbers is measured.
"""

import pytest

from kvmlab.base.clock import SECOND, Clock
from kvmlab.guest.records import PagesCollapsed
from tests.guest.huge_guest import AREA, Guest, numbers, scarce


def small(pages, **options):
    """Pages that came one by one, and huge ones wanted from now on."""
    guest = Guest(enabled="never", **options)
    for page in pages:
        guest.kernel.store(AREA + page * 4096, page + 1)
    guest.huge.enabled = "always"
    return guest


@pytest.mark.parametrize("mmu", ["native", "ept", "shadow"])
def test_khugepaged_collapses_a_range_with_one_live_page(mmu):
    guest = small([3], mmu=mmu)
    tables = guest.kernel.table_frames
    assert guest.reclaimer.khugepaged.scan()
    assert guest.shift() == 21
    assert [(one.gva, one.filled) for one in guest.of(PagesCollapsed)] == [(AREA, 511)]
    assert guest.stat["thp_collapse_alloc"] == 1
    assert guest.read(5) == [0, 0, 0, 4, 0]
    assert guest.kernel.table_frames == tables  # the table is kept for a split
    assert guest.meminfo("AnonHugePages") == guest.meminfo("AnonPages") == 2048
    guest.process.munmap(AREA + 4096, 4096)
    assert guest.kernel.load(AREA + 3 * 4096) == 4
    guest.check()


def test_it_looks_at_4096_pages_every_10_seconds():
    guest = small(range(0, 12 * 512, 512), memory="64M", mib=26)
    clock, seen = Clock(), []
    guest.reclaimer.start(clock)
    for second in (9, 10, 20):
        clock.advance(second * SECOND)
        seen.append(guest.stat["thp_collapse_alloc"])
    assert seen == [0, 8, 12]
    guest.check()


@pytest.mark.parametrize("limit, pages, shift", [(0, 512, 21), (0, 511, 12), (1, 511, 21)])
def test_max_ptes_none_bounds_what_it_fills(limit, pages, shift):
    guest = small(range(pages))
    guest.reclaimer.khugepaged.settings.max_ptes_none = limit
    guest.reclaimer.khugepaged.scan()
    assert guest.shift() == shift
    assert guest.read(pages) == numbers(pages)
    guest.check()


@pytest.mark.parametrize("limit, shift", [(300, 12), (511, 21)])
def test_max_ptes_shared_bounds_what_it_takes_from_a_family(limit, shift):
    guest = small(range(512))
    child = guest.kernel.fork("child")
    for page in range(100):
        guest.kernel.store(AREA + page * 4096, page + 1)  # a page of its own again
    guest.reclaimer.khugepaged.settings.max_ptes_shared = limit
    guest.reclaimer.khugepaged.scan()
    assert guest.shift() == shift
    for process in (child, guest.process):
        guest.kernel.switch(process)
        assert guest.read(512) == numbers(512)
    guest.check()


@pytest.mark.parametrize("limit, shift", [(0, 12), (512, 21)])
def test_max_ptes_swap_bounds_what_it_reads_back(limit, shift):
    guest = small(range(512), memory="32M")
    for _ in range(2):
        guest.reclaimer.memory.reclaim.shrink(40, "direct")
    swapped = guest.stat["pswpout"]
    assert swapped >= 40
    for page in range(512):
        if guest.shift(AREA + page * 4096):
            guest.kernel.load(AREA + page * 4096)  # in use, else it is not worth while
    guest.machine.cpu.flush_tlb()
    guest.reclaimer.khugepaged.settings.max_ptes_swap = limit
    for page in range(512):
        if guest.shift(AREA + page * 4096):
            guest.kernel.load(AREA + page * 4096)
    guest.reclaimer.khugepaged.scan()
    assert guest.shift(AREA + 511 * 4096) == shift
    assert guest.stat["pswpin"] == (swapped if limit else 0)
    assert guest.read(512) == numbers(512)
    guest.check()


def test_without_a_free_block_it_says_so_and_waits_a_minute():
    guest = scarce(enabled="never")
    guest.fill(16)
    guest.huge.enabled = "always"
    clock = Clock()
    guest.reclaimer.khugepaged.settings.defrag = False
    guest.reclaimer.khugepaged.start(clock)
    seen = []
    for second in (10, 69, 70):
        clock.advance(second * SECOND)
        seen.append(guest.stat["thp_collapse_alloc_failed"])
    assert seen == [1, 1, 2]
    assert guest.read(16) == numbers(16)


def test_pieces_of_a_page_that_was_split_up_are_collapsed_again():
    guest = Guest()
    guest.fill(512)
    guest.process.madvise_dontneed(AREA, 4096)
    guest.reclaimer.khugepaged.scan()
    assert guest.shift() == 21
    assert guest.read(512) == [0, *numbers(511, 1)]
    assert guest.meminfo("AnonPages") == 2048  # the old page is gone as a whole
    guest.check()
