"""Reclaim in the kernel's order, and no byte lost on the way."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvmlab.base.errors import BadSize, MachineCheck, OutOfMemory
from kvmlab.linux import lru as lru_lists
from kvmlab.linux.frames import Role
from kvmlab.linux.lru import Lru
from kvmlab.linux.oom import OOM_SCORE_ADJ_MIN, badness
from kvmlab.linux.records import OomKill, Scan
from kvmlab.linux.zone import (
    Zone,
    default_min_free_kbytes,
    watermarks,
)
from tests.linux.kernel import Kernel, page


def test_min_free_kbytes_is_four_times_the_root_of_the_memory_in_kib():
    """Kernel's own table: 1 MiB ... 16 GiB (comment above calculate_min_free_kbytes())."""
    published = {16: 512, 32: 724, 64: 1024, 128: 1448, 256: 2048, 512: 2896, 1024: 4096}
    published |= {2048: 5792, 4096: 8192, 16384: 16384}
    assert {mib: default_min_free_kbytes(mib << 8) for mib in published} == published
    assert default_min_free_kbytes(1 << 40) == 262_144


def test_watermarks_are_a_quarter_of_min_apart_or_a_thousandth_of_the_zone():
    marks = watermarks(249_093, 45_056)
    assert (marks.min, marks.low, marks.high) == (11_264, 14_080, 16_896)
    marks = watermarks(1 << 24, 4096)
    assert (marks.min, marks.low - marks.min, marks.high - marks.low) == (1024, 16_777, 16_777)


@pytest.mark.parametrize("kbytes", [-1, 400])
def test_min_free_kbytes_beyond_the_zone_is_refused(kbytes):
    zone = Zone(100, 40)
    with pytest.raises(BadSize, match=str(kbytes)):
        zone.set_min_free(kbytes)
    assert zone.min_free_kbytes == 40


def filled(slots=0, anon=0, cache=0, dirty=0, frames=2048):
    kernel = Kernel(frames, slots, min_free_kbytes=4 * 64)
    process = kernel.process()
    files = kernel.process("files", killable=False)
    for index in range(anon):
        process.touch(index, page(index + 1))
    for index in range(cache):
        data = page(index + 1)
        files.disk[index] = data
        files.touch(index, data if index < dirty else None, Role.FILE)
    process.touched.clear()
    files.touched.clear()
    return kernel, process, files


def test_clean_cache_is_dropped_and_nothing_is_swapped():
    kernel, process, _files = filled(slots=4096, anon=500, cache=1400)
    kernel.memory.balance()
    for index in range(1000, 1500):
        process.touch(index, page(index))
    assert kernel.stat["pgsteal_file"] >= 400
    assert kernel.stat["pswpout"] == kernel.stat["nr_written"] == 0
    kernel.check()


def test_dirty_cache_is_written_to_its_file_before_it_goes():
    kernel, _process, files = filled(cache=1900, dirty=1900)
    kernel.memory.reclaim.shrink(100, "direct")
    assert len(files.written) >= 100
    assert all(files.disk[index] == page(index + 1) for index in files.written)
    assert all(files.touch(index, role=Role.FILE) == page(index + 1) for index in range(1900))


def test_anonymous_pages_go_to_swap_and_come_back_as_they_were():
    kernel, process, _files = filled(slots=4096, anon=1900)
    for index in range(1900, 3000):
        process.touch(index, page(index + 1))
    assert kernel.stat["pswpout"] == process.swap_entries > 900
    assert kernel.memory.swap.free == 4096 - process.swap_entries
    for index in range(3000):
        assert process.touch(index) == page(index + 1)
    kernel.check()


def test_without_swap_anonymous_pages_stay():
    kernel, process, files = filled(anon=1000, cache=900)
    kernel.memory.reclaim.shrink(5000, "direct")
    assert (process.rss, files.rss) == (1000, 0)
    assert kernel.stat["pgscan_anon"] == 0


def test_what_was_used_since_gets_a_second_chance():
    kernel, process, _files = filled(slots=4096, anon=1000)
    hot = set(range(0, 1000, 10))
    process.touched |= hot
    while process.rss > 500:
        kernel.memory.reclaim.shrink(32, "direct")
        process.touched |= hot
    assert hot <= set(process.present)


def test_a_page_that_cannot_be_unmapped_is_kept_with_its_contents():
    kernel, process, _files = filled(slots=4096, anon=500)
    process.pinned = set(range(0, 500, 2))
    for _ in range(40):
        kernel.memory.reclaim.shrink(500, "direct")
    assert set(process.present) == process.pinned
    assert kernel.memory.swap.free == 4096 - 250
    kernel.check()


def test_swappiness_0_never_swaps():
    kernel, _process, _files = filled(slots=4096, anon=1500)
    kernel.memory.reclaim.swappiness = 0
    assert kernel.memory.reclaim.shrink(100, "direct") == 0


def test_kswapd_is_woken_below_low_and_reclaims_to_high():
    kernel, process, _files = filled(slots=4096)
    memory, woken = kernel.memory, []
    memory.wake_kswapd = lambda: woken.append(memory.buddy.free_frames)
    for index in range(2048 - memory.zone.marks.low):
        process.touch(index)
    assert woken == []
    process.touch(9999)
    assert woken == [memory.zone.marks.low]
    process.touched.clear()
    memory.balance()
    assert memory.buddy.free_frames >= memory.zone.marks.high
    assert kernel.stat["pgsteal_kswapd"]
    assert not kernel.stat["pgsteal_direct"]
    assert kernel.stat["allocstall"] == 0


def test_direct_reclaim_begins_below_min():
    kernel, process, _files = filled(slots=4096)
    for index in range(2048 - kernel.memory.zone.marks.min):
        process.touch(index)
    assert kernel.stat["allocstall"] == 0
    process.touched.clear()
    process.touch(9999)
    assert kernel.stat["allocstall"] == 1
    assert {one.by for one in kernel.records if isinstance(one, Scan)} == {"direct"}


def test_a_light_allocation_fails_where_another_kills():
    kernel, process, _files = filled(anon=2048 - 64)
    with pytest.raises(OutOfMemory, match="min watermark is 64"):
        kernel.memory.alloc(Role.BALLOON, light=True)
    assert process.rss == 2048 - 64
    kernel.memory.alloc(Role.KERNEL)
    assert process.rss == 0
    assert kernel.stat["oom_kill"] == 1


def test_the_oom_killer_takes_the_largest_and_spares_the_protected():
    kernel = Kernel(2048, min_free_kbytes=256)
    small, large, shielded = (kernel.process(name) for name in ("small", "large", "shielded"))
    shielded.oom_score_adj = OOM_SCORE_ADJ_MIN
    for owner, count in ((small, 300), (large, 600), (shielded, 1000)):
        for index in range(count):
            owner.touch(index)
    for index in range(300, 700):
        small.touch(index)
    kills = [one for one in kernel.records if isinstance(one, OomKill)]
    assert [(one.victim, one.badness) for one in kills] == [("large", 600)]
    assert (large.rss, shielded.rss) == (0, 1000)


def test_badness_is_rss_swap_and_tables_shifted_by_the_adjustment():
    kernel, process, _files = filled(slots=4096, anon=1500)
    kernel.memory.reclaim.shrink(200, "direct")
    total = 2048 + 4096
    assert badness(process, total) == 1500
    process.oom_score_adj = 100
    assert badness(process, total) == 1500 + 100 * 6


def test_balloons_are_asked_before_anybody_is_killed():
    kernel, process, _files = filled(anon=1500)
    balloon = [kernel.memory.alloc(Role.BALLOON) for _ in range(484)]

    def deflate():
        given = [kernel.memory.free(balloon.pop()) for _ in balloon[:256]]
        return len(given)

    kernel.memory.oom_notifiers.append(deflate)
    process.touch(5000)
    assert (len(balloon), kernel.stat["oom_kill"]) == (228, 0)


def test_with_nobody_to_kill_the_kernel_panics():
    kernel = Kernel(2048)
    while kernel.memory.buddy.free_frames > kernel.memory.zone.marks.min:
        kernel.memory.alloc(Role.KERNEL)
    with pytest.raises(MachineCheck, match="System is deadlocked on memory"):
        kernel.memory.alloc(Role.KERNEL)


def test_reading_a_file_page_twice_activates_it():
    kernel, _process, files = filled(cache=10)
    pfn = files.present[3]
    for lru in (Lru.INACTIVE_FILE, Lru.ACTIVE_FILE):
        kernel.memory.mark_accessed(pfn)
        assert kernel.memory.frames.lru[pfn] == lru


def test_a_list_gives_its_oldest_pages_first_whatever_moved():
    kernel = Kernel(8192)
    lists, order = kernel.memory.lists, []
    kernel.memory.frames.take(256, 0, Role.ANON)
    kernel.memory.frames.take(8000, 0, Role.ANON)
    choose = np.random.default_rng(3)
    for pfn in choose.integers(256, 8000, 20_000).tolist():
        if pfn in order[-500:]:
            continue
        lists.remove(np.array([pfn]))
        lists.add(np.array([pfn]), Lru.INACTIVE_ANON)
        order.append(pfn)
    expected = list(dict.fromkeys(reversed(order)))[::-1]
    assert lists.pages(Lru.INACTIVE_ANON).tolist() == expected
    assert lists.tail(Lru.INACTIVE_ANON, 700).tolist() == expected[:700]
    assert lists.size[Lru.INACTIVE_ANON] == len(expected) - 700


class NoByteIsLost(RuleBasedStateMachine):
    """Two processes and a file in too little memory, against a plain dictionary."""

    def __init__(self):
        super().__init__()
        self.kernel = Kernel(320, 400, min_free_kbytes=4 * 40)
        self.owners = [self.kernel.process(f"p{number}") for number in range(2)]
        self.files = self.kernel.process("files", killable=False)
        self.shadow = {}

    @rule(who=st.integers(0, 1), index=st.integers(0, 150), value=st.integers(0, 2**32))
    def write(self, who, index, value):
        self.owners[who].touch(index, page(value))
        self.shadow[who, index] = page(value)

    @rule(who=st.integers(0, 1), first=st.integers(0, 100), count=st.integers(1, 60))
    def write_many(self, who, first, count):
        for index in range(first, first + count):
            self.write(who, index, index * 3 + who)

    @rule(index=st.integers(0, 150), value=st.integers(0, 2**32))
    def write_file(self, index, value):
        self.files.touch(index, page(value), Role.FILE)
        self.shadow["file", index] = page(value)

    @rule(who=st.integers(0, 1), index=st.integers(0, 150))
    def free(self, who, index):
        self.owners[who].free(index)
        self.shadow.pop((who, index), None)

    @rule(count=st.integers(1, 100))
    def reclaim(self, count):
        self.kernel.memory.reclaim.shrink(count, "direct")

    @rule()
    def kswapd(self):
        self.kernel.memory.balance()

    @rule(who=st.integers(0, 1), index=st.integers(0, 150))
    def read(self, who, index):
        assert self.owners[who].touch(index) == self.shadow.get((who, index), bytes(4096))
        self.shadow.setdefault((who, index), bytes(4096))

    @invariant()
    def all_frames_are_accounted_for(self):
        self.kernel.check()

    def teardown(self):
        for (who, index), data in self.shadow.items():
            owner = self.files if who == "file" else self.owners[who]
            role = Role.FILE if who == "file" else Role.ANON
            assert owner.touch(index, role=role) == data
        assert self.kernel.stat["oom_kill"] == 0


TestNoByteIsLost = NoByteIsLost.TestCase
TestNoByteIsLost.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_a_process_that_is_being_killed_uses_the_reserves_and_nobody_else_dies_for_it():
    """One fault may need a table and a page: the second finds the killing under way."""
    kernel, process, _files = filled()
    other = kernel.process("other")
    process.kill = lambda: False  # it runs in the kernel just now
    other.touch(0)
    index = 0
    while not kernel.stat["oom_kill"]:
        process.touch(index)
        index += 1
    for more in range(index, index + 20):
        process.touch(more)
    assert kernel.stat["oom_kill"] == 1
    assert [one.victim for one in kernel.records if isinstance(one, OomKill)] == ["process"]
    assert other.present


def test_lists_keep_their_order_when_the_stamps_are_used_up(monkeypatch):
    monkeypatch.setattr(lru_lists, "_LAST_STAMP", 40)
    kernel = Kernel(64)
    owner = kernel.process()
    for index in range(30):
        owner.touch(index)
    for round_ in range(20):
        oldest = kernel.memory.lists.tail(Lru.INACTIVE_ANON, 3)
        assert kernel.memory.frames.index[oldest].tolist() == [
            (3 * round_ + one) % 30 for one in range(3)
        ]
        kernel.memory.lists.add(oldest, Lru.INACTIVE_ANON)
    kernel.check()
