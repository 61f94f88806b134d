"""The traditional memory balloon: device 5.  VIRTIO 1.2, section 5.5.

Sizes are in pages of 4096 bytes whatever the guest's pages are; every field is little endian.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

DEVICE_ID = 5
MOST_PFNS = 256  # that Linux puts into one buffer: VIRTIO_BALLOON_ARRAY_PFNS_MAX


class Feature(IntEnum):
    """Feature bits."""

    MUST_TELL_HOST = 0  # no page is used again before the deflate request was acknowledged
    STATS_VQ = 1
    DEFLATE_ON_OOM = 2  # a starved guest may take pages back by itself
    FREE_PAGE_HINT = 3
    PAGE_POISON = 4
    REPORTING = 5


class Field(IntEnum):
    """Offsets of the configuration space, four 32-bit fields."""

    NUM_PAGES = 0  # the host's: how much the guest is to give up
    ACTUAL = 4  # the guest's: how much it has
    FREE_PAGE_HINT_CMD_ID = 8  # the host's
    POISON_VAL = 12  # the guest's


HINT_STOP, HINT_DONE = 0, 1  # command ids with a meaning; a round has any other

Queue = str  # queues go by name: their numbers depend on which of them exist
INFLATE, DEFLATE, STATS, HINT, REPORT = "inflate", "deflate", "stats", "free_page", "reporting"
_QUEUE_FEATURES = MappingProxyType(
    {
        INFLATE: None,
        DEFLATE: None,
        STATS: Feature.STATS_VQ,
        HINT: Feature.FREE_PAGE_HINT,
        REPORT: Feature.REPORTING,
    }
)


def queues(features: Iterable[int]) -> list[Queue]:
    """The queues that exist with these features, in the order of their numbers.

    Linux and QEMU number only those that exist; the specification's fixed numbers are not used.
    """
    have = set(features)
    return [name for name, needs in _QUEUE_FEATURES.items() if needs is None or needs in have]


def config_size(features: Iterable[int]) -> int:
    """Bytes of configuration space: as far as the features need (QEMU's rule)."""
    have = set(features)
    if Feature.PAGE_POISON in have:
        return 16
    return 12 if Feature.FREE_PAGE_HINT in have else 8


class Tag(IntEnum):
    """What a statistic is; the host ignores tags that it does not know."""

    SWAP_IN = 0  # bytes, as all but counts
    SWAP_OUT = 1
    MAJFLT = 2  # count
    MINFLT = 3  # count: of all faults, so it includes the major ones
    MEMFREE = 4
    MEMTOT = 5
    AVAIL = 6
    CACHES = 7
    HTLB_PGALLOC = 8  # count
    HTLB_PGFAIL = 9  # count
    OOM_KILL = 10  # count
    ALLOC_STALL = 11  # count
    ASYNC_SCAN = 12
    DIRECT_SCAN = 13
    ASYNC_RECLAIM = 14
    DIRECT_RECLAIM = 15


_STAT = struct.Struct("<HQ")  # packed: 10 bytes
STAT_BYTES = _STAT.size


def pack_stats(stats: Iterable[tuple[int, int]]) -> bytes:
    """Records of (tag, value), 10 bytes each."""
    return b"".join(_STAT.pack(tag, value & (1 << 64) - 1) for tag, value in stats)


def unpack_stats(data: bytes) -> list[tuple[int, int]]:
    """The (tag, value) of each whole record; a rest of fewer than 10 bytes is ignored."""
    return list(_STAT.iter_unpack(data[: len(data) // STAT_BYTES * STAT_BYTES]))


def pack_pfns(pfns: Iterable[int]) -> bytes:
    """An array of page frame numbers, 32 bits each: they reach to 16 TiB."""
    return np.fromiter(pfns, dtype="<u4").tobytes()


def unpack_pfns(data: bytes) -> NDArray[np.int64]:
    """The page frame numbers of an array; a rest of fewer than 4 bytes is ignored."""
    return np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4").astype(np.int64)
