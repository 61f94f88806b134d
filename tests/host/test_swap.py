"""The host reclaims guest memory: through the notifier, to swap, and back on a fault."""

import pytest

from kvmlab.base.clock import SECOND, Clock
from kvmlab.base.errors import BadAddress, BadSize, Overlap, ProcessKilled
from kvmlab.host.records import HostSwappedIn, HostSwappedOut
from kvmlab.linux.records import OomKill
from tests.host.setting import MIB, Setting


def overcommitted(swap=16):
    """A process with 16 MiB on a host that has 16 MiB in all; each page holds its number."""
    setting = Setting(16, swap)
    space, hva = setting.process(16)
    for page in range(4096):
        setting.write(space, hva + page * 4096, page + 1)
    return setting, space, hva


def test_more_than_there_is_goes_to_swap_and_every_page_comes_back():
    setting, space, hva = overcommitted()
    assert space.rss + space.swap_entries == 4096
    assert setting.stat["pswpout"] == setting.count(HostSwappedOut) > 256
    for page in range(4096):
        assert setting.read(space, hva + page * 4096) == page + 1
    assert setting.stat["pgmajfault"] == setting.stat["pswpin"] == setting.count(HostSwappedIn) > 0
    setting.check()


def test_the_notifier_is_told_of_a_page_before_its_entry_changes():
    setting = Setting(16, 16)
    space, hva = setting.process(16)
    told = []

    def tell(start, end):
        assert space.translate(start) is not None
        told.append((start, end))

    space.notifiers.append(tell)
    for page in range(4096):
        setting.write(space, hva + page * 4096, 1)
    out = [one.hva for one in setting.records if isinstance(one, HostSwappedOut)]
    assert told == [(one, one + 4096) for one in out]
    assert out


def test_pages_that_others_tables_saw_in_use_stay():
    """KVM ages by the A bits of EPT: the host's own entry says nothing of a vCPU."""
    setting = Setting(16, 16)
    space, hva = setting.process(15)
    for page in range(2000):
        setting.write(space, hva + page * 4096, page)
    hot = range(hva, hva + 200 * 4096, 4096)
    space.agers.append(lambda start, _end: start in hot)
    for page in range(2000, 3840):
        setting.write(space, hva + page * 4096, page)
    assert space.swap_entries > 0
    assert all(space.translate(one) for one in hot)


def test_dropping_a_swapped_page_frees_its_slot_without_reading_it():
    setting, space, _hva = overcommitted()
    before, reads = space.swap_entries, setting.stat["pswpin"]
    gone = [one.hva for one in setting.records if isinstance(one, HostSwappedOut)]
    swapped = [one for one in gone if space.translate(one) is None]
    for one in swapped:
        assert space.madvise_dontneed(one, 4096) == 0
    assert (space.swap_entries, setting.stat["pswpin"]) == (before - len(swapped), reads)
    assert setting.read(space, swapped[0]) == 0
    setting.check()


def test_locked_memory_is_never_swapped():
    setting = Setting(16, 16)
    locked, here = setting.process(4, "locked")
    locked.mlock(here)
    other, there = setting.process(12, "other")
    for page in range(3072):
        setting.write(other, there + page * 4096, page)
    assert (locked.rss, locked.swap_entries) == (1024, 0)
    assert other.swap_entries > 0
    setting.check()


def test_without_swap_the_largest_process_is_killed_and_says_so_afterwards():
    setting = Setting(16)
    large, here = setting.process(16, "large")
    small, there = setting.process(16, "small")
    gone = []
    large.on_exit.append(lambda: gone.append("large"))
    for page in range(2600):
        setting.write(large, here + page * 4096, page)
    for page in range(2000):
        setting.write(small, there + page * 4096, page + 7)
    kills = [one for one in setting.records if isinstance(one, OomKill)]
    assert [one.victim for one in kills] == gone == ["large"]
    assert kills[0].badness == 2600 + kills[0].tables
    for use in (lambda: large.fault_in(here), lambda: large.mmap(4096), large.exit):
        with pytest.raises(ProcessKilled, match="large was killed by the host's OOM killer"):
            use()
    assert (large.translate(here), large.rss) == (None, 0)
    assert all(setting.read(small, there + page * 4096) == page + 7 for page in range(2000))
    setting.check()


def test_a_process_that_is_killed_by_its_own_fault_is_told_at_once():
    setting = Setting(16)
    space, hva = setting.process(16)
    with pytest.raises(ProcessKilled):
        space.populate(hva, 16 * MIB)
    setting.check()
    assert setting.host.meminfo()["AnonPages"] == 0


def test_kswapd_on_the_clock_keeps_the_host_above_its_marks():
    setting, clock = Setting(16, 16), Clock()
    setting.host.start_daemons(clock)
    space, hva = setting.process(16)
    for page in range(4096):
        setting.write(space, hva + page * 4096, page + 1)
        clock.sleep(1)
    assert setting.stat["allocstall"] == 0
    assert setting.stat["pgsteal_kswapd"] == setting.stat["pswpout"] > 0
    clock.sleep(SECOND)
    assert setting.host.buddy.free_frames >= setting.host.memory.zone.marks.low


def test_a_migrated_page_keeps_its_contents_and_its_place_on_the_lists():
    setting = Setting(16, 16)
    space, hva = setting.process(1)
    setting.write(space, hva, 5)
    old = space.translate(hva).address >> 12
    told = []
    space.notifiers.append(lambda *span: told.append(span))
    new = space.migrate(hva)
    assert new == space.translate(hva).address != old << 12
    assert setting.read(space, hva) == 5
    assert told == [(hva, hva + 4096)]
    setting.check()
    with pytest.raises(BadAddress, match="there is no page to migrate"):
        space.migrate(hva + 4096)


@pytest.mark.parametrize("size", [-4096, 1000])
def test_swap_of_no_whole_pages_is_refused(size):
    setting = Setting(16)
    with pytest.raises(BadSize, match="no multiple of 4 KiB"):
        setting.host.swapon(size)
    assert setting.host.meminfo()["SwapTotal"] == 0


def test_an_area_at_a_place_of_ones_choice_may_not_overlap():
    setting = Setting(16)
    space = setting.host.process()
    assert space.mmap(MIB, at=0x10_0000) == 0x10_0000
    with pytest.raises(Overlap, match="0x10f000"):
        space.mmap(MIB, at=0x10_F000)


def test_a_process_that_ends_gives_everything_back():
    setting = Setting(16, 16)
    free = setting.host.buddy.free_frames
    space, hva = setting.process(16)
    for page in range(4096):
        setting.write(space, hva + page * 4096, page)
    space.exit()
    assert setting.host.buddy.free_frames == free
    assert setting.host.memory.swap.free == 4096
    with pytest.raises(ProcessKilled, match="has ended"):
        space.fault_in(hva)
