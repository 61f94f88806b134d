"""The page cache: pages of files in memory, read from a disk, written back when dirty.

Linux, mm/filemap.c: filemap_read(), generic_perform_write(), filemap_fault().  What processes map
are these same pages; a page is dirty from the fault of the first write through a mapping on.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.linux.frames import Pages, Role
from kvmlab.linux.mapping import Mappers
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
        self.mappers: Mappers | None = None  # who maps files, if anybody can

    def read(self, file: int, page: int) -> bytes:
        """A page of a file, from memory if it is there."""
        return self._memory.contents.read(self.page(file, page))

    def write(self, file: int, page: int, data: bytes) -> None:
        """Write a whole page of a file; the disk has it when it is written back."""
        pfn = self.page(file, page)
        self._memory.contents.write(pfn, data)
        self._memory.frames.put("dirty", pfn, value=True)

    def sync(self) -> None:
        """Write all dirty pages back; the next write through a mapping makes a page dirty again."""
        dirty = np.array(sorted(self._cached.values()), np.int64)
        dirty = dirty[self._memory.frames.dirty[dirty]]
        for pfn, file, page in self._places(dirty) if self.mappers else ():
            assert self.mappers is not None  # noqa: S101  see above
            self.mappers.clean(pfn, file, page)
        self.write_back(dirty)
        self._memory.frames.put("dirty", dirty, value=False)

    def cached(self, file: int, page: int) -> bool:
        """Whether a page of a file is in memory."""
        return file << _FILE_SHIFT | page in self._cached

    def page(self, file: int, page: int) -> int:
        """The frame with a page of a file, which is used by that, though nobody copies it.

        It is read from the disk if it was not in memory (filemap_get_pages()).
        """
        pfn = self._frame(file << _FILE_SHIFT | page)
        self._memory.mark_accessed(pfn)
        return pfn

    # -- for mappings -----------------------------------------------------------------------

    def fault(self, file: int, page: int) -> tuple[int, bool]:
        """The frame of a page that is to be mapped, and whether it had to be read: a major fault.

        Nothing is read ahead of it (page_cache_ra_unbounded()).
        """
        major = not self.cached(file, page)
        if major:
            self._memory.tell(VmEvent("pgmajfault"))
        return self._frame(file << _FILE_SHIFT | page), major

    def frame(self, file: int, page: int) -> int | None:
        """The frame of a page, if it is in memory."""
        return self._cached.get(file << _FILE_SHIFT | page)

    def holds(self, pfn: int) -> bool:
        """Whether a frame is of the page cache."""
        return bool(self._memory.frames.role[pfn] == Role.FILE)

    def written(self, pfn: int) -> None:
        """A page is about to be written through a mapping (page_mkwrite)."""
        self._memory.frames.put("dirty", pfn, value=True)

    def used(self, pfn: int) -> None:
        """A page was used through a mapping that is gone: the second use activates it."""
        self._memory.mark_accessed(pfn)

    def _frame(self, key: int) -> int:
        pfn = self._cached.get(key)
        if pfn is None:
            pfn = self._memory.alloc(Role.FILE)
            if key in self._disk:
                self._memory.contents.write(pfn, self._disk[key])
                self._memory.tell(VmEvent("pgpgin", _KIB))
            self._cached[key] = pfn
            self._memory.add_page(pfn, self._number, key, self._memory.lru_of(Role.FILE))
        return pfn

    def _places(self, pages: Pages) -> Iterator[tuple[int, int, int]]:
        """Each frame, the file and the page of it that is there."""
        for pfn, key in zip(pages.tolist(), self._memory.frames.index[pages].tolist(), strict=True):
            yield pfn, key >> _FILE_SHIFT, key & (1 << _FILE_SHIFT) - 1

    # -- what reclaim asks (linux/mapping.py) ---------------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """By how many entries each page was used; read() and write() leave PG_referenced."""
        if self.mappers is None:
            return np.zeros(len(pages), np.int64)
        return np.array([self.mappers.referenced(*one) for one in self._places(pages)], np.int64)

    def unmap(self, pages: Pages, _slots: Pages) -> NDArray[np.bool_]:
        """Pages leave all tables and the cache; what is dirty is written back before it is free."""
        gone = np.ones(len(pages), np.bool_)
        for number, (pfn, file, page) in enumerate(self._places(pages)):
            if self.mappers and not self.mappers.unmap(pfn, file, page):
                gone[number] = False
            else:
                del self._cached[file << _FILE_SHIFT | page]
        return gone

    def write_back(self, pages: Pages) -> None:
        """Write pages to the disk."""
        for pfn, key in zip(pages.tolist(), self._memory.frames.index[pages].tolist(), strict=True):
            self._disk[key] = self._memory.contents.read(pfn)
        if len(pages):
            self._memory.tell(VmEvent("pgpgout", _KIB * len(pages)))

    def split(self, page: int) -> Pages:
        """Nothing to do: its pages are small."""
        return np.array([page], np.int64)
