"""What reclaim asks of those who use pages: the seam between `linux` and guest or host.

Whoever owns pages (an address space, a file, KSM) registers as a `Mapping`; a page's descriptor
says which and where in it, as folio->mapping and folio->index do.  Everything is asked for a
batch of pages at once, so that an owner may answer with array operations.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvmlab.linux.frames import Pages


class Mapping(Protocol):
    """An owner of pages."""

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """By how many entries each page was accessed since last asked (folio_referenced())."""

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Take pages out of every table; a slot > 0 is where the contents will be in swap.

        False for a page that must stay (try_to_unmap()).
        """

    def write_back(self, pages: Pages) -> None:
        """Write dirty page cache to its file."""

    def split(self, page: int) -> Pages:
        """Split a huge page that is on no list; returns the pieces that are still mapped."""


class Mappers(Protocol):
    """Who maps pages of files into address spaces (mm/rmap.c, over i_mmap of each file)."""

    def referenced(self, pfn: int, file: int, page: int) -> int:
        """How many entries that map the page were used; their A is clear then."""

    def unmap(self, pfn: int, file: int, page: int) -> bool:
        """Take the page out of every table; False if somebody works with it just now."""

    def clean(self, pfn: int, file: int, page: int) -> None:
        """Take W and D from every entry, so that the next write is noticed (folio_mkclean())."""


class Contents(Protocol):
    """The bytes of frames: host RAM, or guest memory through the guest's CPU."""

    def read(self, pfn: int) -> bytes:
        """One page."""

    def write(self, pfn: int, data: bytes) -> None:
        """Fill one page."""

    def clear(self, first: int, count: int) -> None:
        """Make neighbouring frames read as zeroes."""
