"""The parts of the host's memory management that every process uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmlab.base.addresses import PAGE_SHIFT, size_text
from kvmlab.base.errors import BadSize, OutOfMemory
from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import Ram
from kvmlab.linux.frames import Pages, Role
from kvmlab.linux.hugetlb import HugetlbPool
from kvmlab.linux.memory import Memory

if TYPE_CHECKING:
    from kvmlab.host.ksm import Ksm


@dataclass(slots=True)
class Parts:
    """One kernel's memory, its pools and its KSM."""

    ram: Ram
    memory: Memory
    ksm: "Ksm"
    pools: Mapping[int, HugetlbPool]
    tap: Tap

    def plain(self, pfns: Pages) -> bool:
        """Whether all of these are anonymous pages of their own: not shared, of no huge page."""
        anon = self.memory.frames.role[pfns] == Role.ANON
        return bool(anon.all()) and not self.memory.huge.pieces_among(pfns)

    def check_commit(self, size: int) -> None:
        """Refuse an area that all memory and all swap together could not hold.

        Linux, mm/util.c: __vm_enough_memory() under OVERCOMMIT_GUESS, the default; what was
        promised before does not count.  All of RAM does, also what the kernel keeps for itself.
        Raises `OutOfMemory`.
        """
        room = self.ram.size + (self.memory.swap.total << PAGE_SHIFT)
        if size > room:
            raise OutOfMemory(
                f"Cannot allocate memory: an area of {size_text(size)} on a host whose memory and "
                f"swap together are {size_text(room)}"
            )

    def pool(self, shift: int) -> HugetlbPool | None:
        """The hugetlb pool of pages of 2**shift bytes; None for 4 KiB.  Raises `BadSize`."""
        if shift == PAGE_SHIFT:
            return None
        if shift not in self.pools:
            raise BadSize(f"pages of {1 << shift:#x} bytes are no host pages: use 4K, 2M or 1G")
        return self.pools[shift]
