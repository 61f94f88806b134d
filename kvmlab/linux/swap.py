"""A swap device: slots of one page each, which keep contents while nobody has them in memory.

Linux, mm/swapfile.c.  Slot 0 is the header of a swap area, so a slot number is never 0.
"""

import numpy as np

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadSize
from kvmlab.linux.frames import Pages

_ZEROES = bytes(PAGE_SIZE)


class Swap:
    """Swap space of ``size`` bytes; 0 is none."""

    def __init__(self, size: int = 0) -> None:
        self.total = 0
        self.add(size)
        self._next = 1
        self._freed: list[int] = []
        self._users: dict[int, int] = {}  # swap_map: how many entries name a slot
        self._data: dict[int, bytes] = {}  # a page of zeroes takes no space

    def add(self, size: int) -> None:
        """Make it ``size`` bytes larger (swapon()); raises `BadSize`."""
        if size < 0 or size % PAGE_SIZE:
            raise BadSize(f"swap of {size:#x} bytes is no multiple of 4 KiB")
        self.total += size // PAGE_SIZE

    @property
    def free(self) -> int:
        """Slots left."""
        return self.total - len(self._users)

    def alloc(self, count: int) -> Pages:
        """Up to ``count`` slots, each with one user."""
        count = min(count, self.free)
        fresh = min(count, self.total + 1 - self._next)
        slots = list(range(self._next, self._next + fresh))
        slots += [self._freed.pop() for _ in range(count - fresh)]
        self._next += fresh
        self._users.update(dict.fromkeys(slots, 1))
        return np.array(slots, np.int64)

    def store(self, slot: int, data: bytes) -> None:
        """Write a page to its slot."""
        if data != _ZEROES:
            self._data[slot] = data

    def load(self, slot: int) -> bytes:
        """The page in a slot."""
        return self._data.get(slot, _ZEROES)

    def share(self, slot: int, users: int) -> None:
        """``users`` more entries name the slot (swap_duplicate())."""
        self._users[slot] += users

    def release(self, slot: int) -> None:
        """One entry less names the slot; the last one frees it (swap_free())."""
        self._users[slot] -= 1
        if not self._users[slot]:
            del self._users[slot]
            self._data.pop(slot, None)
            self._freed.append(slot)

    def used_slots(self) -> dict[int, int]:
        """Every slot in use and how many entries name it."""
        return dict(self._users)
