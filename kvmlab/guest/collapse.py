"""A guest's process as khugepaged sees it: small pages are copied together into a huge one.

Linux, mm/khugepaged.c: collapse_huge_page(), __collapse_huge_page_copy().
"""

from typing import TYPE_CHECKING

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.guest.huge_pages import LEAF, HugeEntries
from kvmlab.guest.process import Process
from kvmlab.guest.tables import ACCESSED, PRESENT, WRITABLE
from kvmlab.linux.frames import Role
from kvmlab.linux.huge_pages import HUGE_SIZE, PIECES, huge_ranges
from kvmlab.linux.khugepaged import Small

if TYPE_CHECKING:
    from kvmlab.guest.kernel import Kernel
    from kvmlab.guest.reclaim import Reclaimer


class Collapse:
    """The address space of ``process`` (linux/khugepaged.py)."""

    def __init__(
        self, kernel: "Kernel", reclaimer: "Reclaimer", entries: HugeEntries, process: Process
    ) -> None:
        self._kernel, self._reclaimer, self._entries = kernel, reclaimer, entries
        self._process, self.number = process, process.space

    def huge_ranges(self) -> list[int]:
        """Every aligned 2 MiB of its mappings in which huge pages are wanted."""
        bases = [base for vma in self._process.vmas for base in huge_ranges(vma)]
        return [base for base in bases if self._wanted(base)]

    def _wanted(self, base: int) -> bool:
        vma = self._process.vma_at(base)
        return vma is not None and self._entries.wanted(vma, base)

    def small_entries(self, base: int) -> list[Small]:
        """What the small entries of a range say, and what of it is in swap."""
        found = self._small(base)
        swapped = self._reclaimer.swapped(self._process, base, base + HUGE_SIZE)
        return [self._judge(entry) for entry in found.values()] + [Small(present=False)] * len(
            swapped
        )

    def _judge(self, entry: int) -> Small:
        page = self._kernel.tables.frame_of(entry, 1)
        referenced = self._reclaimer.memory.frames.referenced[page >> PAGE_SHIFT]
        return Small(
            present=True,
            young=bool(entry & ACCESSED) or bool(referenced),
            writable=bool(entry & WRITABLE),
            shared=self._kernel.frames.shared(page),
        )

    def _small(self, base: int) -> dict[int, int]:
        """The small entries of a range that are present, by their number."""
        found = self._kernel.tables.table_at(self._process.root, base, LEAF)
        entries = self._kernel.tables.read_all(found[1]) if found else []
        return {number: one for number, one in enumerate(entries) if one & PRESENT}

    def bring_back(self, base: int) -> None:
        """Read what is in swap; nobody is killed for that."""
        vma = self._process.vma_at(base)
        for gva in self._reclaimer.swapped(self._process, base, base + HUGE_SIZE):
            assert vma is not None  # noqa: S101  the range was wanted
            frame = self._reclaimer.memory.alloc(Role.ANON, light=True) << PAGE_SHIFT
            self._kernel.memory.install(self._process, vma, gva, frame, PAGE_SHIFT, write=False)

    def collapse(self, base: int, pfn: int) -> bool:
        """Copy the small pages into the huge one; False if reclaim took some meanwhile.

        The entry above them is empty while that is done, and no CPU has any of them cached.
        """
        process, tables, frames = self._process, self._kernel.tables, self._kernel.frames
        vma, found = process.vma_at(base), tables.table_at(process.root, base, LEAF)
        if vma is None or not found or self._reclaimer.swapped(process, base, base + HUGE_SIZE):
            return False
        slot, table = found
        tables.write(slot, 0)
        last = base + HUGE_SIZE - PAGE_SIZE
        self._kernel.shootdown.flush_pages(process, [base, last], PAGE_SHIFT)
        small = {
            number: tables.frame_of(one, 1)
            for number, one in enumerate(tables.read_all(table))
            if one & PRESENT
        }
        for number, page in small.items():
            self._kernel.memory.copy_page(page, pfn + number << PAGE_SHIFT, PAGE_SHIFT)
        tables.clear(table)
        for page in small.values():
            frames.release(page, 0)
        self._entries.deposit(slot, table)
        page, filled = pfn << PAGE_SHIFT, PIECES - len(small)
        self._kernel.memory.map_collapsed(process, vma, base, page, filled=filled)
        return True
