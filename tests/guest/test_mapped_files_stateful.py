"""No byte of a mapped file is lost: a shadow copy through faults, writes, fork and reclaim."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.tables import DIRTY, PRESENT, WRITABLE
from kvmlab.linux.frames import Role
from kvmlab.machine import Machine

SHARED, PRIVATE, OWN, PAGE, PAGES, MIB = 0x2000_0000, 0x2040_0000, 0x3000_0000, 4096, 300, 1 << 20
AREAS = st.sampled_from([SHARED, PRIVATE, OWN])


def data(value):
    return int(value).to_bytes(PAGE, "little")


class Shadow:
    """What a process sees: its own memory, and its copies of pages of the file."""

    def __init__(self, own=(), copies=()):
        self.own, self.copies = dict(own), dict(copies)


class NoByteOfAFileIsLost(RuleBasedStateMachine):
    """One file, mapped shared and private by up to four processes in 4 MiB of memory."""

    @initialize(mmu=st.sampled_from(["native", "ept", "shadow"]), levels=st.sampled_from([3, 4]))
    def boot(self, mmu, levels):
        self.guest = Machine(mmu, guest_memory="4M", guest_levels=levels).guest
        self.reclaimer = Reclaimer(self.guest, swap=16 * MIB, min_free_kbytes=128)
        self.reclaimer.huge.enabled = "always"
        self.total = self.guest.frames.buddy.free_frames
        self.file, self.shadows = {}, {}
        self.begin("a")
        self.begin("b")

    def begin(self, name):
        process = self.guest.spawn(name)
        process.mmap_file(SHARED, PAGES * PAGE, 1)
        process.mmap_file(PRIVATE, PAGES * PAGE, 1, private=True)
        process.mmap(OWN, PAGES * PAGE)
        self.shadows[process] = Shadow()

    def run(self, who):
        process = list(self.shadows)[who % len(self.shadows)]
        self.guest.switch(process)
        return self.shadows[process]

    def seen(self, shadow, area, page):
        mine = {SHARED: {}, PRIVATE: shadow.copies, OWN: shadow.own}[area]
        return mine.get(page, 0 if area == OWN else self.file.get(page, 0))

    @rule(
        who=st.integers(0, 3), area=AREAS, first=st.integers(0, PAGES - 1), count=st.integers(1, 90)
    )
    def store(self, who, area, first, count):
        shadow = self.run(who)
        target = {SHARED: self.file, PRIVATE: shadow.copies, OWN: shadow.own}[area]
        for page in range(first, min(first + count, PAGES)):
            value = page * 7 + first + count
            self.guest.store(area + page * PAGE, value)
            target[page] = value

    @rule(who=st.integers(0, 3), first=st.integers(0, PAGES - 1), count=st.integers(1, 40))
    def load(self, who, first, count):
        shadow = self.run(who)
        for page in range(first, min(first + count, PAGES)):
            for area in (PRIVATE, SHARED):
                assert self.guest.load(area + page * PAGE) == self.seen(shadow, area, page)

    @rule(page=st.integers(0, PAGES - 1), value=st.integers(0, 1 << 60))
    def write(self, page, value):
        self.reclaimer.cache.write(1, page, data(value))
        self.file[page] = value

    @rule(page=st.integers(0, PAGES - 1))
    def read(self, page):
        assert self.reclaimer.cache.read(1, page) == data(self.file.get(page, 0))

    @rule()
    def sync(self):
        self.reclaimer.cache.sync()
        assert self.reclaimer.meminfo()["Dirty"] == 0

    @rule(count=st.integers(1, 300))
    def reclaim(self, count):
        self.reclaimer.memory.reclaim.shrink(count, "direct")

    @rule(who=st.integers(0, 3))
    def fork(self, who):
        shadow = self.run(who)
        if len(self.shadows) < 4:
            self.shadows[self.guest.fork("child")] = Shadow(shadow.own, shadow.copies)

    @rule(who=st.integers(0, 3))
    def exit(self, who):
        self.run(who)
        process = self.guest.current
        self.guest.exit(process)
        del self.shadows[process]
        if not self.shadows:
            self.begin("again")

    @rule(
        who=st.integers(0, 3),
        area=AREAS,
        first=st.integers(0, PAGES - 1),
        count=st.integers(1, PAGES),
    )
    def drop(self, who, area, first, count):
        shadow, end = self.run(who), min(first + count, PAGES)
        self.guest.current.madvise_dontneed(area + first * PAGE, (end - first) * PAGE)
        for page in range(first, end) if area != SHARED else ():
            {PRIVATE: shadow.copies, OWN: shadow.own}[area].pop(page, None)

    @rule(who=st.integers(0, 3), area=st.sampled_from([SHARED, PRIVATE]))
    def protect(self, who, area):
        self.run(who)
        self.guest.current.mprotect(area, write=False)
        self.guest.current.mprotect(area, write=True)

    @rule()
    def collapse(self):
        self.reclaimer.khugepaged.scan()

    @rule(count=st.integers(1, 500))
    def balloon(self, count):
        self.guest.frames.give_back(self.guest.frames.take(count))

    @invariant()
    def every_frame_has_the_users_that_the_tables_say(self):
        """And what may be written through an entry is dirty."""
        if not hasattr(self, "reclaimer"):
            return
        memory, tables = self.reclaimer.memory, self.guest.tables
        assert sum(memory.frames.counts().values()) + memory.buddy.free_frames == self.total
        mapped = {}
        for process in self.shadows:
            for gva in (area + page * PAGE for area in (SHARED, PRIVATE) for page in range(PAGES)):
                found = tables.find(process.root, gva)
                entry = tables.read(found[0]) if found else 0
                frame = tables.frame_of(entry, 1)
                if entry & PRESENT and memory.frames.role[frame >> 12] == Role.FILE:
                    mapped[frame] = mapped.get(frame, 0) + 1
                    assert not entry & (WRITABLE | DIRTY) or memory.frames.dirty[frame >> 12]
        cached = memory.frames.with_role(Role.FILE).tolist()
        users = {pfn << 12: self.guest.frames.mapcount(pfn << 12) for pfn in cached}
        assert {frame: count for frame, count in users.items() if count} == mapped
        assert self.reclaimer.meminfo()["Mapped"] == 4 * len(mapped)

    def teardown(self):
        if not hasattr(self, "reclaimer"):
            return
        for process, shadow in self.shadows.items():
            self.guest.switch(process)
            for page in range(PAGES):
                for area in (SHARED, PRIVATE, OWN):
                    assert self.guest.load(area + page * PAGE) == self.seen(shadow, area, page)
        for page in range(PAGES):
            assert self.reclaimer.cache.read(1, page) == data(self.file.get(page, 0))
        assert self.reclaimer.stat["oom_kill"] == 0


TestNoByteOfAFileIsLost = NoByteOfAFileIsLost.TestCase
TestNoByteOfAFileIsLost.settings = settings(max_examples=6, stateful_step_count=15, deadline=None)
