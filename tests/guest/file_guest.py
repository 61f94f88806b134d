"""A guest whose file 1 lies on its disk, for tests of mapped files."""

from kvmlab.guest.reclaim import Reclaimer
from kvmlab.machine import Machine

AREA, FILE, MIB, PAGE = 0x1000_0000, 0x2000_0000, 1 << 20, 4096


class Guest:
    """A guest whose file 1 has so many pages on its disk, none of them cached; a process."""

    def __init__(self, mmu="native", memory="8M", pages=64, swap=16, **options):
        self.records = []
        self.machine = Machine(mmu, guest_memory=memory, tap=self.records.append, **options)
        self.kernel = self.machine.guest
        self.reclaimer = Reclaimer(
            self.kernel, swap=swap * MIB, min_free_kbytes=256, tap=self.records.append
        )
        self.cache, self.stat = self.reclaimer.cache, self.reclaimer.stat
        self.free = self.kernel.frames.buddy.free_frames
        for page in range(pages):
            self.cache.write(1, page, data(page + 1))
        self.cache.sync()
        self.drop()
        self.process = self.begin("demo")

    def begin(self, name):
        process = self.kernel.spawn(name)
        self.kernel.switch(process)
        return process

    def drop(self):
        """Reclaim until nothing of file 1 is cached."""
        for _ in range(8):
            self.reclaimer.memory.reclaim.shrink(2000, "direct")
        assert self.reclaimer.meminfo()["Cached"] == 0

    def of(self, kind):
        return [one for one in self.records if isinstance(one, kind)]

    def entry(self, gva=FILE, process=None):
        found = self.kernel.tables.find((process or self.process).root, gva)
        return self.kernel.tables.read(found[0]) if found else 0

    def faults(self, deed):
        """Minor and major faults of a deed, as getrusage() splits them."""
        before = self.stat["pgfault"], self.stat["pgmajfault"]
        deed()
        every, major = self.stat["pgfault"] - before[0], self.stat["pgmajfault"] - before[1]
        return every - major, major

    def load(self, page):
        return self.kernel.load(FILE + page * PAGE)

    def store(self, page, value):
        self.kernel.store(FILE + page * PAGE, value)

    def end(self):
        """Everybody exits and nothing is cached: all memory is free."""
        for process in list(self.kernel.processes):
            self.kernel.exit(process)
        self.cache.sync()
        self.drop()
        assert self.kernel.frames.buddy.free_frames == self.free
        assert self.reclaimer.meminfo()["Mapped"] == 0
        assert self.reclaimer.memory.swap.used_slots() == {}


def data(value):
    return int(value).to_bytes(PAGE, "little")


def value(page):
    return int.from_bytes(page, "little")
