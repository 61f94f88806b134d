"""Transparent huge pages in a host process: at a fault, and copied together by khugepaged.

Linux, mm/huge_memory.c: do_huge_pmd_anonymous_page(); mm/khugepaged.c: collapse_huge_page().
"""

from typing import TYPE_CHECKING

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.errors import OutOfMemory
from kvmlab.host.areas import Area
from kvmlab.host.page_table import ACCESSED, LARGE, PAGE, WRITABLE, Leaf
from kvmlab.host.parts import Parts
from kvmlab.host.records import HostCollapsed
from kvmlab.linux.frames import Role
from kvmlab.linux.huge_pages import HUGE_SIZE, PIECES, base_of_huge, huge_fits, huge_ranges
from kvmlab.linux.khugepaged import Small
from kvmlab.linux.records import VmEvent

if TYPE_CHECKING:
    from kvmlab.host.address_space import AddressSpace


def huge_fault(space: "AddressSpace", parts: Parts, area: Area, hva: int) -> bool:
    """Back the 2 MiB around ``hva`` with one page, if nothing is mapped there yet."""
    huge = parts.memory.huge
    if not huge.wanted(area) or not huge_fits(area, hva):
        return False
    base = base_of_huge(hva)
    address = space.table.prepare(base, 2)
    if space.table.entry(address):
        return False
    space.table.deposit(address)
    try:
        pfn = huge.alloc_at_fault(area)
    except OutOfMemory:
        space.table.withdraw(address)
        parts.tap(VmEvent("thp_fault_fallback"))
        return False
    space.map_page(base, pfn, address, PAGE | LARGE)
    parts.tap(VmEvent("thp_fault_alloc"))
    return True


class Collapse:
    """A process as khugepaged sees it (linux/khugepaged.py)."""

    def __init__(self, space: "AddressSpace", parts: Parts) -> None:
        self._space, self._parts, self.number = space, parts, space.number

    def huge_ranges(self) -> list[int]:
        """Every aligned 2 MiB of its areas in which huge pages are wanted."""
        wanted = [area for area in self._space.areas if self._parts.memory.huge.wanted(area)]
        return [base for area in wanted for base in huge_ranges(area)]

    def _leaves(self, base: int) -> list[Leaf]:
        return list(self._space.table.between(base, base + HUGE_SIZE))

    def small_entries(self, base: int) -> list[Small]:
        """What the small entries of a range say."""
        leaves = self._leaves(base) if self._space.alive else []
        return [self._small(leaf) for leaf in leaves if leaf.level == 1]

    def _small(self, leaf: Leaf) -> Small:
        if not leaf.present:
            return Small(present=False)
        frames = self._parts.memory.frames
        return Small(
            present=True,
            young=bool(leaf.entry & ACCESSED) or bool(frames.referenced[leaf.pfn]),
            writable=bool(leaf.entry & WRITABLE),
            shared=frames.role[leaf.pfn] == Role.KSM,
        )

    def bring_back(self, base: int) -> None:
        """Fault in what is in swap."""
        for leaf in self._leaves(base):
            self._space.fault_in(leaf.hva, write=False)

    def collapse(self, base: int, pfn: int) -> bool:
        """Copy the small pages into the huge one, after notification; False if some are not there.

        Reclaim, for the huge page itself, may have taken them.
        """
        leaves = self._leaves(base)
        if not leaves or not all(leaf.present for leaf in leaves):
            return False
        self._space.notify(base, base + HUGE_SIZE)
        contents = self._parts.memory.contents
        for leaf in leaves:
            contents.write(pfn + (leaf.hva - base >> PAGE_SHIFT), contents.read(leaf.pfn))
            self._space.discard.take_out(leaf)
        address = self._space.table.collapse(base)
        self._space.map_page(base, pfn, address, PAGE | LARGE)
        self._parts.tap(HostCollapsed(base, pfn << PAGE_SHIFT, PIECES - len(leaves)))
        return True
