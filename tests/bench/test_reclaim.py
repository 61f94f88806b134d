"""Reclaim at the size of a busy host: 64 guests of 4 GiB for a day, in units of 2 MiB.

`linux` knows no page tables: here its owners are arrays, and a "page" is a block of 2 MiB, so
that a day on a host of 192 GiB is some hundred thousand faults.  pytest tests/bench -s
"""

from time import process_time

import numpy as np
import pytest

from kvmlab.base.tap import silent
from kvmlab.linux.buddy import Buddy
from kvmlab.linux.frames import Role
from kvmlab.linux.lru import Lru
from kvmlab.linux.memory import Memory
from kvmlab.linux.swap import Swap

GUESTS, UNITS, HOST = 64, 2048, 96 << 10  # blocks of 2 MiB: 4 GiB each, 192 GiB in all
MINUTES = 24 * 60
pytestmark = pytest.mark.bench


class Nothing:
    """Blocks without contents."""

    def read(self, _pfn):
        return b""

    def write(self, _pfn, _data):
        pass

    def clear(self, _first, _count):
        pass


class Guests:
    """All guests as one owner: arrays of where each block is and whether it was touched."""

    def __init__(self, memory):
        self.memory = memory
        self.number = memory.register(self)
        self.pfn = np.zeros(GUESTS * UNITS, np.int64)
        self.slot = np.zeros(GUESTS * UNITS, np.int64)
        self.young = np.zeros(GUESTS * UNITS, np.bool_)
        self.faults = self.major = 0

    def touch(self, blocks):
        self.young[blocks] = True
        for block in blocks[self.pfn[blocks] == 0].tolist():
            self.faults += 1
            pfn = self.memory.alloc(Role.ANON)
            if slot := int(self.slot[block]):
                self.memory.swap.release(slot)
                self.slot[block] = 0
                self.major += 1
            self.pfn[block] = pfn
            self.memory.add_page(pfn, self.number, block, Lru.INACTIVE_ANON)

    def referenced(self, pages):
        blocks = self.memory.frames.index[pages]
        found = self.young[blocks].astype(np.int64)
        self.young[blocks] = False
        return found

    def unmap(self, pages, slots):
        blocks = self.memory.frames.index[pages]
        self.pfn[blocks], self.slot[blocks] = 0, slots
        return np.ones(len(pages), np.bool_)

    def write_back(self, pages):
        pass

    def split(self, page):
        return np.array([page])


def test_a_day_of_64_guests_of_4_gib_on_a_host_of_192_gib_takes_seconds():
    memory = Memory(Buddy(1, HOST), Nothing(), silent, swap=Swap(GUESTS * UNITS * 4096))
    memory.reclaim.batch = 512
    guests, choose = Guests(memory), np.random.default_rng(1)
    base = choose.integers(0, UNITS, GUESTS)
    start = process_time()
    for _minute in range(MINUTES):
        base = (base + choose.integers(0, 8, GUESTS)) % UNITS  # working sets move slowly
        offsets = choose.integers(0, UNITS // 2, (GUESTS, 64))
        blocks = np.unique((base[:, None] + offsets) % UNITS + np.arange(GUESTS)[:, None] * UNITS)
        guests.touch(blocks)
        memory.balance()
    seconds = process_time() - start
    print(
        f"\na day in {seconds:.1f} s: {guests.faults} faults, {guests.major} of them major, "
        f"{seconds / guests.faults * 1e6:.0f} us each"
    )
    assert guests.major > 10_000
    resident = int((guests.pfn > 0).sum())
    assert resident + memory.buddy.free_frames == HOST
    assert int((guests.slot > 0).sum()) == len(memory.swap.used_slots())
    assert seconds < 60
