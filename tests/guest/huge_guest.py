"""A guest with huge pages for tests: its records, its vmstat, and pages of known contents."""

from kvmlab.guest.reclaim import Reclaimer
from kvmlab.machine import Machine

AREA, MIB = 0x1000_0000, 1 << 20
HUGE = 2 * MIB


class Guest:
    """A guest whose kernel manages its memory, and a process with a mapping of some MiB."""

    def __init__(
        self, mmu="native", memory="32M", mib=8, swap=16, enabled="always", at=AREA, **options
    ):
        self.records = []
        self.machine = Machine(mmu, guest_memory=memory, tap=self.records.append, **options)
        self.kernel = self.machine.guest
        self.reclaimer = Reclaimer(self.kernel, swap=swap * MIB, min_free_kbytes=256)
        self.stat, self.huge = self.reclaimer.stat, self.reclaimer.huge
        self.huge.enabled = enabled
        self.free = self.kernel.frames.buddy.free_frames
        self.process = self.kernel.spawn("demo")
        self.kernel.switch(self.process)
        self.process.mmap(at, mib * MIB)

    def of(self, kind):
        return [one for one in self.records if isinstance(one, kind)]

    def shift(self, gva=AREA, process=None):
        """The shift of the entry that maps ``gva``; None if none does."""
        found = self.kernel.tables.find((process or self.process).root, gva)
        return self.kernel.tables.shift_of(found[1]) if found else None

    def fill(self, pages, first=0):
        for page in range(first, first + pages):
            self.kernel.store(AREA + page * 4096, page + 1)

    def read(self, pages, first=0):
        return [self.kernel.load(AREA + page * 4096) for page in range(first, first + pages)]

    def meminfo(self, field):
        return self.reclaimer.meminfo()[field]

    def check(self):
        """All of the memory comes back when nobody is left."""
        for process in list(self.kernel.processes):
            self.kernel.exit(process)
        assert self.kernel.frames.buddy.free_frames == self.free
        assert self.reclaimer.memory.swap.used_slots() == {}
        assert self.meminfo("AnonPages") == self.meminfo("AnonHugePages") == 0


def numbers(pages, first=0):
    return list(range(first + 1, first + pages + 1))


def scarce(**options):
    """A guest that has many free frames, but no free block of 2 MiB."""
    guest = Guest(memory="8M", mib=2, **options)
    frames = guest.kernel.frames
    taken = frames.take(frames.buddy.free_frames - guest.reclaimer.memory.zone.marks.low - 1)
    frames.give_back([page for number, page in enumerate(taken) if number % 2])
    guest.kept = [page for number, page in enumerate(taken) if number % 2 == 0]
    return guest
