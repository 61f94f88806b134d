"""Transparent huge pages: at the fault, split by madvise and reclaim, collapsed by khugepaged."""

import pytest

from kvmlab.base.clock import SECOND, Clock
from kvmlab.base.errors import BadChoice
from kvmlab.host.records import HostCollapsed, HostFault, HostSplit, HostTookBack
from tests.host.setting import HUGE, MIB, Setting


def huge_setting(mib=8, host=32, swap=0):
    setting = Setting(host, swap)
    space, hva = setting.process(mib + 2)
    hva = -(-hva // HUGE) * HUGE
    space.advise_huge(hva, wanted=True)
    return setting, space, hva


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
    setting = Setting(32)
    setting.host.huge.enabled = enabled
    space, hva = setting.process(8)
    if advice is not None:
        space.advise_huge(hva, wanted=advice)
    assert space.fault_in(hva + HUGE + 0x5000).shift == shift


def test_one_fault_instead_of_512():
    setting, space, hva = huge_setting()
    space.populate(hva, HUGE)
    assert setting.count(HostFault) == 1
    assert (space.rss, setting.stat["thp_fault_alloc"]) == (512, 1)
    assert setting.host.meminfo()["AnonHugePages"] == 2048
    setting.check()


def test_the_range_must_lie_in_the_area_and_be_empty():
    setting, space, hva = huge_setting()
    space.advise_huge(hva, wanted=False)
    space.fault_in(hva + HUGE + 0x3000)
    space.advise_huge(hva, wanted=True)
    assert space.fault_in(hva + HUGE).shift == 12  # something small is there
    end = max(area.end for area in space.areas)
    assert space.fault_in(end - 4096).shift == (12 if end % HUGE else 21)
    setting.check()


def test_without_a_free_block_small_pages_do():
    setting, space, hva = huge_setting(mib=2, host=6)
    other, there = setting.process(4, "other")
    other.populate(there, 3 * MIB)
    assert space.fault_in(hva).shift == 12
    assert setting.stat["thp_fault_fallback"] == 1
    setting.check()


def test_one_page_dropped_of_each_block_frees_nothing_until_the_deferred_split():
    """Case 31, with 16 blocks of the 512."""
    blocks = 16
    setting, space, hva = huge_setting(mib=2 * blocks, host=64)
    space.populate(hva, blocks * HUGE)
    assert space.rss == blocks * 512
    free = setting.host.buddy.free_frames
    for block in range(blocks):
        assert space.madvise_dontneed(hva + block * HUGE + 0x7000, 4096) == 0
    assert space.rss == blocks * 511
    assert setting.host.buddy.free_frames == free
    assert setting.count(HostSplit) == blocks
    setting.check()
    assert setting.host.huge.split_deferred() == blocks
    assert setting.host.buddy.free_frames == free + blocks
    setting.check()


def test_all_pages_of_a_block_dropped_one_by_one_free_it_without_waiting():
    """Case 32, worked out of the kernel's documentation."""
    setting, space, hva = huge_setting()
    space.populate(hva, 2 * HUGE)
    free, told = setting.host.buddy.free_frames, 0
    for page in range(512):
        told += space.madvise_dontneed(hva + page * 4096, 4096)
    assert told == HUGE
    assert space.rss == 512
    assert setting.host.buddy.free_frames == free + 512
    setting.check()


def test_a_block_dropped_at_once_is_not_split():
    setting, space, hva = huge_setting()
    space.populate(hva, 2 * HUGE)
    assert space.madvise_dontneed(hva, HUGE) == HUGE
    assert setting.count(HostSplit) == 0
    assert setting.count(HostTookBack) == 1
    setting.check()


def test_splitting_keeps_every_page_where_it_was():
    setting, space, hva = huge_setting()
    for page in range(512):
        setting.write(space, hva + page * 4096, page + 1)
    was = [space.translate(hva + page * 4096).address for page in range(512)]
    space.madvise_dontneed(hva, 4096)
    setting.host.huge.split_deferred()
    now = [space.translate(hva + page * 4096) for page in range(1, 512)]
    assert [one.address for one in now] == was[1:]
    assert [setting.read(space, hva + page * 4096) for page in range(512)] == [0, *range(2, 513)]


def test_huge_pages_are_split_to_be_swapped_and_come_back_small():
    setting, space, hva = huge_setting(mib=24, host=20, swap=32)
    for page in range(6144):
        setting.write(space, hva + page * 4096, page + 1)
    assert setting.stat["thp_split_page"] > 0
    assert all(setting.read(space, hva + page * 4096) == page + 1 for page in range(6144))
    setting.check()


def small_then_wanted(pages, **options):
    setting, space, hva = huge_setting(**options)
    space.advise_huge(hva, wanted=False)
    for page in pages:
        setting.write(space, hva + page * 4096, page + 1)
    space.advise_huge(hva, wanted=True)
    return setting, space, hva


def test_khugepaged_collapses_a_range_with_one_live_page():
    """max_ptes_none is 511: it fills 511 pages that nobody asked for."""
    setting, space, hva = small_then_wanted([3])
    told = []
    space.notifiers.append(lambda *span: told.append(span))
    assert setting.host.khugepaged.scan()
    assert (hva, hva + HUGE) in told
    assert space.translate(hva).shift == 21
    assert space.rss == 512
    assert [one.filled for one in setting.records if isinstance(one, HostCollapsed)] == [511]
    assert setting.read(space, hva + 3 * 4096) == 4
    setting.check()


def test_khugepaged_undoes_what_a_balloon_gave_back_unless_max_ptes_none_is_0():
    for limit, rss in ((511, 512), (0, 500)):
        setting, space, hva = small_then_wanted(range(512))
        setting.host.khugepaged.settings.max_ptes_none = limit
        space.madvise_dontneed(hva, 12 * 4096)
        setting.host.khugepaged.scan()
        assert space.rss == rss
        setting.check()


def test_khugepaged_looks_at_4096_pages_every_10_seconds():
    setting, _space, hva = small_then_wanted(range(0, 12 * 512, 512), mib=24, host=64)
    clock = Clock()
    setting.host.khugepaged.start(clock)
    seen = []
    for second in (9, 10, 20):
        clock.advance(second * SECOND)
        seen.append(setting.stat["thp_collapse_alloc"])
    assert seen == [0, 8, 12]
    assert hva


def test_too_many_swapped_pages_block_a_collapse():
    setting, space, hva = small_then_wanted(range(512), host=16, swap=16)
    space.advise_huge(hva, wanted=False)
    for page in range(512, 1024):
        setting.write(space, hva + page * 4096, page)
    for _ in range(3):
        setting.host.memory.reclaim.shrink(120, "direct")
    swapped = sum(space.translate(hva + page * 4096) is None for page in range(512))
    assert swapped > 64
    space.advise_huge(hva, wanted=True)
    setting.host.khugepaged.scan()
    assert space.translate(hva + 511 * 4096).shift == 12


def test_a_collapse_without_a_free_block_waits_a_minute():
    setting, space, hva = small_then_wanted(range(0, 512, 4), mib=2, host=6)
    other, there = setting.process(4, "other")
    other.populate(there, 3 * MIB)
    assert not setting.host.khugepaged.scan()
    assert setting.stat["thp_collapse_alloc_failed"] == 1
    assert space.translate(hva).shift == 12
    setting.check()


def test_an_unknown_choice_is_refused():
    setting = Setting(16)
    with pytest.raises(BadChoice, match="'sometimes'"):
        setting.host.huge.enabled = "sometimes"
    assert setting.host.huge.enabled == "madvise"
