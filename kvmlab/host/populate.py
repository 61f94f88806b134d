"""Pages of a host process that are backed ahead of use, many at a time."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.tap import silent
from kvmlab.host.parts import Parts
from kvmlab.linux.frames import Role

if TYPE_CHECKING:
    from kvmlab.host.address_space import AddressSpace


def leading(some: NDArray[np.bool_]) -> int:
    """How many at the beginning are true."""
    return len(some) if some.all() else int(some.argmin())


def fill_table(space: "AddressSpace", parts: Parts, hva: int, end: int) -> int:
    """Back the pages from ``hva`` to ``end`` that lie in one table, as faults one by one would.

    Returns where to go on: where something is mapped or swapped already, or at ``hva`` itself if
    records must tell of each page, a huge page may come, or kswapd would be woken.
    """
    memory = parts.memory
    address, entries = space.table.small_entries(hva, end)
    count = leading(entries == 0)
    scarce = memory.buddy.free_frames - count < memory.zone.marks.low
    if parts.tap is not silent or not count or scarce:
        return hva
    if memory.huge.wanted(space.areas.find(hva)):
        return hva
    pfns = memory.alloc_pages(Role.ANON, count)
    space.table.fill(address, pfns)
    space.rss += count
    space.adopt(pfns, hva)
    return hva + (count << PAGE_SHIFT)
