"""A small kernel for tests: owners of pages whose tables are dictionaries."""

import numpy as np

from kvmlab.linux.buddy import Buddy
from kvmlab.linux.frames import Role
from kvmlab.linux.lru import Lru
from kvmlab.linux.memory import Memory
from kvmlab.linux.swap import Swap
from kvmlab.linux.vmstat import VmStat

FIRST = 256


class Bytes:
    """Contents of frames in a dictionary; a freed frame reads as zeroes."""

    def __init__(self):
        self.data = {}

    def read(self, pfn):
        return self.data.get(pfn, bytes(4096))

    def write(self, pfn, data):
        self.data[pfn] = data

    def clear(self, pfn, count):
        for one in range(pfn, pfn + count):
            self.data.pop(one, None)


class Owner:
    """A process: index -> frame, or -> swap slot; which pages it touched; also a page cache."""

    def __init__(self, kernel, name="process"):
        self.kernel, self.name, self.oom_score_adj = kernel, name, 0
        self.number = kernel.memory.register(self)
        self.present, self.swapped, self.touched, self.pinned = {}, {}, set(), set()
        self.disk, self.written = {}, []

    # -- the seam ---------------------------------------------------------------------------

    def referenced(self, pages):
        indexes = self.kernel.memory.frames.index[pages].tolist()
        found = np.array([one in self.touched for one in indexes], np.int64)
        self.touched -= set(indexes)
        return found

    def unmap(self, pages, slots):
        indexes = self.kernel.memory.frames.index[pages].tolist()
        gone = np.array([one not in self.pinned for one in indexes], bool)
        for index, slot, goes in zip(indexes, slots.tolist(), gone, strict=True):
            if goes:
                del self.present[index]
                if slot:
                    self.swapped[index] = slot
        return gone

    def write_back(self, pages):
        for pfn in pages.tolist():
            index = int(self.kernel.memory.frames.index[pfn])
            self.disk[index] = self.kernel.contents.read(pfn)
            self.written.append(index)

    def split(self, page):
        return self.kernel.memory.frames.split(page)

    # -- what it does -----------------------------------------------------------------------

    def touch(self, index, data=None, role=Role.ANON):
        """Use a page, faulting it in; ``data`` is written to it."""
        memory = self.kernel.memory
        pfn = self.present.get(index)
        if pfn is None:
            pfn = memory.alloc(role)
            if index in self.swapped:
                memory.swap_in(self.swapped.pop(index), pfn)
            elif index in self.disk:
                memory.contents.write(pfn, self.disk[index])
            self.present[index] = pfn
            memory.add_page(pfn, self.number, index, memory.lru_of(role))
        self.touched.add(index)
        if data is not None:
            memory.contents.write(pfn, data)
            memory.frames.put("dirty", pfn, role in (Role.FILE, Role.BUFFERS))
        return memory.contents.read(pfn)

    def free(self, index):
        if index in self.present:
            self.kernel.memory.free(self.present.pop(index))
        elif index in self.swapped:
            self.kernel.memory.swap.release(self.swapped.pop(index))

    @property
    def rss(self):
        return len(self.present)

    @property
    def swap_entries(self):
        return len(self.swapped)

    @property
    def table_pages(self):
        return 0

    def kill(self):
        for index in [*self.present, *self.swapped]:
            self.free(index)
        return True


class Kernel:
    """A memory of ``frames`` frames and swap of ``slots`` pages."""

    def __init__(self, frames, slots=0, min_free_kbytes=None):
        self.stat, self.records = VmStat(), []
        self.contents = Bytes()
        self.memory = Memory(
            Buddy(FIRST, frames),
            self.contents,
            self.tap,
            swap=Swap(slots * 4096),
            min_free_kbytes=min_free_kbytes,
        )

    def tap(self, record):
        self.stat(record)
        self.records.append(record)

    def process(self, name="process", killable=True):
        owner = Owner(self, name)
        if killable:
            self.memory.processes.append(owner)
        return owner

    def check(self):
        """Every frame is free or in one role, and the lists know what they hold."""
        memory = self.memory
        assert sum(memory.frames.counts().values()) + memory.buddy.free_frames == memory.buddy.total
        for lru in Lru:
            pages = memory.lists.pages(lru)
            assert memory.lists.size[lru] == int(memory.frames.sizes(pages).sum())
        assert memory.swap.free + len(memory.swap.used_slots()) == memory.swap.total


def page(number):
    return int(number).to_bytes(4096, "little")
