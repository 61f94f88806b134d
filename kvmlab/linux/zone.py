"""A zone: how many pages the allocator manages, and the watermarks that wake reclaim.

Linux, mm/page_alloc.c.  There is one zone here, where a PC has two or three; NUMA is left out, and
so is what khugepaged raises min_free_kbytes to when it starts.
"""

from dataclasses import dataclass
from math import isqrt

from kvmlab.base.errors import BadSize

_SCALE_FACTOR, _SCALE = 10, 10_000  # vm.watermark_scale_factor: 0.1 % between the marks


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free pages: below min allocations reclaim, below low kswapd wakes, at high it sleeps."""

    min: int
    low: int
    high: int


def default_min_free_kbytes(managed: int) -> int:
    """vm.min_free_kbytes for ``managed`` pages (calculate_min_free_kbytes())."""
    return min(max(isqrt(managed * 4 * 16), 128), 262_144)


def watermarks(managed: int, min_free_kbytes: int) -> Watermarks:
    """The marks of the one zone, in pages (__setup_per_zone_wmarks())."""
    low = min_free_kbytes >> 2
    gap = max(low >> 2, managed * _SCALE_FACTOR // _SCALE)
    return Watermarks(low, low + gap, low + 2 * gap)


class Zone:
    """Pages under the allocator's management; a balloon takes some away and brings them back.

    ``managed`` follows the balloon; the marks stay, as they are set anew only at boot and by
    sysctl (adjust_managed_page_count()).
    """

    def __init__(self, managed: int, min_free_kbytes: int | None = None) -> None:
        self.managed = managed
        self.set_min_free(
            default_min_free_kbytes(managed) if min_free_kbytes is None else min_free_kbytes
        )

    def set_min_free(self, kbytes: int) -> None:
        """Write vm.min_free_kbytes; raises `BadSize` if it is more than there is."""
        if not 0 <= kbytes < self.managed * 4:
            raise BadSize(
                f"min_free_kbytes {kbytes} must be from 0 to below the zone's {self.managed * 4}"
            )
        self.min_free_kbytes = kbytes
        self.marks = watermarks(self.managed, kbytes)
