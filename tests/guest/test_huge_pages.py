"""Transparent huge pages in the guest: at a fault, split, shared by fork, swapped.

The rules are read in Linux's source and documentation; none of the numbers is measured.
"""

import pytest

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, SegmentationFault
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.records import DemandFault, EntrySplit, PageCopied, PageReused
from kvmlab.hardware.records import Data, Kind, TlbFlush
from kvmlab.machine import Machine
from tests.guest.huge_guest import AREA, HUGE, MIB, Guest, numbers, scarce

# -- at a fault -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "enabled, advice, shift",
    [
        ("always", None, 21),
        ("madvise", None, 12),
        ("madvise", True, 21),
        ("never", True, 12),
        ("always", False, 12),
    ],
)
def test_who_gets_huge_pages(enabled, advice, shift):
    guest = Guest(enabled=enabled)
    if advice is not None:
        guest.process.advise_huge(AREA, wanted=advice)
    guest.kernel.store(AREA + 0x5000, 7)
    assert guest.shift(AREA + 0x5000) == shift
    assert [one.shift for one in guest.of(DemandFault)] == [shift]
    guest.check()


def test_one_fault_instead_of_512_and_linux_counts_it():
    guest = Guest()
    guest.fill(512)
    assert (len(guest.of(DemandFault)), guest.stat["pgfault"]) == (1, 1)
    assert guest.stat["thp_fault_alloc"] == 1
    assert guest.meminfo("AnonHugePages") == guest.meminfo("AnonPages") == 2048
    assert guest.read(512) == numbers(512)
    guest.check()


def test_as_shipped_only_what_was_advised_gets_huge_pages():
    machine = Machine("native", guest_memory="16M")
    reclaimer = Reclaimer(machine.guest)
    assert (reclaimer.huge.enabled, reclaimer.huge.defrag) == ("madvise", "madvise")
    settings = reclaimer.khugepaged.settings
    assert (settings.pages_to_scan, settings.max_ptes_none) == (4096, 511)
    assert (settings.scan_sleep_millisecs, settings.alloc_sleep_millisecs) == (10_000, 60_000)
    assert (settings.max_ptes_swap, settings.max_ptes_shared) == (64, 256)


def test_the_range_must_be_aligned_lie_in_the_mapping_and_be_empty():
    guest = Guest(mib=5, at=AREA + MIB)
    start, end = AREA + MIB, AREA + 6 * MIB
    guest.kernel.store(start, 1)
    guest.kernel.store(AREA + HUGE, 2)
    assert (guest.shift(start), guest.shift(AREA + HUGE)) == (12, 21)
    guest.process.advise_huge(start, wanted=False)
    guest.kernel.store(AREA + 2 * HUGE + 0x3000, 3)
    guest.process.advise_huge(start, wanted=True)
    guest.kernel.store(AREA + 2 * HUGE, 4)
    assert guest.shift(AREA + 2 * HUGE) == 12  # a small page was there
    assert end % HUGE == 0
    guest.check()


def test_paging_with_4_mib_pages_has_no_huge_pages():
    guest = Guest(guest_levels=2)
    guest.kernel.store(AREA, 1)
    assert guest.shift() == 12
    guest.check()


@pytest.mark.parametrize("levels", [3, 5])
def test_other_formats_have_them_too(levels):
    guest = Guest("shadow", guest_levels=levels)
    guest.fill(512)
    guest.process.munmap(AREA + 0x3000, 4096)
    assert guest.read(3) == [1, 2, 3]
    assert guest.read(508, 4) == numbers(508, 4)
    guest.check()


def test_what_is_mapped_at_once_is_huge_where_it_can_be():
    guest = Guest(mib=1)
    guest.process.mmap(AREA + 2 * HUGE, "5M", populate=True)
    assert [one.shift for one in guest.of(DemandFault)] == [21, 21] + [12] * 256
    guest.check()


def test_without_a_free_block_small_pages_do():
    guest = scarce()
    guest.fill(2)
    assert guest.shift() == 12
    assert guest.stat["thp_fault_fallback"] == 1
    guest.kernel.frames.give_back(guest.kept)
    guest.check()


@pytest.mark.parametrize(
    "defrag, advised, stalls, wakes",
    [
        ("always", False, 1, 0),
        ("madvise", False, 0, 0),
        ("madvise", True, 1, 0),
        ("defer+madvise", True, 1, 0),
        ("defer+madvise", False, 0, 1),
        ("defer", True, 0, 1),
        ("never", True, 0, 0),
    ],
)
def test_defrag_says_who_reclaims_for_a_block(defrag, advised, stalls, wakes):
    guest = scarce()
    woken = []
    guest.huge.defrag = defrag
    if advised:
        guest.process.advise_huge(AREA, wanted=True)
    guest.reclaimer.memory.wake_kswapd = lambda: woken.append(1)
    before = guest.stat["allocstall"]
    guest.kernel.store(AREA, 1)
    assert (guest.stat["allocstall"] - before, len(woken)) == (stalls, wakes)


def test_choices_that_there_are_not_are_refused():
    guest = Guest()
    with pytest.raises(BadChoice, match="'sometimes'"):
        guest.huge.enabled = "sometimes"
    with pytest.raises(BadChoice, match="defer\\+madvise"):
        guest.huge.defrag = "no"
    assert (guest.huge.enabled, guest.huge.defrag) == ("always", "madvise")


# -- split ----------------------------------------------------------------------------------------


def test_a_part_unmapped_splits_the_entry_and_later_the_page():
    guest = Guest()
    guest.fill(512)
    free = guest.kernel.frames.buddy.free_frames
    guest.process.munmap(AREA + 10 * 4096, 5 * 4096)
    assert guest.shift() == 12
    assert [(one.gva, one.process) for one in guest.of(EntrySplit)] == [(AREA, "demo")]
    assert (guest.stat["thp_split_pmd"], guest.stat["thp_split_page"]) == (1, 0)
    assert guest.stat["thp_deferred_split_page"] == 1
    assert guest.meminfo("AnonHugePages") == 0
    assert guest.kernel.frames.buddy.free_frames == free  # until somebody needs them
    assert guest.huge.split_deferred() == 5
    assert guest.stat["thp_split_page"] == 1
    assert guest.kernel.frames.buddy.free_frames == free + 5
    assert guest.read(10) == numbers(10)
    assert guest.read(497, 15) == numbers(497, 15)
    with pytest.raises(SegmentationFault):
        guest.kernel.load(AREA + 10 * 4096)
    guest.check()


def test_a_whole_one_unmapped_or_dropped_is_not_split():
    guest = Guest()
    guest.fill(1024)
    guest.process.madvise_dontneed(AREA, HUGE)
    guest.process.munmap(AREA + HUGE, HUGE)
    assert guest.of(EntrySplit) == []
    assert guest.meminfo("AnonPages") == 0
    assert guest.read(2) == [0, 0]
    assert guest.shift() == 21
    guest.check()


def test_a_dropped_page_reads_as_zeroes_and_its_neighbours_stay():
    guest = Guest()
    guest.fill(512)
    guest.process.madvise_dontneed(AREA + 7 * 4096, 4096)
    assert guest.read(512) == [*numbers(7), 0, *numbers(504, 8)]
    assert guest.shift() == 12
    guest.check()


def test_all_pieces_dropped_one_by_one_free_the_page_without_a_split():
    guest = Guest()
    guest.fill(512)
    for page in range(512):
        guest.process.madvise_dontneed(AREA + page * 4096, 4096)
    assert guest.meminfo("AnonPages") == 0
    assert guest.stat["thp_split_page"] == 0
    guest.check()


def test_rights_of_a_part_split_the_entry_and_of_the_whole_do_not():
    guest = Guest()
    guest.fill(1024)
    guest.process.mprotect(AREA, HUGE, write=False)
    assert guest.shift() == 21
    guest.process.mprotect(AREA + HUGE, 4096, write=False)
    assert guest.shift(AREA + HUGE) == 12
    assert [(one.start - AREA, one.write) for one in guest.process.vmas] == [
        (0, False),
        (HUGE, False),
        (HUGE + 4096, True),
    ]
    for gva in (AREA, AREA + HUGE):
        with pytest.raises(SegmentationFault, match="error code 0x7"):
            guest.kernel.store(gva, 1)
    guest.kernel.store(AREA + HUGE + 4096, 9)
    assert guest.stat["thp_split_page"] == 0
    guest.check()


def test_a_range_that_is_none_changes_nothing():
    guest = Guest()
    guest.fill(3)
    for call in (guest.process.munmap, guest.process.mprotect, guest.process.madvise_dontneed):
        options = {"write": False} if call == guest.process.mprotect else {}
        with pytest.raises(BadAddress, match="lies in no one mapping"):
            call(AREA + 7 * MIB, HUGE, **options)
        with pytest.raises(BadSize, match="whole pages of 4K"):
            call(AREA + 0x800, 4096, **options)
    assert len(guest.process.vmas) == 1
    assert guest.shift() == 21


def test_after_munmap_the_next_mapping_is_huge_again():
    """The tables of what was unmapped are freed, so that nothing small is in the way."""
    guest = Guest(enabled="never")
    guest.fill(3)
    guest.process.munmap(AREA)
    guest.huge.enabled = "always"
    guest.process.mmap(AREA, "8M")
    guest.kernel.store(AREA, 1)
    assert guest.shift() == 21
    guest.check()


def test_the_entry_is_absent_and_flushed_before_small_ones_take_its_place():
    """So that no CPU has the page in both sizes (__split_huge_pmd_locked())."""
    guest = Guest()
    guest.fill(2)
    slot, _level = guest.kernel.tables.find(guest.process.root, AREA)
    here = guest.kernel.tables.virtual(slot)
    guest.records.clear()
    guest.kernel.memory.split_at(guest.process, AREA + 4096)
    of_slot = [
        (number, one)
        for number, one in enumerate(guest.records)
        if isinstance(one, Data) and one.gva == here and one.kind is Kind.WRITE
    ]
    flushed = [n for n, one in enumerate(guest.records) if isinstance(one, TlbFlush)]
    (gone, _), (back, _) = of_slot
    assert gone < flushed[0] < back
    filled = [n for n, one in enumerate(guest.records) if isinstance(one, Data) and n > flushed[0]]
    assert len(filled) == 513  # 512 small entries, and the one above them
    assert guest.read(2) == [1, 2]


# -- fork -----------------------------------------------------------------------------------------


def test_fork_shares_it_whole_and_a_write_copies_4_kib():
    guest = Guest()
    guest.fill(512)
    child = guest.kernel.fork("child")
    assert guest.shift() == guest.shift(process=child) == 21
    guest.records.clear()
    guest.kernel.store(AREA + 5 * 4096, 99)
    (copied,) = guest.of(PageCopied)
    assert copied.shift == 12
    copies = [one for one in guest.of(Data) if one.kind is Kind.READ and one.size == 4096]
    assert len(copies) == 1
    assert guest.shift() == 12
    assert guest.shift(process=child) == 21  # it still has all of it
    assert guest.meminfo("AnonHugePages") == 2048
    guest.kernel.switch(child)
    assert guest.read(512) == numbers(512)
    guest.check()


def test_the_last_one_to_have_it_whole_writes_to_it_as_it_is():
    guest = Guest()
    guest.fill(512)
    child = guest.kernel.fork("child")
    guest.kernel.exit(child)
    guest.kernel.store(AREA, 5)
    assert [one.shift for one in guest.of(PageReused)] == [21]
    assert guest.of(EntrySplit) == []
    guest.check()


def test_anon_huge_pages_are_those_that_somebody_maps_whole():
    guest = Guest()
    guest.fill(512)
    child = guest.kernel.fork("child")
    guest.kernel.store(AREA, 5)
    assert guest.meminfo("AnonHugePages") == 2048
    guest.kernel.exit(child)
    assert guest.meminfo("AnonHugePages") == 0
    assert guest.read(3) == [5, 2, 3]
    guest.check()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_family_with_one_page_whole_and_in_pieces_frees_it_once(order):
    guest = Guest()
    guest.fill(512)
    family = [guest.process, guest.kernel.fork("child"), guest.kernel.fork("grandchild")]
    guest.kernel.store(AREA, 100)  # in pieces for the parent
    guest.kernel.switch(family[1])
    guest.process = family[1]
    guest.process.munmap(AREA + 4096, 4096)  # and for the child
    guest.huge.split_deferred()
    for number in order:
        guest.kernel.switch(family[number])
        first = 100 if number == 0 else 1
        assert guest.kernel.load(AREA) == first
        assert guest.read(510, 2) == numbers(510, 2)
        guest.kernel.exit(family[number])
    guest.check()


# -- reclaim --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmu", ["native", "ept", "shadow"])
def test_it_is_split_to_be_swapped_and_comes_back_small(mmu):
    guest = Guest(mmu, memory="6M", mib=6)
    guest.fill(1400)
    assert guest.stat["thp_fault_alloc"] > 0
    assert guest.stat["thp_split_page"] > 0
    assert guest.stat["pswpout"] > 200
    assert guest.read(1400) == numbers(1400)
    guest.check()


def test_the_oom_killer_counts_all_of_it():
    guest = Guest()
    guest.fill(1024)
    guest.process.madvise_dontneed(AREA, 12 * 4096)
    space = guest.reclaimer._space(guest.process)
    assert space.rss == 1012
    guest.check()
