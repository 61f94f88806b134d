"""A pool of huge pages of one size: persistent, reserved and surplus pages.

Linux, mm/hugetlb.c; Documentation/admin-guide/mm/hugetlbpage.rst.  Pages of a pool serve nothing
else even while they are free, and are never swapped, merged or split.
"""

from kvmlab.base.addresses import PAGE_SHIFT, size_text
from kvmlab.base.errors import BadSize, OutOfMemory
from kvmlab.linux.frames import Role
from kvmlab.linux.memory import Memory
from kvmlab.linux.records import VmEvent


class HugetlbPool:
    """/sys/kernel/mm/hugepages/hugepages-<size>kB of one kernel; starts empty."""

    def __init__(self, memory: Memory, shift: int) -> None:
        self._memory, self.shift = memory, shift
        self._order = shift - PAGE_SHIFT
        self._free: list[int] = []
        self.persistent = self.surplus = self.reserved = 0
        self._overcommit = 0

    @property
    def total(self) -> int:
        """nr_hugepages as meminfo says it: persistent and surplus pages."""
        return self.persistent + self.surplus

    @property
    def free(self) -> int:
        """free_hugepages: not allocated, though perhaps reserved."""
        return len(self._free)

    @property
    def overcommit(self) -> int:
        """nr_overcommit_hugepages: how many surplus pages there may be."""
        return self._overcommit

    @overcommit.setter
    def overcommit(self, count: int) -> None:
        self._overcommit = _count(count)

    def set_nr(self, count: int) -> int:
        """Write nr_hugepages; returns how many persistent pages there are then.

        Growing turns surplus pages into persistent ones first, and ends early where no block is
        left.  Pages in use beyond ``count`` become surplus, whatever the limit
        (set_max_huge_pages()).
        """
        _count(count)
        turned = min(self.surplus, max(0, count - self.persistent))
        self._account(turned)
        while self.persistent < count and self._grow():
            self.persistent += 1
        idle = min(len(self._free) - self.reserved, self.persistent - count)
        for _ in range(max(0, idle)):
            self._shrink()
            self.persistent -= 1
        self._account(-max(0, self.persistent - count))
        return self.persistent

    def reserve(self, count: int) -> None:
        """Promise ``count`` pages to a mapping at mmap(); raises `OutOfMemory`, ENOMEM."""
        missing = count - (len(self._free) - self.reserved)
        room = self._overcommit - self.surplus
        if missing > max(0, room) or not self._grow_surplus(max(0, missing)):
            raise OutOfMemory(
                f"Cannot allocate memory: {count} pages of {size_text(1 << self.shift)} wanted, "
                f"{max(0, len(self._free) - self.reserved)} are neither in use nor reserved"
            )
        self.reserved += count

    def alloc(self) -> int:
        """The first frame of a page that was reserved."""
        self.reserved -= 1
        return self._free.pop()

    def give_back(self, pfn: int, *, promised: bool = False) -> None:
        """A mapping lost a page: it is free again, or gone if it was a surplus page.

        ``promised``: the mapping lives on, so the page stays reserved for it.
        """
        self._memory.contents.clear(pfn, 1 << self._order)
        self._free.append(pfn)
        self.reserved += promised
        if self.surplus and not promised:
            self._shrink()
            self.surplus -= 1

    def unreserve(self, count: int) -> None:
        """A mapping ended without having touched ``count`` of its pages."""
        self.reserved -= count
        for _ in range(min(self.surplus, len(self._free) - self.reserved, count)):
            self._shrink()
            self.surplus -= 1

    def demote(self, smaller: "HugetlbPool") -> None:
        """Turn one free page into pages of a smaller pool (demote); raises `OutOfMemory`."""
        if len(self._free) <= self.reserved or not self.persistent:
            raise OutOfMemory(f"no page of {size_text(1 << self.shift)} is free to be demoted")
        pfn = self._free.pop()
        self.persistent -= 1
        parts = range(pfn, pfn + (1 << self._order), 1 << smaller.shift - PAGE_SHIFT)
        for part in parts:
            self._memory.frames.put("order", part, smaller.shift - PAGE_SHIFT)
        smaller.adopt(list(parts))

    def adopt(self, pages: list[int]) -> None:
        """Take pages over as persistent ones."""
        self._free += pages
        self.persistent += len(pages)

    def _account(self, turned: int) -> None:
        self.persistent += turned
        self.surplus -= turned

    def _grow(self) -> bool:
        try:
            pfn = self._memory.alloc(Role.HUGETLB, self._order, light=True)
        except OutOfMemory:
            self._memory.tell(VmEvent("htlb_buddy_alloc_fail"))
            return False
        self._free.append(pfn)
        self._memory.tell(VmEvent("htlb_buddy_alloc_success"))
        return True

    def _grow_surplus(self, count: int) -> bool:
        for done in range(count):
            if not self._grow():
                for _ in range(done):
                    self._shrink()
                self.surplus -= done
                return False
            self.surplus += 1
        return True

    def _shrink(self) -> None:
        self._memory.free(self._free.pop(), self._order)


def _count(count: int) -> int:
    if count < 0:
        raise BadSize(f"a pool of {count} huge pages cannot be: write 0 or more")
    return count
