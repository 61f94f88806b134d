"""The guest's own memory management: page cache, swap, OOM killer, and what it says of itself."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab.base.clock import Clock
from kvmlab.base.errors import BadChoice, BadSize, MachineCheck, ProcessKilled
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.working_set import WorkingSet
from kvmlab.host.records import HostSwappedIn
from kvmlab.machine import Machine
from kvmlab.virtio.balloon import Tag

AREA, MIB = 0x1000_0000, 1 << 20


def started(mmu="native", memory="8M", swap=16, **options):
    machine = Machine(mmu, guest_memory=memory, **options)
    reclaimer = Reclaimer(machine.guest, swap=swap * MIB, min_free_kbytes=256)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    vma = process.mmap(AREA, "12M")
    return machine.guest, reclaimer, process, vma


def fill(guest, pages, first=0):
    for page in range(first, first + pages):
        guest.store(AREA + page * 4096, page + 1)


def read(guest, pages):
    return [guest.load(AREA + page * 4096) for page in range(pages)]


def data(value):
    return int(value).to_bytes(4096, "little")


def test_a_process_larger_than_the_guest_keeps_every_byte():
    guest, reclaimer, process, _ = started()
    fill(guest, 2200)
    assert reclaimer.stat["pswpout"] > 300
    assert read(guest, 2200) == list(range(1, 2201))
    assert reclaimer.stat["pgmajfault"] == reclaimer.stat["pswpin"] > 300
    guest.exit(process)
    assert reclaimer.memory.swap.free == reclaimer.memory.swap.total


def test_clean_cache_goes_before_anything_is_swapped():
    """Case 13 in small: only as much as is needed."""
    guest, reclaimer, _, _ = started()
    for page in range(1000):
        reclaimer.cache.write(1, page, data(page))
    reclaimer.cache.sync()
    assert reclaimer.meminfo()["Cached"] == 4000
    fill(guest, 900)
    assert reclaimer.stat["pswpout"] == 0
    assert 1200 < reclaimer.meminfo()["Cached"] < 4000
    assert all(reclaimer.cache.read(1, page) == data(page) for page in range(0, 1000, 37))


def test_dirty_cache_is_written_back_before_it_goes():
    guest, reclaimer, _, _ = started(swap=0)
    for page in range(1000):
        reclaimer.cache.write(1, page, data(page + 1))
    assert reclaimer.meminfo()["Dirty"] == 4000
    fill(guest, 1500)
    assert reclaimer.stat["nr_written"] > 300
    for page in range(0, 1000, 7):
        assert reclaimer.cache.read(1, page) == data(page + 1)


def test_files_in_tmpfs_go_to_swap_and_their_end_frees_frames_and_slots():
    guest, reclaimer, _, _ = started()
    free = reclaimer.memory.buddy.free_frames
    for page in range(1000):
        reclaimer.tmpfs.write(1, page, data(page + 1))
    reclaimer.tmpfs.write(2, 0, data(7))
    info = reclaimer.meminfo()
    assert (info["Shmem"], info["Cached"], info["AnonPages"]) == (4004, 4004, 0)
    fill(guest, 1500)
    assert reclaimer.stat["pswpout"] > 300
    assert all(reclaimer.tmpfs.read(1, page) == data(page + 1) for page in range(0, 1000, 7))
    assert reclaimer.stat["pgmajfault"] == 0  # which read() makes none of
    guest.current.madvise_dontneed(AREA, 1500 * 4096)
    reclaimer.tmpfs.remove(1)
    assert reclaimer.tmpfs.read(2, 0) == data(7)
    reclaimer.tmpfs.remove(2)
    assert reclaimer.memory.swap.free == reclaimer.memory.swap.total
    assert reclaimer.memory.buddy.free_frames >= free - 16  # tables


def test_without_swap_a_balloon_gets_nothing_of_tmpfs():
    """Run C of the facts, in small: such pages can go nowhere, so the balloon is stuck."""
    guest, reclaimer, _, _ = started(swap=0)
    for page in range(1000):
        reclaimer.tmpfs.write(1, page, data(page))
    taken = guest.frames.take(2000)
    assert 0 < len(taken) < 1000
    assert reclaimer.meminfo()["Shmem"] == 4000
    assert reclaimer.stat["oom_kill"] == 0


def test_a_working_set_stays_and_what_left_it_goes():
    guest, reclaimer, _, vma = started()
    fill(guest, 1000)
    work = WorkingSet(guest, vma, 100, seed=2)
    other = guest.spawn("other")
    for _ in range(12):
        work.run(400)
        guest.switch(other)  # without PCIDs that flushes the TLB, so that A is set anew
        reclaimer.memory.reclaim.shrink(60, "direct")
        guest.switch(guest.processes[0])
    hot = guest.processes[0]
    swapped = [(one - AREA) // 4096 for one in reclaimer._space(hot).swapped]
    assert len(swapped) > 400
    assert sum(page < 100 for page in swapped) < 10
    work.set(500, 100)
    before = reclaimer.stat["pgmajfault"]
    work.run(300)
    assert reclaimer.stat["pgmajfault"] > before
    with pytest.raises(BadSize, match="among the 3072"):
        work.set(3000, 100)


def test_without_swap_the_oom_killer_takes_the_largest_process():
    guest, reclaimer, process, _ = started(swap=0)
    fill(guest, 1000)
    small = guest.spawn("small")
    guest.switch(small)
    small.mmap(AREA, "12M")
    fill(guest, 900)
    assert process not in guest.processes
    assert reclaimer.stat["oom_kill"] == 1
    assert read(guest, 900) == list(range(1, 901))


def test_a_process_that_is_killed_by_its_own_fault_hears_of_it():
    guest, reclaimer, process, _ = started(swap=0)
    with pytest.raises(ProcessKilled, match="demo was killed by the guest's OOM killer"):
        fill(guest, 3000)
    assert process not in guest.processes
    assert guest.current is None
    assert reclaimer.meminfo()["AnonPages"] == 0


def test_a_protected_process_is_spared_even_if_that_means_a_panic():
    guest, reclaimer, process, _ = started(swap=0)
    reclaimer.set_oom_score_adj(process, -1000)
    with pytest.raises(MachineCheck, match="System is deadlocked on memory"):
        fill(guest, 3000)


def test_kswapd_spares_allocations_the_work():
    guest, reclaimer, _, _ = started()
    clock = Clock()
    reclaimer.start(clock)
    for page in range(2000):
        guest.store(AREA + page * 4096, page)
        clock.sleep(1)
    assert reclaimer.stat["allocstall"] == 0
    assert reclaimer.stat["pgsteal_kswapd"] > 100
    assert read(guest, 2000) == list(range(2000))


def test_a_balloon_takes_what_can_be_reclaimed_and_never_kills():
    guest, reclaimer, process, _ = started(swap=1)
    fill(guest, 1000)
    taken = guest.frames.take(5000)
    assert process in guest.processes
    assert reclaimer.stat["pswpout"] == 256  # all of the swap
    assert reclaimer.memory.buddy.free_frames <= reclaimer.memory.zone.marks.low
    guest.frames.give_back(taken)
    assert read(guest, 1000) == list(range(1, 1001))


def test_fork_shares_what_is_in_swap_too():
    guest, reclaimer, process, _ = started()
    fill(guest, 600)
    while reclaimer.memory.swap.free > reclaimer.memory.swap.total - 300:
        reclaimer.memory.reclaim.shrink(100, "direct")
    child = guest.fork("child")
    guest.store(AREA + 4096, 77)
    guest.switch(child)
    assert read(guest, 600) == list(range(1, 601))
    guest.switch(process)
    assert read(guest, 600) == [1, 77, *range(3, 601)]
    guest.exit(child)
    guest.exit(process)
    assert reclaimer.memory.swap.used_slots() == {}


def test_what_a_kernel_reserves_at_boot_is_in_no_statistic():
    machine = Machine("native", guest_memory="8M")
    frames = machine.guest.frames
    most = frames.buddy.free_frames
    for size, error in ((most << 12, BadSize), ("9M", BadSize), (-4096, BadSize), ("x", BadSize)):
        with pytest.raises(error):
            frames.reserve(size)
    before = frames.managed
    frames.reserve("3M")
    reclaimer = Reclaimer(machine.guest)
    found = reclaimer.meminfo()
    assert found["MemTotal"] == (before << 2) - 3072
    assert found["MemFree"] == (most << 2) - 3072
    assert (
        reclaimer.memory.zone.marks.low
        < Reclaimer(Machine("native", guest_memory="8M").guest).memory.zone.marks.low
    )
    with pytest.raises(BadChoice, match="before a Reclaimer"):
        frames.reserve("1M")
    process = machine.guest.spawn("greedy")
    machine.guest.switch(process)
    process.mmap(AREA, "8M")
    with pytest.raises(ProcessKilled):
        fill(machine.guest, 2048)
    assert frames.buddy.free_frames << 2 == found["MemFree"]


def test_statistics_for_the_balloon_are_those_of_meminfo_and_vmstat():
    guest, reclaimer, _, _ = started()
    fill(guest, 2000)
    found, info = dict(reclaimer.statistics()), reclaimer.meminfo()
    assert found[Tag.MEMFREE] == info["MemFree"] << 10
    assert found[Tag.MEMTOT] == info["MemTotal"] << 10
    assert found[Tag.SWAP_OUT] == reclaimer.stat["pswpout"] * 4096 > 0
    assert found[Tag.AVAIL] == info["MemAvailable"] << 10
    assert found[Tag.MINFLT] >= 2000


def test_double_paging_reads_from_the_hosts_swap_only_to_write_to_the_guests():
    records = []
    guest, reclaimer, _, _ = started("ept", "8M", 16, host_memory="64M", tap=records.append)
    fill(guest, 600)
    host = guest.cpu.vmcs.host_entry.__self__.vm.host
    host.swapon(16 * MIB)
    for _ in range(4):
        host.memory.reclaim.shrink(3000, "direct")
    records.clear()
    for _ in range(4):
        reclaimer.memory.reclaim.shrink(200, "direct")
    assert reclaimer.stat["pswpout"] > 200
    assert sum(isinstance(one, HostSwappedIn) for one in records) > 200
    assert read(guest, 600) == list(range(1, 601))


class NoByteIsLost(RuleBasedStateMachine):
    """Two processes, fork, files and huge pages in 6 MiB of memory, against a shadow copy."""

    @initialize(
        mmu=st.sampled_from(["native", "ept", "shadow"]),
        enabled=st.sampled_from(["always", "never"]),
        filled=st.sampled_from([511, 64]),
    )
    def boot(self, mmu, enabled, filled):
        machine = Machine(mmu, guest_memory="6M")
        self.guest = machine.guest
        self.reclaimer = Reclaimer(self.guest, swap=16 * MIB, min_free_kbytes=128)
        self.reclaimer.huge.enabled = enabled
        self.reclaimer.khugepaged.settings.max_ptes_none = filled
        self.total = self.guest.frames.buddy.free_frames  # the kernel had taken its own before
        self.shadow, self.files, self.tmpfs = {}, {}, {}
        for name in ("a", "b"):
            self.begin(name)

    def begin(self, name):
        process = self.guest.spawn(name)
        process.mmap(AREA, "2M")
        self.shadow[process] = {}

    def run(self, who):
        process = list(self.shadow)[who % len(self.shadow)]
        self.guest.switch(process)
        return self.shadow[process]

    @rule(who=st.integers(0, 3), first=st.integers(0, 400), count=st.integers(1, 110))
    def write(self, who, first, count):
        shadow = self.run(who)
        for page in range(first, first + count):
            self.guest.store(AREA + page * 4096, page * 3 + who)
            shadow[page] = page * 3 + who

    @rule(who=st.integers(0, 3), page=st.integers(0, 511))
    def read(self, who, page):
        shadow = self.run(who)
        assert self.guest.load(AREA + page * 4096) == shadow.get(page, 0)

    @rule(who=st.integers(0, 3))
    def fork(self, who):
        shadow = self.run(who)
        if len(self.shadow) < 4:
            self.shadow[self.guest.fork("child")] = dict(shadow)

    @rule(who=st.integers(0, 3))
    def exit(self, who):
        self.run(who)
        process = self.guest.current
        self.guest.exit(process)
        del self.shadow[process]
        if not self.shadow:
            self.begin("again")

    @rule(page=st.integers(0, 200), value=st.integers(0, 2**32))
    def write_file(self, page, value):
        self.reclaimer.cache.write(1, page, data(value))
        self.files[page] = data(value)

    @rule(first=st.integers(0, 100), count=st.integers(1, 100), value=st.integers(0, 2**32))
    def write_tmpfs(self, first, count, value):
        for page in range(first, first + count):
            self.reclaimer.tmpfs.write(1, page, data(value + page))
            self.tmpfs[page] = data(value + page)

    @rule()
    def remove_tmpfs(self):
        self.reclaimer.tmpfs.remove(1)
        self.tmpfs.clear()

    @rule(count=st.integers(1, 200))
    def reclaim(self, count):
        self.reclaimer.memory.reclaim.shrink(count, "direct")

    @rule()
    def balance(self):
        self.reclaimer.memory.balance()

    @rule(who=st.integers(0, 3), first=st.integers(0, 511), count=st.integers(1, 300))
    def drop(self, who, first, count):
        shadow, count = self.run(who), min(count, 512 - first)
        self.guest.current.madvise_dontneed(AREA + first * 4096, count * 4096)
        for page in range(first, first + count):
            shadow.pop(page, None)

    @rule(enabled=st.sampled_from(["always", "never"]))
    def collapse(self, enabled):
        self.reclaimer.huge.enabled = enabled
        self.reclaimer.khugepaged.scan()

    @rule()
    def split(self):
        self.reclaimer.huge.split_deferred()

    @rule(count=st.integers(1, 600))
    def balloon(self, count):
        """Pages go to a balloon and come back."""
        self.guest.frames.give_back(self.guest.frames.take(count))

    @invariant()
    def lists_and_slots_are_what_they_say(self):
        if not hasattr(self, "reclaimer"):
            return
        memory = self.reclaimer.memory
        assert sum(memory.frames.counts().values()) + memory.buddy.free_frames == self.total
        named = {}
        for space in self.reclaimer._spaces.values():
            for slot in space.swapped.values():
                named[slot] = named.get(slot, 0) + 1
        named |= dict.fromkeys(self.reclaimer.tmpfs._swapped.values(), 1)
        assert named == memory.swap.used_slots()

    def teardown(self):
        if not hasattr(self, "reclaimer"):
            return
        for process, shadow in self.shadow.items():
            self.guest.switch(process)
            for page, value in shadow.items():
                assert self.guest.load(AREA + page * 4096) == value
        for page, value in self.files.items():
            assert self.reclaimer.cache.read(1, page) == value
        for page, value in self.tmpfs.items():
            assert self.reclaimer.tmpfs.read(1, page) == value
        assert self.reclaimer.stat["oom_kill"] == 0


TestNoByteIsLost = NoByteIsLost.TestCase
TestNoByteIsLost.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)
