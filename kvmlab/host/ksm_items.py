"""What KSM remembers of the pages that it scanned: struct ksm_rmap_item, a table's pages together.

Linux, mm/ksm.c.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.hardware.ram import WORDS
from kvmlab.host.page_table import BLOCK

_PAGES = BLOCK >> PAGE_SHIFT
_FOLD = np.uint64(29)  # upper bits of a word reach lower ones of the sum, too


def digest_weights() -> NDArray[np.uint64]:
    """An odd weight for each word of a page, the same in each run."""
    return np.random.default_rng(1).integers(0, 1 << 64, WORDS, np.uint64) | np.uint64(1)


def digests(rows: NDArray[np.int64], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for the contents of each page: another one if a single word differs.

    It stands for calc_checksum()'s xxhash: a weighted sum of the words, modulo 2**64.
    """
    words = rows.view(np.uint64)
    return (words ^ words >> _FOLD) @ weights


class TableItems:
    """Of the 512 pages that a table of small entries covers, by their place in it."""

    def __init__(self) -> None:
        self.seen: NDArray[np.int64] = np.zeros(_PAGES, np.int64)  # by which full scan; 0: never
        self.taken: NDArray[np.bool_] = np.zeros(_PAGES, np.bool_)  # whether there is a digest
        self.digest: NDArray[np.uint64] = np.zeros(_PAGES, np.uint64)
        self.unshared: NDArray[np.bool_] = np.zeros(_PAGES, np.bool_)

    def keep(self, scan: int) -> bool:
        """Forget what another full scan saw last; whether anything is left."""
        gone = self.seen != scan
        self.seen[gone] = 0
        self.taken[gone] = self.unshared[gone] = False
        return not gone.all()


class Items:
    """All that was scanned, by the process's number and the first HVA of a table's pages."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], TableItems] = {}

    def __iter__(self) -> Iterator[TableItems]:
        return iter(self._tables.values())

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(one.seen)) for one in self)

    @property
    def unshared(self) -> int:
        """How many were unique when they were last looked at."""
        return sum(int(np.count_nonzero(one.unshared)) for one in self)

    def of(self, number: int, hva: int) -> TableItems:
        """Those of the table that maps ``hva`` for process ``number``."""
        at = number, hva & -BLOCK
        if at not in self._tables:
            self._tables[at] = TableItems()
        return self._tables[at]

    def set_unshared(self, number: int, hva: int, *, value: bool) -> None:
        """A page is unique so far, or no more."""
        self.of(number, hva).unshared[hva >> PAGE_SHIFT & _PAGES - 1] = value

    def keep(self, scan: int) -> None:
        """Forget all that full scan number ``scan`` did not see (remove_trailing_rmap_items())."""
        self._tables = {at: one for at, one in self._tables.items() if one.keep(scan)}

    def clear(self) -> None:
        """Forget everything."""
        self._tables.clear()
