"""KSM: cases 52 to 55, the counters' definitions, and what breaks the sharing.

The numbers are worked out of the kernel's documentation, not measured.
"""

import random
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.clock import SECOND, Clock
from kvmlab.base.errors import BadChoice
from kvmlab.host.ksm import RUN, STOP, UNMERGE
from kvmlab.host.ksm_items import digest_weights, digests
from kvmlab.host.records import HostMerged
from tests.host.setting import HUGE, MIB, Setting


def guests(count, pages, value=lambda _guest, page: page + 1, host=32, **options):
    setting = Setting(host, **options)
    spaces = []
    for number in range(count):
        space, hva = setting.process(8, f"vm{number}")
        space.advise_mergeable(hva, wanted=True)
        for page in range(pages):
            setting.write(space, hva + page * 4096, value(number, page))
        spaces.append((space, hva))
    setting.host.ksm.run = RUN
    return setting, spaces


def full_scans(setting, count):
    ksm = setting.host.ksm
    ksm.scan(1)  # the first batch begins a pass
    goal = ksm.full_scans + count
    while ksm.full_scans < goal:
        ksm.scan(100_000)


def counters(ksm):
    return (ksm.pages_shared, ksm.pages_sharing, ksm.pages_unshared, ksm.pages_volatile)


def test_identical_pages_of_three_guests_merge_in_the_second_full_scan():
    """Case 52."""
    setting, spaces = guests(3, 1000)
    free = setting.host.buddy.free_frames
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (0, 0, 0, 3000)
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (1000, 2000, 0, 0)
    assert setting.host.buddy.free_frames - free == 2000
    assert setting.host.ksm.pages_sharing * 4096 == 8_192_000
    assert setting.host.ksm.general_profit == 8_192_000 - 3000 * 64
    assert sum(space.rss for space, _ in spaces) == 3000  # RSS counts shared pages fully
    setting.check()


def test_a_write_breaks_the_sharing_with_one_fault():
    """Case 53."""
    setting, ((first, here), (second, there), _) = guests(3, 1000)
    full_scans(setting, 2)
    free, faults = setting.host.buddy.free_frames, setting.stat["pgfault"]
    assert setting.read(first, here) == 1
    assert setting.stat["pgfault"] == faults
    setting.write(first, here, 77)
    assert setting.host.ksm.pages_sharing == 1999
    assert (setting.stat["cow_ksm"], setting.stat["pgfault"]) == (1, faults + 1)
    assert free - setting.host.buddy.free_frames == 1
    assert (setting.read(first, here), setting.read(second, there)) == (77, 1)
    setting.check()


def test_a_shared_page_has_at_most_max_page_sharing_mappings():
    """Case 54."""
    setting, _ = guests(1, 1000, lambda _guest, _page: 5)
    full_scans(setting, 2)
    assert counters(setting.host.ksm)[:2] == (4, 996)
    setting.check()


def test_run_2_gives_every_process_its_own_copy_again():
    """Case 55."""
    setting, spaces = guests(3, 1000)
    full_scans(setting, 2)
    free = setting.host.buddy.free_frames
    setting.host.ksm.run = UNMERGE
    assert counters(setting.host.ksm) == (0, 0, 0, 0)
    assert (free - setting.host.buddy.free_frames) * 4096 == 8_192_000
    for space, hva in spaces:
        assert [setting.read(space, hva + page * 4096) for page in (0, 999)] == [1, 1000]
    setting.check()


def test_run_0_keeps_what_is_merged():
    setting, _ = guests(2, 100)
    full_scans(setting, 2)
    setting.host.ksm.run = STOP
    assert counters(setting.host.ksm) == (100, 100, 0, 0)


def test_unique_pages_are_unshared_and_changing_ones_volatile():
    setting, ((space, hva), _) = guests(2, 200, lambda guest, page: guest * 1000 + page + 1)
    full_scans(setting, 2)
    assert counters(setting.host.ksm) == (0, 0, 400, 0)
    for page in range(50):
        setting.write(space, hva + page * 4096, 9000 + page)
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (0, 0, 350, 50)


def test_the_pace_is_100_pages_each_20_ms():
    setting, _ = guests(1, 2048, lambda _guest, page: page + 1)
    clock = Clock()
    setting.host.ksm.start(clock)
    clock.advance(SECOND // 10)  # one batch begins the pass, four look at 100 pages each
    assert setting.host.ksm.pages_volatile == 400
    clock.advance(SECOND)
    assert setting.host.ksm.full_scans == 3


def test_only_mergeable_areas_are_looked_at():
    setting, ((space, hva), (other, there)) = guests(2, 100)
    other.advise_mergeable(there, wanted=False)
    full_scans(setting, 2)
    assert counters(setting.host.ksm) == (0, 0, 100, 0)
    other.advise_mergeable(there, wanted=True)
    full_scans(setting, 2)
    assert counters(setting.host.ksm)[:2] == (100, 100)
    space.advise_mergeable(hva, wanted=False)
    assert counters(setting.host.ksm)[:2] == (100, 0)
    setting.check()


def test_a_huge_page_is_split_when_one_of_its_pieces_merges():
    setting = Setting(32)
    space, hva = setting.process(8)
    hva = -(-hva // HUGE) * HUGE
    space.advise_huge(hva, wanted=True)
    space.advise_mergeable(hva, wanted=True)
    for page in range(512):
        setting.write(space, hva + page * 4096, page % 500 + 1)
    setting.host.ksm.run = RUN
    full_scans(setting, 2)
    assert counters(setting.host.ksm)[:3] == (12, 12, 488)
    assert space.translate(hva).shift == 12
    assert [setting.read(space, hva + page * 4096) for page in range(512)] == [
        page % 500 + 1 for page in range(512)
    ]
    setting.check()


def test_shared_pages_can_be_swapped_and_come_back_as_copies():
    setting, spaces = guests(3, 300, host=16, swap=16)
    full_scans(setting, 2)
    for _ in range(100):
        setting.host.memory.reclaim.shrink(100, "direct")
    slots = setting.host.memory.swap.used_slots()
    assert len(slots) == 300
    assert set(slots.values()) == {3}
    setting.check()
    for space, hva in spaces:
        assert [setting.read(space, hva + page * 4096) for page in range(300)] == [*range(1, 301)]
    assert setting.host.memory.swap.used_slots() == {}
    setting.check()


def test_the_last_mapper_frees_the_shared_page():
    setting, ((first, here), (second, there)) = guests(2, 10)
    full_scans(setting, 2)
    free = setting.host.buddy.free_frames
    assert first.madvise_dontneed(here, 10 * 4096) == 0
    assert second.madvise_dontneed(there, 10 * 4096) == 10 * 4096
    assert setting.host.buddy.free_frames == free + 10
    assert counters(setting.host.ksm)[:2] == (0, 0)
    setting.check()


def test_a_guest_that_ends_leaves_the_others_their_pages():
    setting, ((first, _), (second, there)) = guests(2, 50)
    full_scans(setting, 2)
    first.exit()
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (50, 0, 0, 0)
    assert setting.read(second, there + 49 * 4096) == 50
    setting.check()


def test_an_unknown_run_is_refused():
    setting = Setting(16)
    with pytest.raises(BadChoice, match="not 3"):
        setting.host.ksm.run = 3
    assert setting.host.ksm.run == STOP
    assert MIB


# -- many pages in one step -----------------------------------------------------------------

WORD = st.integers(-(1 << 63), (1 << 63) - 1)
BIT = st.integers(0, 63).map(lambda bit: (1 << bit) - (bit == 63) * (1 << 64))


@given(WORD | BIT, WORD)
def test_a_page_that_differs_in_one_word_has_another_digest_whichever_word_it_is(change, rest):
    pages = np.full((513, 512), rest)
    pages[range(512), range(512)] ^= change
    *others, same = digests(pages, digest_weights()).tolist()
    assert (same in others) == (change == 0)


def scanned(batches):
    """Full scans of two guests and a huge page, which change between one and the next."""
    setting, spaces = guests(2, 700, lambda guest, page: page % 50 or guest * 1000 + page)
    huge, hva = setting.process(8)
    hva = -(-hva // HUGE) * HUGE
    huge.advise_huge(hva, wanted=True)
    huge.advise_mergeable(hva, wanted=True)
    setting.write(huge, hva, 7)
    choose = random.Random(1)
    found = []
    for scan in range(1, 9):
        for count in cycle(batches):
            setting.host.ksm.scan(count)
            if setting.host.ksm.full_scans > scan:
                break
        for space, start in spaces:
            page = choose.randrange(700)
            setting.write(space, start + page * 4096, choose.randrange(60))
            space.madvise_dontneed(start + choose.randrange(700) * 4096, 4096)
        found.append(counters(setting.host.ksm))
    setting.check()
    return found, [one for one in setting.records if isinstance(one, HostMerged)]


def test_a_batch_finds_what_its_pages_one_by_one_do():
    alone = scanned([1])
    assert alone[0][-1][0]
    assert scanned([10_000]) == alone
    assert scanned([3, 400, 1, 96]) == alone


def test_a_page_of_zeroes_is_looked_at_twice_too_before_it_is_merged():
    setting, _ = guests(2, 5, lambda _guest, _page: 0)
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (0, 0, 0, 10)
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (1, 9, 0, 0)


def test_a_page_that_was_gone_for_a_full_scan_begins_anew():
    setting, ((space, hva), _) = guests(2, 5, lambda guest, page: guest * 10 + page + 1)
    full_scans(setting, 2)
    assert counters(setting.host.ksm) == (0, 0, 10, 0)
    space.madvise_dontneed(hva, 4096)
    full_scans(setting, 2)
    assert counters(setting.host.ksm) == (0, 0, 9, 0)
    setting.write(space, hva, 1)  # what it held before
    full_scans(setting, 1)
    assert counters(setting.host.ksm) == (0, 0, 9, 1)


def test_a_page_that_comes_behind_the_scan_of_its_table_waits_for_the_next():
    setting, ((space, hva),) = guests(1, 4)
    setting.host.ksm.scan(1)  # begins a pass
    setting.host.ksm.scan(2)
    setting.write(space, hva + 100 * 4096, 1000)
    setting.host.ksm.scan(100)
    assert counters(setting.host.ksm) == (0, 0, 0, 4)
    full_scans(setting, 2)
    assert counters(setting.host.ksm) == (0, 0, 5, 0)
