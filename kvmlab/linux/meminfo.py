"""/proc/meminfo: what the state of the frames amounts to, in KiB.

Linux, fs/proc/meminfo.c: meminfo_proc_show(), mm/page_alloc.c: si_mem_available().
"""

from collections.abc import Iterable

import numpy as np

from kvmlab.linux.frames import Role
from kvmlab.linux.huge_pages import ORDER
from kvmlab.linux.hugetlb import HugetlbPool
from kvmlab.linux.lru import Lru
from kvmlab.linux.memory import Memory

_KIB = 4  # of one frame
_CACHE = (Role.FILE, Role.BUFFERS)
_DEFAULT_HUGE = 21


def available(free: int, cache: int, reserve: int, low: int, reclaimable: int = 0) -> int:
    """MemAvailable: what may be used without swapping, in the unit of the arguments.

    ``reserve`` is never given to programs; of the page ``cache`` of files, and of the
    ``reclaimable`` slab, as much is thought to be needed as the ``low`` mark, or half of it.
    """
    found = free - reserve + cache - min(cache // 2, low)
    return max(0, found + reclaimable - min(reclaimable // 2, low))


def mem_available(memory: Memory) -> int:
    """MemAvailable of a kernel, in pages; the reserve is the high mark (totalreserve_pages)."""
    sizes, marks = memory.lists.size, memory.zone.marks
    cache = sizes[Lru.INACTIVE_FILE] + sizes[Lru.ACTIVE_FILE]
    return available(memory.buddy.free_frames, cache, marks.high, marks.low)


def meminfo(
    memory: Memory, pools: Iterable[HugetlbPool] = (), *, mapped: int | None = None
) -> dict[str, int]:
    """The fields of /proc/meminfo in their order, in KiB (HugePages_* are counts of pages).

    Mapped is there if the kernel says how many pages of files are ``mapped``.
    """
    frames, size, roles = memory.frames, memory.lists.size, memory.frames.counts()
    anon_active, anon_idle = size[Lru.ACTIVE_ANON], size[Lru.INACTIVE_ANON]
    file_active, file_idle = size[Lru.ACTIVE_FILE], size[Lru.INACTIVE_FILE]
    huge = (frames.order == ORDER) & (frames.role == Role.ANON)
    anon_huge = int(huge.sum()) - len(memory.huge.only_small())
    pages = {
        "MemTotal": memory.zone.managed,
        "MemFree": memory.buddy.free_frames,
        "MemAvailable": mem_available(memory),
        "Buffers": roles[Role.BUFFERS],
        "Cached": roles[Role.FILE] + roles[Role.SHMEM],
        "SwapCached": 0,  # a page that comes back from swap leaves its slot at once
        "Active": anon_active + file_active,
        "Inactive": anon_idle + file_idle,
        "Active(anon)": anon_active,
        "Inactive(anon)": anon_idle,
        "Active(file)": file_active,
        "Inactive(file)": file_idle,
        "SwapTotal": memory.swap.total,
        "SwapFree": memory.swap.free,
        "Dirty": int(frames.dirty[np.isin(frames.role, _CACHE)].sum()),
        "AnonPages": roles[Role.ANON] + roles[Role.KSM],
        "Mapped": mapped,
        "Shmem": roles[Role.SHMEM],
        "PageTables": roles[Role.TABLE],
        "SecPageTables": roles[Role.SECONDARY],
        "AnonHugePages": anon_huge << ORDER,
    }
    told = {name: count * _KIB for name, count in pages.items() if count is not None}
    return told | _huge_fields(pools)


def _huge_fields(pools: Iterable[HugetlbPool]) -> dict[str, int]:
    """Counts of the default size, 2 MiB; Hugetlb is the memory of all sizes."""
    by_shift = {pool.shift: pool for pool in pools}
    default = by_shift.get(_DEFAULT_HUGE)
    return {
        "HugePages_Total": default.total if default else 0,
        "HugePages_Free": default.free if default else 0,
        "HugePages_Rsvd": default.reserved if default else 0,
        "HugePages_Surp": default.surplus if default else 0,
        "Hugepagesize": 1 << _DEFAULT_HUGE - 10,
        "Hugetlb": sum(pool.total << pool.shift - 10 for pool in by_shift.values()),
    }
