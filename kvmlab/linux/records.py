"""What a kernel does with frames, one record per event; /proc/vmstat is a fold over them."""

from dataclasses import dataclass


@dataclass(slots=True)
class VmEvent:
    """Something that /proc/vmstat counts happened ``count`` times, under the kernel's name."""

    item: str
    count: int = 1


@dataclass(slots=True)
class Scan:
    """Pages were taken from the tail of an inactive list: what became of them."""

    by: str  # "kswapd" or "direct"
    lru: str  # "anon" or "file"
    scanned: int
    reclaimed: int
    activated: int


@dataclass(slots=True)
class Deactivated:
    """Pages went from an active list to the inactive one, oldest first."""

    lru: str
    count: int


@dataclass(slots=True)
class KswapdWoken:
    """An allocation left fewer pages free than the low watermark."""

    free: int
    low: int


@dataclass(slots=True)
class OomKill:
    """Nothing was left to reclaim, so the kernel killed the worst process; in pages."""

    victim: str
    badness: int
    rss: int
    swap: int
    tables: int
