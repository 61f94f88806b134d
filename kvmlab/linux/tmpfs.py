"""tmpfs: files that are nowhere but in memory and, when that is short, in swap.

Linux, mm/shmem.c: shmem_get_folio(), shmem_writepage(), shmem_undo_range().
"""

import numpy as np
from numpy.typing import NDArray

from kvmlab.linux.frames import Pages, Role
from kvmlab.linux.memory import Memory

_FILE_SHIFT = 32  # a file may have 2**32 pages


class Tmpfs:
    """All such files of one kernel, by number."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._number = memory.register(self)
        self._cached: dict[int, int] = {}  # file and page -> frame
        self._swapped: dict[int, int] = {}  # file and page -> slot

    def read(self, file: int, page: int) -> bytes:
        """A page of a file; one that was never written is all zero."""
        return self._memory.contents.read(self._page(file << _FILE_SHIFT | page))

    def write(self, file: int, page: int, data: bytes) -> None:
        """Write a whole page of a file."""
        self._memory.contents.write(self._page(file << _FILE_SHIFT | page), data)

    def remove(self, file: int) -> None:
        """Delete a file: its frames and slots are free at once."""
        for key in [key for key in self._cached if key >> _FILE_SHIFT == file]:
            self._memory.free(self._cached.pop(key))
        for key in [key for key in self._swapped if key >> _FILE_SHIFT == file]:
            self._memory.swap.release(self._swapped.pop(key))

    def _page(self, key: int) -> int:
        pfn = self._cached.get(key)
        if pfn is None:
            pfn = self._memory.alloc(Role.SHMEM)
            if slot := self._swapped.pop(key, 0):
                self._memory.swap_in(slot, pfn)
            self._cached[key] = pfn
            self._memory.add_page(pfn, self._number, key, self._memory.lru_of(Role.SHMEM))
        self._memory.mark_accessed(pfn)
        return pfn

    # -- what reclaim asks (linux/mapping.py) ---------------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """By no entry: files are read and written here, not mapped."""
        return np.zeros(len(pages), np.int64)

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Pages go to swap."""
        keys = self._memory.frames.index[pages].tolist()
        for key, slot in zip(keys, slots.tolist(), strict=True):
            del self._cached[key]
            self._swapped[key] = slot
        return np.ones(len(pages), np.bool_)

    def write_back(self, pages: Pages) -> None:
        """Nothing to do: there is no file elsewhere."""

    def split(self, page: int) -> Pages:
        """Nothing to do: its pages are small."""
        return np.array([page], np.int64)
