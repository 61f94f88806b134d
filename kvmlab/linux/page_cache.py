"""The page cache: pages of files in memory, read from a disk, written back when dirty.

Linux, mm/filemap.c: filemap_read(), generic_perform_write().
"""

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.linux.frames import Pages, Role
from kvmlab.linux.memory import Memory
from kvmlab.linux.records import VmEvent

_FILE_SHIFT = 32  # a file may have 2**32 pages
_KIB = PAGE_SIZE >> 10  # pgpgin and pgpgout count KiB


class PageCache:
    """All files of one kernel, by number, on a disk that keeps what it is given."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._number = memory.register(self)
        self._cached: dict[int, int] = {}  # file and page -> frame
        self._disk: dict[int, bytes] = {}

    def read(self, file: int, page: int) -> bytes:
        """A page of a file, from memory if it is there."""
        return self._memory.contents.read(self.page(file, page))

    def write(self, file: int, page: int, data: bytes) -> None:
        """Write a whole page of a file; the disk has it when it is written back."""
        pfn = self.page(file, page)
        self._memory.contents.write(pfn, data)
        self._memory.frames.put("dirty", pfn, value=True)

    def sync(self) -> None:
        """Write all dirty pages back."""
        dirty = np.array(sorted(self._cached.values()), np.int64)
        dirty = dirty[self._memory.frames.dirty[dirty]]
        self.write_back(dirty)
        self._memory.frames.put("dirty", dirty, value=False)

    def cached(self, file: int, page: int) -> bool:
        """Whether a page of a file is in memory."""
        return file << _FILE_SHIFT | page in self._cached

    def page(self, file: int, page: int) -> int:
        """The frame with a page of a file, which is used by that, though nobody copies it.

        It is read from the disk if it was not in memory (filemap_get_pages()).
        """
        key = file << _FILE_SHIFT | page
        pfn = self._cached.get(key)
        if pfn is None:
            pfn = self._memory.alloc(Role.FILE)
            if key in self._disk:
                self._memory.contents.write(pfn, self._disk[key])
                self._memory.tell(VmEvent("pgpgin", _KIB))
            self._cached[key] = pfn
            self._memory.add_page(pfn, self._number, key, self._memory.lru_of(Role.FILE))
        self._memory.mark_accessed(pfn)
        return pfn

    # -- what reclaim asks (linux/mapping.py) ---------------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """By no entry: files are read and written here, not mapped."""
        return np.zeros(len(pages), np.int64)

    def unmap(self, pages: Pages, _slots: Pages) -> NDArray[np.bool_]:
        """Pages leave the cache; dirty ones are written back before they are free."""
        for key in self._memory.frames.index[pages].tolist():
            del self._cached[key]
        return np.ones(len(pages), np.bool_)

    def write_back(self, pages: Pages) -> None:
        """Write pages to the disk."""
        for pfn, key in zip(pages.tolist(), self._memory.frames.index[pages].tolist(), strict=True):
            self._disk[key] = self._memory.contents.read(pfn)
        if len(pages):
            self._memory.tell(VmEvent("pgpgout", _KIB * len(pages)))

    def split(self, page: int) -> Pages:
        """Nothing to do: its pages are small."""
        return np.array([page], np.int64)
