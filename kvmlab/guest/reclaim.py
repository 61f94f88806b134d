"""The guest's memory management: an instance of `linux` over the guest's frames.

Attached to a kernel, it decides who gets frames and who must give them up: watermarks, page
cache, swap, OOM killer, transparent huge pages, /proc/meminfo.  Anonymous pages that fork shares
are not reclaimed while they are shared; those of mappings made for large pages never are.
"""

from collections.abc import Callable
from types import NoneType

import numpy as np

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_size
from kvmlab.base.checks import expect
from kvmlab.base.clock import Clock
from kvmlab.base.errors import OutOfMemory, ProcessKilled
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.address_pages import AddressPages
from kvmlab.guest.collapse import Collapse
from kvmlab.guest.file_rmap import FileRmap
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.physical import Physical
from kvmlab.guest.process import Process
from kvmlab.linux.frames import NOWHERE, Pages, Role
from kvmlab.linux.huge_pages import ORDER
from kvmlab.linux.khugepaged import Khugepaged
from kvmlab.linux.kswapd import Kswapd
from kvmlab.linux.lru import Lru
from kvmlab.linux.meminfo import mem_available, meminfo
from kvmlab.linux.memory import Memory
from kvmlab.linux.page_cache import PageCache
from kvmlab.linux.records import VmEvent
from kvmlab.linux.swap import Swap
from kvmlab.linux.tmpfs import Tmpfs
from kvmlab.linux.vmstat import VmStat
from kvmlab.virtio.balloon import Tag

_ZEROES = bytes(PAGE_SIZE)


class _Contents:
    """The bytes of guest frames, through the guest's CPU."""

    def __init__(self, kernel: Kernel) -> None:
        self._physical = Physical(kernel)

    def read(self, pfn: int) -> bytes:
        """One page."""
        return self._physical.read(pfn << PAGE_SHIFT, PAGE_SIZE)

    def write(self, pfn: int, data: bytes) -> None:
        """Fill one page."""
        self._physical.write(pfn << PAGE_SHIFT, data)

    def clear(self, first: int, count: int) -> None:
        """Make neighbouring frames read as zeroes."""
        for pfn in range(first, first + count):
            self._physical.write(pfn << PAGE_SHIFT, _ZEROES)


class Reclaimer:
    """Manages the frames of ``kernel`` from now on, with ``swap`` on a disk of the guest.

    Its size is bytes or a text such as ``1G``; 0 is none.  Raises `BadSize` and `BadChoice`.

    `cache` are its files on a disk, which may be mapped, `tmpfs` those in memory, `stat` its
    /proc/vmstat; `huge` says who gets huge pages, `khugepaged` makes them later.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        swap: int | str = 0,
        min_free_kbytes: int | None = None,
        tap: Tap = silent,
    ) -> None:
        expect("kernel", kernel, Kernel, "a guest's kernel, as Machine(...).guest is")
        expect("min_free_kbytes", min_free_kbytes, (int, NoneType), "a number of KiB")
        self.stat, self._kernel, self._out = VmStat(), kernel, tap
        self.memory = Memory(
            kernel.frames.buddy,
            _Contents(kernel),
            self._tell,
            swap=Swap(parse_size(swap) if swap else 0),
            min_free_kbytes=min_free_kbytes,
        )
        self.memory.oom_notifiers = kernel.frames.oom_notifiers
        self.cache, self.tmpfs = PageCache(self.memory), Tmpfs(self.memory)
        self.huge = self.memory.huge
        self.khugepaged = Khugepaged(self.memory, self._collapsible, self._in_kernel)
        self._spaces: dict[int, AddressPages] = {}  # root -> its pages
        self.doomed = 0  # the root of the running process, if it is to die
        kernel.frames.manager = self
        self.cache.mappers = FileRmap(kernel)
        kernel.memory.manage(self.memory, self, self.cache)

    def _tell(self, record: object) -> None:
        self.stat(record)
        self._out(record)

    def start(self, clock: Clock) -> None:
        """Let kswapd and khugepaged run on ``clock``."""
        Kswapd(self.memory, clock, self._in_kernel)
        self.khugepaged.start(clock)

    def _in_kernel(self, work: Callable[[], None]) -> None:
        with self._kernel.contexts.entered():
            work()

    def _collapsible(self) -> list[Collapse]:
        """The processes that khugepaged looks at."""
        entries, kernel = self._kernel.memory.huge, self._kernel
        return [Collapse(kernel, self, entries, one) for one in kernel.processes if entries]

    # -- frames (guest/frames.py) -----------------------------------------------------------

    def alloc(self, order: int) -> int:
        """The first frame of a block, reclaimed if need be."""
        return self.memory.alloc(Role.KERNEL, order)

    def free(self, pfn: int, order: int) -> None:
        """Take a block back."""
        self.memory.free(pfn, order)

    def take(self, count: int) -> Pages:
        """Frames for a balloon: above the low mark at once, then each by one light attempt."""
        taken = self._spare(Role.BALLOON, count)
        more: list[int] = []
        try:
            while len(taken) + len(more) < count:
                more.append(self.memory.alloc(Role.BALLOON, light=True))
        except OutOfMemory:
            pass  # the driver is out of puff
        return np.append(taken, np.array(more, np.int64))

    def take_run(self, count: int) -> Pages:
        """Frames for pages that are mapped at once: those above the low mark."""
        return self._spare(Role.ANON, count)

    def _spare(self, role: Role, count: int) -> Pages:
        spare = max(0, self.memory.buddy.free_frames - self.memory.zone.marks.low)
        return self.memory.alloc_pages(role, min(count, spare))

    def take_block(self, order: int) -> int:
        """A block for a driver, if one is free; raises `OutOfMemory`."""
        return self.memory.spare_block(Role.KERNEL, order, wake=False)

    def give_back(self, pfn: int, order: int) -> None:
        """Take such a frame back, which nobody touches for that."""
        self.memory.frames.release(pfn, order)
        self.memory.buddy.free(pfn, order)

    # -- processes (guest/memory.py) ----------------------------------------------------------

    def faulted(self) -> None:
        """A fault is served, be it minor or major (handle_mm_fault())."""
        self.memory.tell(VmEvent("pgfault"))

    def in_swap(self, process: Process, gva: int) -> bool:
        """Whether the process has a page of its own for ``gva`` in swap."""
        return gva in self._space(process).swapped

    def fill(self, process: Process, gva: int, frame: int) -> None:
        """A page is about to be mapped at ``gva``: if it was in swap, it is read back."""
        slot = self._space(process).swapped.pop(gva, 0)
        if slot:
            self.memory.swap_in(slot, frame >> PAGE_SHIFT)
            self.memory.tell(VmEvent("pgmajfault"))

    def mapped(self, process: Process, gva: int, frame: int, order: int) -> None:
        """A page is mapped at ``gva``; raises `ProcessKilled` if that cost too much."""
        pfn, space = frame >> PAGE_SHIFT, self._space(process)
        self.memory.frames.role[pfn : pfn + (1 << order)] = Role.ANON
        if self.memory.frames.lru[pfn] in tuple(Lru):
            self.memory.frames.mapping[pfn] = space.number
            self.memory.frames.index[pfn] = gva >> PAGE_SHIFT
        else:
            self.memory.add_page(pfn, space.number, gva >> PAGE_SHIFT, Lru.INACTIVE_ANON)
        self.end_if_doomed(process)

    def end_if_doomed(self, process: Process) -> None:
        """End the process that runs if the OOM killer chose it; raises `ProcessKilled` then."""
        if self.doomed == process.root:
            self.doomed = 0
            self._kernel.exit(process)
            raise ProcessKilled(f"{process.name} was killed by the guest's OOM killer")

    def populated(self, process: Process, gva: int, frames: Pages) -> None:
        """Neighbouring pages of a new mapping are mapped from ``gva`` on, each by its fault."""
        if len(frames):
            pfns = frames >> PAGE_SHIFT
            self.memory.tell(VmEvent("pgfault", len(pfns)))
            self.memory.own(pfns, self._space(process).number, gva >> PAGE_SHIFT)
            self.memory.lists.add(pfns, Lru.INACTIVE_ANON)

    def swapped_out(self, process: Process, gva: int, slot: int) -> None:
        """A page of ``process`` is in swap from now on."""
        self._space(process).swapped[gva] = slot

    def copied(self, parent: Process, child: Process) -> None:
        """What the parent has in swap, its child has there too (swap_duplicate())."""
        for gva, slot in self._space(parent).swapped.items():
            self.memory.swap.share(slot, 1)
            self._space(child).swapped[gva] = slot

    def forget(self, root: int, start: int, end: int) -> None:
        """A range of an address space is unmapped: what of it is in swap goes too."""
        space = self._spaces.get(root)
        for gva in [one for one in space.swapped if start <= one < end] if space else ():
            assert space is not None  # noqa: S101  or there would be no gva
            self.memory.swap.release(space.swapped.pop(gva))

    def gone(self, root: int) -> None:
        """An address space is no more."""
        space = self._spaces.pop(root, None)
        if space:
            space.ended = True
        if space in self.memory.processes:
            self.memory.processes.remove(space)

    def rss_of(self, number: int) -> int:
        """How many frames of memory that may be swapped an address space has."""
        frames = self.memory.frames
        mine = np.flatnonzero((frames.mapping == number) & (frames.lru != NOWHERE))
        huge = mine[frames.order[mine] == ORDER].tolist()
        return len(mine) - len(huge) + sum(self.huge.mapped_pieces(head) for head in huge)

    def swapped(self, process: Process, start: int, end: int) -> list[int]:
        """The pages of a range that are in swap, in order."""
        return sorted(gva for gva in self._space(process).swapped if start <= gva < end)

    def set_oom_score_adj(self, process: Process, value: int) -> None:
        """/proc/<pid>/oom_score_adj, -1000 (never killed) to 1000."""
        self._space(process).oom_score_adj = value

    def _space(self, process: Process) -> AddressPages:
        space = self._spaces.get(process.root)
        if space is None:
            space = self._spaces[process.root] = AddressPages(self._kernel, self, process)
            self.memory.processes.append(space)
        return space

    # -- what is said of it -------------------------------------------------------------------

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo, in KiB."""
        self.memory.zone.managed = self._kernel.frames.managed
        tables = {"PageTables": self._kernel.frames.tables * 4}
        return meminfo(self.memory, mapped=self._mapped_files()) | tables

    def _mapped_files(self) -> int:
        """Pages of files that at least one process maps (NR_FILE_MAPPED)."""
        pages = self._kernel.frames.pages_with_more()
        return int((self.memory.frames.role[pages] == Role.FILE).sum())

    def statistics(self) -> list[tuple[int, int]]:
        """What the balloon's statistics queue sends, in Linux's order (update_balloon_stats)."""
        stat, info = self.stat, self.meminfo()
        cached = info["Cached"] + info["Buffers"]
        return [
            (Tag.SWAP_IN, stat["pswpin"] * PAGE_SIZE),
            (Tag.SWAP_OUT, stat["pswpout"] * PAGE_SIZE),
            (Tag.MAJFLT, stat["pgmajfault"]),
            (Tag.MINFLT, stat["pgfault"]),
            (Tag.OOM_KILL, stat["oom_kill"]),
            (Tag.ALLOC_STALL, stat["allocstall"]),
            (Tag.ASYNC_SCAN, stat["pgscan_kswapd"] * PAGE_SIZE),
            (Tag.DIRECT_SCAN, stat["pgscan_direct"] * PAGE_SIZE),
            (Tag.ASYNC_RECLAIM, stat["pgsteal_kswapd"] * PAGE_SIZE),
            (Tag.DIRECT_RECLAIM, stat["pgsteal_direct"] * PAGE_SIZE),
            (Tag.MEMFREE, info["MemFree"] << 10),
            (Tag.MEMTOT, info["MemTotal"] << 10),
            (Tag.AVAIL, mem_available(self.memory) * PAGE_SIZE),
            (Tag.CACHES, cached << 10),
        ]
