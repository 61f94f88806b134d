"""A process of the host, QEMU: its page table maps HVA to HPA, filled on demand.

The table is real: 4-level x86 entries in RAM, walked with the walker of `hardware`.  The host
kernel writes it directly, since how the host itself is translated is not this package's subject.
Whatever takes a mapping away tells the notifiers first, so that no one who shadows the table is
left behind (Linux, include/linux/mmu_notifier.h).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import BadAddress, MachineCheck, ProcessKilled
from kvmlab.base.tap import silent
from kvmlab.hardware.formats import compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE
from kvmlab.hardware.records import Fault, Mapped
from kvmlab.hardware.walker import walk
from kvmlab.host.areas import Areas
from kvmlab.host.discard import Discard
from kvmlab.host.huge_pages import huge_fault
from kvmlab.host.page_table import ACCESSED, LARGE, PAGE, WRITABLE, Leaf, PageTable
from kvmlab.host.parts import Parts
from kvmlab.host.populate import fill_table
from kvmlab.host.process_pages import ProcessPages
from kvmlab.host.records import (
    HostFault,
    HostMigrated,
    HostSplit,
    HostSwappedIn,
    WillNeed,
)
from kvmlab.linux.frames import Pages, Role
from kvmlab.linux.lru import Lru
from kvmlab.linux.records import VmEvent

Notifier = Callable[[int, int], None]
"""Told [start, end) of the HVAs whose mappings are about to go: invalidate_range_start."""
Ager = Callable[[int, int], bool]
"""Whether [start, end) was accessed through others' tables since last asked: clear_flush_young."""
_HUGE = PAGE_SIZE << 9
_KILLED = "was killed by the host's OOM killer; its VM is gone"


class AddressSpace:
    """The virtual memory of one host process."""

    def __init__(self, parts: Parts, name: str) -> None:
        self._parts, self.name = parts, name
        self._memory, self._tap = parts.memory, parts.tap
        self._formats = compile_tables(format_named("4-level"), Processor())
        self.areas = Areas()
        self.notifiers: list[Notifier] = []  # told before mappings go (mmu_notifier)
        self.agers: list[Ager] = []  # asked whether pages are in use
        self.on_exit: list[Callable[[], None]] = []  # told when the process is gone
        self.oom_score_adj = 0
        self.rss = self.swap_entries = 0  # in pages; pages of hugetlbfs are in neither
        self._ended = ""
        self._doomed = False
        self.held: int | None = None
        self.pages = ProcessPages(self, parts)
        self.discard = Discard(self, parts)
        self.number = parts.memory.register(self.pages)
        self.table = PageTable(parts.ram, self._alloc_table, self._free_table)

    @property
    def root(self) -> int:
        """The host-physical address of its top table."""
        return self.table.root

    @property
    def table_pages(self) -> int:
        """Pages of page tables, with those kept for splitting huge entries."""
        return self.table.pages

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not self._ended

    # -- areas and advice -----------------------------------------------------------------

    def mmap(self, size: int, shift: int = PAGE_SHIFT, *, at: int | None = None) -> int:
        """Reserve ``size`` bytes backed by pages of 2**shift bytes; returns the HVA.

        Nothing is backed yet; pages above 4 KiB are reserved in their pool.  The area starts at
        a multiple of its page size, so guest-physical and host-virtual addresses are congruent,
        or at ``at`` (MAP_FIXED_NOREPLACE).  Raises `BadSize`, `BadAddress`, `Overlap`, or
        `OutOfMemory` if the pool has too few pages, or small ones could never be had
        (`Parts.check_commit`).
        """
        self.check_alive()
        pool = self._parts.pool(shift)
        if pool is None:
            self._parts.check_commit(size)
        area = self.areas.add(size, shift, pool, at)
        if pool:
            try:
                pool.reserve(size >> shift)
            except MemoryError:
                self.areas.remove(area)
                raise
        return area.start

    def page_shift(self, hva: int) -> int:
        """The shift of the pages that back the area of ``hva``; raises `BadAddress`."""
        return self.areas.find(hva).shift

    def advise_huge(self, hva: int, *, wanted: bool) -> None:
        """MADV_HUGEPAGE or MADV_NOHUGEPAGE for the area of ``hva``."""
        self.areas.find(hva).huge = wanted

    def advise_mergeable(self, hva: int, *, wanted: bool) -> None:
        """MADV_MERGEABLE for the area of ``hva``; MADV_UNMERGEABLE copies what is shared."""
        area = self.areas.find(hva)
        area.mergeable = wanted
        if not wanted:
            self._parts.ksm.unmerge(self, area)

    def mlock(self, hva: int) -> None:
        """Fault the area of ``hva`` in and never swap it."""
        area = self.areas.find(hva)
        area.locked = True
        self.populate(area.start, area.end - area.start)
        pages = np.array([leaf.pfn for leaf in self.table.between(area.start, area.end)], np.int64)
        self._memory.lists.remove(pages)

    def populate(self, hva: int, size: int) -> None:
        """Back a range at once (MADV_POPULATE_WRITE), as QEMU's preallocation does."""
        step, end = 1 << self.areas.whole_pages(hva, size).shift, hva + size
        while hva < end:
            self.fault_in(hva)
            hva = self.fill_table(hva + step, end)

    def fill_table(self, hva: int, end: int) -> int:
        """Back what one table holds from ``hva`` on, if that can be at once; where it ends."""
        return fill_table(self, self._parts, hva, end) if hva < end else hva

    def madvise_willneed(self, hva: int, size: int) -> None:
        """Announce that a range will be used; raises `BadAddress` for one of no area.

        An anonymous page that was given back stays absent until it is touched (mm/madvise.c:
        madvise_willneed()).
        """
        self.areas.find(hva)
        self.areas.find(hva + size - 1)
        self._tap(WillNeed(hva, size))

    def madvise_dontneed(self, hva: int, size: int) -> int:
        """Drop a range: the next touch finds zeroes.  Returns how many bytes the host got.

        That is less than was mapped if a huge page is only partly dropped: its frames are free
        when it is split.  Whole pages of one area only; raises `BadAddress`.
        """
        return self.discard.range(hva, size)

    def madvise_dontneed_each(self, hvas: NDArray[np.int64] | list[int]) -> int:
        """Drop single 4 KiB pages, by one `madvise_dontneed` each; returns the bytes freed."""
        return self.discard.each(np.asarray(hvas, np.int64))

    # -- translation and faults -----------------------------------------------------------

    def translate(self, hva: int) -> Mapped | None:
        """Where ``hva`` is in host memory now; None while it is not backed."""
        if self._ended:
            return None
        found = walk(self._formats, self.root, hva, self._parts.ram, silent)
        return None if isinstance(found, Fault) else found

    def fault_in(self, hva: int, *, write: bool = True) -> Mapped:
        """Where ``hva`` is, backed first if need be (get_user_pages()).

        A page that was never there is a zeroed one, one in swap is read back (a major fault), a
        shared one is copied for a ``write``.  Raises `BadAddress`, or `ProcessKilled`.
        """
        self.check_alive()
        leaf = self.table.find(hva)
        there = leaf is not None and leaf.present
        if not there or (write and leaf and not leaf.entry & WRITABLE):
            self._fault(hva, leaf)
        found = self.translate(hva)
        if found is None:
            raise MachineCheck(f"the fault at HVA {hva:#x} left nothing mapped there")
        if not there:
            self._tap(HostFault(hva, found.address, found.shift))
        elif not found.leaf & ACCESSED:
            self.table.set(found.path[-1].hpa, found.leaf | ACCESSED)
        return found

    def _fault(self, hva: int, leaf: Leaf | None) -> None:
        area = self.areas.find(hva)
        self._tap(VmEvent("pgfault"))
        if leaf and leaf.present:
            self._parts.ksm.unshare(self, leaf)
            return
        if leaf:
            self._swap_in(leaf)
        elif area.pool:
            level = (area.shift - PAGE_SHIFT) // 9 + 1
            address = self.table.prepare(hva, level)
            self.table.set(address, area.pool.alloc() << PAGE_SHIFT | PAGE | LARGE)
        elif not huge_fault(self, self._parts, area, hva):
            address = self.table.prepare(hva, 1)
            self.map_page(hva, self.frame(), address)

    def _swap_in(self, leaf: Leaf) -> None:
        pfn = self.frame()
        self._memory.swap_in(leaf.slot, pfn)
        self.swap_entries -= 1
        self.map_page(leaf.hva, pfn, leaf.address)
        self._tap(VmEvent("pgmajfault"))
        self._tap(HostSwappedIn(leaf.hva, pfn << PAGE_SHIFT, leaf.slot))

    # -- for the other parts of the host's memory management --------------------------------

    def frame(self, order: int = 0, *, light: bool = False) -> int:
        """A block for this process; raises `ProcessKilled` if it was killed to find one."""
        pfn = self._memory.alloc(Role.ANON, order, light=light)
        if self._ended:
            self._memory.free(pfn, order)
            self.check_alive()
        return pfn

    def map_page(self, hva: int, pfn: int, address: int, flags: int = PAGE) -> None:
        """Map an anonymous page of one frame, or with LARGE of 512, and let reclaim know of it."""
        self.table.set(address, pfn << PAGE_SHIFT | flags)
        self.rss += 512 if flags & LARGE else 1
        self.adopt(np.array([pfn]), hva)

    def adopt(self, pages: Pages, hva: int) -> None:
        """Say whose the pages from ``hva`` on are; unless locked they go on the LRU list."""
        self._memory.own(pages, self.number, hva >> PAGE_SHIFT)
        if not self.areas.find(hva).locked:
            self._memory.lists.add(pages, Lru.INACTIVE_ANON)

    def notify(self, start: int, end: int) -> None:
        """Tell those who shadow the table that mappings are about to go."""
        for tell in self.notifiers:
            tell(start, end)

    def split_entry(self, leaf: Leaf) -> None:
        """Map a huge page by 512 small entries; the page itself stays one."""
        self.notify(leaf.hva, leaf.hva + _HUGE)
        self.table.split(leaf)
        self._memory.huge.entry_cut(leaf.pfn)
        self._tap(HostSplit(leaf.hva, leaf.pfn << PAGE_SHIFT))

    def migrate(self, hva: int) -> int:
        """Move the page of ``hva`` to another frame; returns where it is now.

        Compaction and NUMA balancing do so (Linux, mm/migrate.c).  Notifiers are told first, as
        by `madvise_dontneed`.  A page that KSM shares, and a huge one that small entries map, stay
        where they are.  Raises `BadAddress` if nothing backs ``hva``, `OutOfMemory` if there is no
        frame to move to; then nothing has changed.
        """
        found, leaf = self.translate(hva), self.table.find(hva)
        if found is None or leaf is None:
            raise BadAddress(f"HVA {hva:#x} is not backed: there is no page to migrate")
        role, order = Role(self._memory.frames.role[leaf.pfn]), leaf.shift - PAGE_SHIFT
        if role == Role.KSM or self._memory.huge.is_piece(leaf.pfn):
            return found.address
        size, contents = 1 << leaf.shift, self._memory.contents
        new = self._memory.buddy.alloc(order)  # without reclaim, which might take the page itself
        self._memory.frames.take(new, order, role)
        self.notify(leaf.hva, leaf.hva + size)
        for one in range(1 << order):
            contents.write(new + one, contents.read(leaf.pfn + one))
        old = leaf.pfn << PAGE_SHIFT
        self.table.set(leaf.address, leaf.entry ^ old ^ new << PAGE_SHIFT)
        if role == Role.ANON:
            self.adopt(np.array([new]), leaf.hva)
        self._memory.free(leaf.pfn, order)
        self._tap(HostMigrated(leaf.hva, old, new << PAGE_SHIFT, leaf.shift))
        return new << PAGE_SHIFT | hva & size - 1

    # -- the end ----------------------------------------------------------------------------

    def hold(self, hva: int) -> None:
        """A virtual CPU that exited works with the page at ``hva``: reclaim lets it be.

        What `fault_in` said of it holds until `release` (get_user_pages()' reference).
        """
        self.held = hva

    def release(self) -> None:
        """It goes back to the guest; raises `ProcessKilled` if it was killed meanwhile."""
        self.held = None
        if self._doomed:
            self._doomed = False
            self._end(_KILLED)
            self.check_alive()

    def kill(self) -> bool:
        """What the OOM killer does: the process ends, and whoever uses it is told why.

        False, and it ends in `release`, if one of its virtual CPUs is in the kernel just now.
        """
        if self.held is not None:
            self._doomed = True
            return False
        self._end(_KILLED)
        return True

    def exit(self) -> None:
        """The process ends and gives all its memory back."""
        self.check_alive()
        self._memory.processes.remove(self)
        self._end("has ended")

    def _end(self, how: str) -> None:
        for area in self.areas:
            self.notify(area.start, area.end)
            leaves = list(self.table.between(area.start, area.end))
            for leaf in leaves:
                self.discard.zap(leaf, ending=True)
            if area.pool:
                area.pool.unreserve((area.end - area.start >> area.shift) - len(leaves))
        self.areas.clear()
        self.table.release()
        self._ended = how
        for tell in self.on_exit:
            tell()

    def check_alive(self) -> None:
        """Raise `ProcessKilled` with the reason if the process has ended."""
        if self._ended:
            raise ProcessKilled(f"{self.name} {self._ended}")

    def _alloc_table(self) -> int:
        pfn = self._memory.alloc(Role.TABLE)
        if self._ended:
            self._memory.free(pfn)
            self.check_alive()
        return pfn << PAGE_SHIFT

    def _free_table(self, table: int) -> None:
        self._memory.free(table >> PAGE_SHIFT)
