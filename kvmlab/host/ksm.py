"""KSM: pages of equal contents become one read-only page, until somebody writes.

Linux, mm/ksm.c; Documentation/admin-guide/mm/ksm.rst.  The trees are dictionaries by a digest of
the contents, and every match is compared byte by byte.  As in the kernel the unstable tree's pages
may change under it, so it is thrown away at each full scan.  Left out: NUMA, use_zero_pages,
smart_scan.  A written page leaves the counts at once, where Linux waits for the next scan.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.clock import MILLISECOND, Clock
from kvmlab.base.errors import BadChoice, ProcessKilled
from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import Ram
from kvmlab.host.ksm_items import Items, digest_weights, digests
from kvmlab.host.page_table import PAGE, PRESENT, WRITABLE, Leaf, pfns_of
from kvmlab.host.records import HostMerged, HostUnshared
from kvmlab.linux.frames import Pages, Role
from kvmlab.linux.huge_pages import HUGE_SIZE, huge_blocks
from kvmlab.linux.memory import Memory
from kvmlab.linux.records import VmEvent

if TYPE_CHECKING:
    from kvmlab.host.address_space import AddressSpace
    from kvmlab.host.areas import Area

STOP, RUN, UNMERGE = 0, 1, 2
_ITEM_BYTES = 64  # struct ksm_rmap_item
_READ_ONLY = PAGE & ~WRITABLE
Place = tuple[int, int]
"""A page of a process: the process's number and the HVA."""


@dataclass(slots=True)
class Settings:
    """/sys/kernel/mm/ksm."""

    pages_to_scan: int = 100
    sleep_millisecs: int = 20
    max_page_sharing: int = 256


@dataclass(slots=True)
class _Node:
    """A page of the stable tree and all that map it (struct ksm_stable_node)."""

    pfn: int
    digest: int
    mappers: dict[Place, "AddressSpace"] = field(default_factory=dict)


class Ksm:
    """The KSM of one host, over the processes in ``spaces``; it owns the merged pages."""

    def __init__(
        self, ram: Ram, memory: Memory, spaces: Sequence["AddressSpace"], tap: Tap
    ) -> None:
        self._ram, self._memory, self._spaces, self._tap = ram, memory, spaces, tap
        self.settings = Settings()
        self.full_scans = 0
        self._run = STOP
        self._number = memory.register(self)
        self._weights = digest_weights()
        self._stable: dict[int, list[_Node]] = {}
        self._nodes: dict[int, _Node] = {}
        self._unstable: dict[int, tuple[AddressSpace, int]] = {}
        self._items = Items()
        self._pass: Iterator[tuple[AddressSpace, Pages]] = iter(())
        self._rest: tuple[AddressSpace, Pages] | None = None  # of the table begun last

    # -- sysfs ------------------------------------------------------------------------------

    @property
    def run(self) -> int:
        """0 stopped, 1 running, 2 stopped and everything unmerged."""
        return self._run

    @run.setter
    def run(self, value: int) -> None:
        if value not in (STOP, RUN, UNMERGE):
            raise BadChoice(f"KSM's run is 0, 1 or 2, not {value}")
        self._run = value
        if value == UNMERGE:
            for place, space in [
                one for node in self._nodes.values() for one in node.mappers.items()
            ]:
                self._unshare_at(space, place[1])
            self._forget_all()

    @property
    def pages_shared(self) -> int:
        """Shared pages in use."""
        return len(self._nodes)

    @property
    def pages_sharing(self) -> int:
        """How many more places map them: what is saved, in pages."""
        return sum(len(node.mappers) for node in self._nodes.values()) - len(self._nodes)

    @property
    def pages_unshared(self) -> int:
        """Pages that are unique so far but are looked at again and again."""
        return self._items.unshared

    @property
    def pages_volatile(self) -> int:
        """Pages that changed since they were last looked at."""
        known = len(self._items) - self.pages_shared - self.pages_sharing
        return known - self.pages_unshared

    @property
    def general_profit(self) -> int:
        """Bytes saved, less what the bookkeeping of Linux takes (64-bit)."""
        return self.pages_sharing * PAGE_SIZE - len(self._items) * _ITEM_BYTES

    # -- scanning -----------------------------------------------------------------------------

    def start(self, clock: Clock) -> None:
        """ksmd: scan, sleep, scan, for as long as ``clock`` runs."""

        def wake() -> None:
            if self._run == RUN:
                self.scan(self.settings.pages_to_scan)
            clock.after(self.settings.sleep_millisecs * MILLISECOND, wake)

        clock.after(self.settings.sleep_millisecs * MILLISECOND, wake)

    def scan(self, count: int) -> None:
        """Look at the next ``count`` pages; the end of a full scan ends the batch."""
        while count > 0:
            found = self._rest or next(self._pass, None)
            if found is None:
                self._begin_pass()
                return
            space, hvas = found
            self._rest = (space, hvas[count:]) if len(hvas) > count else None
            if space.alive:
                self._look(space, hvas[:count])
            count -= min(count, len(hvas))

    def _begin_pass(self) -> None:
        self._items.keep(self.full_scans)
        self._unstable.clear()
        self._pass = self._candidates()
        self.full_scans += 1

    def _candidates(self) -> Iterator[tuple["AddressSpace", Pages]]:
        """The HVAs that have an entry, table by table, in mergeable areas of each process."""
        for space in list(self._spaces):
            for area in list(space.areas):
                for base in huge_blocks(area):
                    if not area.mergeable or area.pool or not space.alive:
                        break
                    start, end = max(base, area.start), min(base + HUGE_SIZE, area.end)
                    used = np.flatnonzero(space.table.as_small(start, end))
                    if len(used):
                        yield space, start + (used << PAGE_SHIFT)

    def _look(self, space: "AddressSpace", hvas: Pages) -> None:
        """Pages of one table, as far as they are there now and not merged already."""
        start = int(hvas[0])
        entries = space.table.as_small(start, int(hvas[-1]) + PAGE_SIZE)
        entries = entries[hvas - start >> PAGE_SHIFT]
        present = entries & PRESENT != 0
        hvas, pfns = hvas[present], pfns_of(entries[present])
        items = self._items.of(space.number, start)
        where = hvas >> PAGE_SHIFT & 511
        items.seen[where] = self.full_scans
        single = self._memory.frames.role[pfns] != Role.KSM
        hvas, pfns, where = hvas[single], pfns[single], where[single]
        found = digests(self._ram.frames(pfns), self._weights)
        calm = items.taken[where] & (items.digest[where] == found)
        items.unshared[where] = calm
        pages = zip(hvas.tolist(), pfns.tolist(), found.tolist(), calm.tolist(), strict=True)
        merged = np.array([self._place(space, *page) for page in pages], np.bool_)
        items.unshared[where[merged]] = False
        changed = ~(calm | merged)
        items.digest[where[changed]], items.taken[where[changed]] = found[changed], True

    def _place(self, space: "AddressSpace", hva: int, pfn: int, digest: int, calm: bool) -> bool:
        """One page (cmp_and_merge_page()): whether it was merged; ``calm`` ones may be later."""
        if digest in self._stable and (node := self._roomy(digest, pfn)):
            self._merge(node, space, hva)
            return True
        if not calm:
            return False
        if partner := self._partner(digest, pfn, (space.number, hva)):
            self._merge(self._found(digest, *partner), space, hva)
            return True
        self._unstable[digest] = space, hva
        return False

    def _roomy(self, digest: int, pfn: int) -> _Node | None:
        """The fullest stable page of these contents that may have one mapping more."""
        fit = [
            node
            for node in self._stable[digest]
            if len(node.mappers) < self.settings.max_page_sharing and self._equal(node.pfn, pfn)
        ]
        return max(fit, key=lambda node: len(node.mappers), default=None)

    def _equal(self, one: int, other: int) -> bool:
        """Whether two frames hold the same bytes."""
        read = self._memory.contents.read
        return read(one) == read(other)

    def _partner(self, digest: int, pfn: int, place: Place) -> tuple["AddressSpace", int] | None:
        """A page of the unstable tree that still has these contents."""
        found = self._unstable.get(digest)
        if found is None or (found[0].number, found[1]) == place or not found[0].alive:
            return None
        leaf = found[0].table.find(found[1])
        if leaf is None or not leaf.present:
            return None
        other = leaf.pfn + (found[1] - leaf.hva >> PAGE_SHIFT)
        return found if other not in self._nodes and self._equal(other, pfn) else None

    # -- merging ------------------------------------------------------------------------------

    def _found(self, digest: int, space: "AddressSpace", hva: int) -> _Node:
        """Make a page of the unstable tree a stable, read-only one."""
        leaf = self._small(space, hva)
        space.notify(hva, hva + PAGE_SIZE)
        space.table.set(leaf.address, leaf.entry & ~WRITABLE)
        frames = self._memory.frames
        frames.role[leaf.pfn], frames.mapping[leaf.pfn] = Role.KSM, self._number
        node = self._nodes[leaf.pfn] = _Node(leaf.pfn, digest, {(space.number, hva): space})
        self._stable.setdefault(digest, []).append(node)
        self._unstable.pop(digest, None)
        self._items.set_unshared(space.number, hva, value=False)
        self._tap(HostMerged(hva, leaf.pfn << PAGE_SHIFT))
        return node

    def _merge(self, node: _Node, space: "AddressSpace", hva: int) -> None:
        """Let a page of the same contents go and map the stable one in its place."""
        leaf = self._small(space, hva)
        space.notify(hva, hva + PAGE_SIZE)
        space.table.set(leaf.address, node.pfn << PAGE_SHIFT | _READ_ONLY)
        node.mappers[space.number, hva] = space
        self._memory.free(leaf.pfn)
        self._tap(HostMerged(hva, node.pfn << PAGE_SHIFT))

    def _small(self, space: "AddressSpace", hva: int) -> Leaf:
        """The entry of a page that is no part of a huge one; a huge page is split for that."""
        leaf = self._at(space, hva)
        if leaf.level == 2 or self._memory.huge.is_piece(leaf.pfn):
            self._memory.huge.split_now(leaf.pfn & -512)
            leaf = self._at(space, hva)
        return leaf

    @staticmethod
    def _at(space: "AddressSpace", hva: int) -> Leaf:
        leaf = space.table.find(hva)
        assert leaf is not None  # noqa: S101  it was present when its contents were compared
        return leaf

    # -- and back -----------------------------------------------------------------------------

    def unshare(self, space: "AddressSpace", leaf: Leaf) -> None:
        """A write: the process gets a copy of its own (do_wp_page(), break_ksm())."""
        pfn = space.frame()
        now = space.table.find(leaf.hva)
        if now is None or now.entry != leaf.entry:  # it went to swap to make room
            self._memory.free(pfn)
            space.fault_in(leaf.hva)
            return
        self._memory.contents.write(pfn, self._memory.contents.read(leaf.pfn))
        space.notify(leaf.hva, leaf.hva + PAGE_SIZE)
        space.rss -= 1
        space.map_page(leaf.hva, pfn, leaf.address)
        self.unmapped(space, leaf)
        self._tap(VmEvent("cow_ksm"))
        self._tap(HostUnshared(leaf.hva, leaf.pfn << PAGE_SHIFT, pfn << PAGE_SHIFT))

    def unmapped(self, space: "AddressSpace", leaf: Leaf) -> int:
        """An entry of a stable page is gone; returns how many frames are free for that."""
        node = self._nodes[leaf.pfn]
        del node.mappers[space.number, leaf.hva]
        if node.mappers:
            return 0
        self._drop(node)
        self._memory.free(leaf.pfn)
        return 1

    def unmerge(self, space: "AddressSpace", area: "Area") -> None:
        """An area is mergeable no more: what is shared there is copied."""
        for leaf in list(space.table.between(area.start, area.end)):
            if leaf.present and leaf.pfn in self._nodes:
                self._unshare_at(space, leaf.hva)

    def _unshare_at(self, space: "AddressSpace", hva: int) -> None:
        leaf = space.table.find(hva) if space.alive else None
        if leaf and leaf.present and leaf.pfn in self._nodes:
            with suppress(ProcessKilled):  # copying everything may well need too much
                self.unshare(space, leaf)

    def _drop(self, node: _Node) -> None:
        del self._nodes[node.pfn]
        chain = self._stable[node.digest]
        chain.remove(node)
        if not chain:
            del self._stable[node.digest]

    def _forget_all(self) -> None:
        self._items.clear()
        self._unstable.clear()
        self._pass, self._rest = iter(()), None

    # -- what reclaim asks (linux/mapping.py) ---------------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """By how many of its mappers each page was accessed."""
        return np.array(
            [
                sum(
                    space.pages.age(hva, PAGE_SIZE)
                    for (_, hva), space in self._nodes[pfn].mappers.items()
                )
                for pfn in pages.tolist()
            ],
            np.int64,
        )

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Shared pages go to swap; there each has one slot for all its mappers."""
        gone = np.ones(len(pages), np.bool_)
        for number, (pfn, slot) in enumerate(zip(pages.tolist(), slots.tolist(), strict=True)):
            node = self._nodes[pfn]
            if any(space.pages.holds(hva, PAGE_SIZE) for (_, hva), space in node.mappers.items()):
                gone[number] = False
                continue
            self._memory.swap.share(slot, len(node.mappers) - 1)
            for (_, hva), space in node.mappers.items():
                space.pages.evict(hva, slot)
            self._drop(node)
        return gone

    def write_back(self, pages: Pages) -> None:
        """Nothing: merged pages are of no file."""

    def split(self, page: int) -> Pages:
        """Nothing to do: merged pages are small."""
        return np.array([page], np.int64)
