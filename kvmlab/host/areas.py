"""The areas of a host process: which HVAs exist, and what was advised (vm_area_struct)."""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmlab.base.addresses import PAGE_SIZE, size_text
from kvmlab.base.errors import BadAddress, BadSize, Overlap
from kvmlab.linux.hugetlb import HugetlbPool

_MMAP_BASE = 0x7F5A_0000_0000  # where mmap starts to place areas; areas grow upwards from here


@dataclass(slots=True)
class Area:
    """One area of anonymous memory; with a ``pool``, of its huge pages."""

    start: int
    end: int
    shift: int
    pool: HugetlbPool | None
    huge: bool | None = None  # MADV_HUGEPAGE, MADV_NOHUGEPAGE, or no advice
    mergeable: bool = False  # MADV_MERGEABLE
    locked: bool = False  # mlock(): never swapped


class Areas:
    """All areas of one process."""

    def __init__(self) -> None:
        self._areas: list[Area] = []
        self._next = _MMAP_BASE

    def __iter__(self) -> Iterator[Area]:
        return iter(self._areas)

    def add(self, size: int, shift: int, pool: HugetlbPool | None, at: int | None) -> Area:
        """An area of ``size`` bytes, at a multiple of its page size.

        With ``at`` there, or raises `BadAddress` if that is no such multiple, and `Overlap` for
        ground already taken.  Raises `BadSize`.
        """
        page = 1 << shift
        if size <= 0 or size % page:
            raise BadSize(f"{size_text(size)} is no multiple of the host page {size_text(page)}")
        start = -(-self._next // page) * page if at is None else at
        if start % page:
            raise BadAddress(f"mapping at {start:#x} is not aligned to {size_text(page)}")
        for other in self._areas:
            if start < other.end and other.start < start + size:
                raise Overlap(
                    f"mapping at {start:#x} overlaps the one at {other.start:#x} to "
                    f"{other.end - 1:#x}"
                )
        if at is None:
            self._next = start + size + PAGE_SIZE  # a guard page
        area = Area(start, start + size, shift, pool)
        self._areas.append(area)
        return area

    def find(self, hva: int) -> Area:
        """The area that holds ``hva``; raises `BadAddress`."""
        for area in self._areas:
            if area.start <= hva < area.end:
                return area
        raise BadAddress(f"HVA {hva:#x} is in no area of the process")

    def whole_pages(self, hva: int, size: int) -> Area:
        """The area in which ``size`` bytes at ``hva`` are whole pages; raises `BadAddress`."""
        area = self.find(hva)
        page = 1 << area.shift
        if hva % page or size <= 0 or size % page or hva + size > area.end:
            raise BadAddress(
                f"HVA {hva:#x} with {size:#x} bytes is no range of whole pages of "
                f"{size_text(page)} in one area"
            )
        return area

    def remove(self, area: Area) -> None:
        """An area goes."""
        self._areas.remove(area)

    def clear(self) -> None:
        """The process ended."""
        self._areas.clear()
