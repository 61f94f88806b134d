"""Shadow pages: the tables that KVM builds in place of the guest's, and how they are found.

A shadow page stands for one guest table at one place in the guest's tree: its key is the gfn
of the guest table and its role.  The same table reached with other upper rights is shadowed
again.  Linux, Documentation/virt/kvm/x86/mmu.rst and arch/x86/kvm/mmu/mmu.c.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE
from kvmlab.kvm.records import ShadowPageMade, ShadowPageZapped, SpteSet, WriteProtected, Zap
from kvmlab.kvm.vm import Vm

PRESENT, WRITABLE, PS = 1, 1 << 1, 1 << 7
ADDRESS = 0x000F_FFFF_FFFF_F000
_ENTRY = 8


class Role(NamedTuple):
    """What makes two shadow pages of one gfn different."""

    level: int
    access: int  # rights of the guest's entries above this table, all together
    direct: bool  # maps a stretch of guest-physical memory: part of a large guest page


@dataclass(frozen=True, slots=True)
class Slot:
    """One entry of a shadow page."""

    page: "ShadowPage"
    index: int

    @property
    def hpa(self) -> int:
        """Where the entry is in RAM."""
        return self.page.hpa + self.index * _ENTRY


@dataclass(eq=False, slots=True)
class ShadowPage:
    """512 entries in host RAM that shadow one guest table."""

    gfn: int
    role: Role
    hpa: int
    parents: set[Slot] = field(default_factory=set)
    maps: dict[int, int] = field(default_factory=dict)  # index of a leaf -> gfn it maps
    writes: int = 0  # trapped since a walk last came through: write_flooding_count


class ShadowPages:
    """All shadow pages of a VM: found by key, by the gfn they shadow, by the gfn they map."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._by_key: dict[tuple[int, Role], ShadowPage] = {}
        self._by_gfn: dict[int, list[ShadowPage]] = {}  # shadowed guest tables: write-tracked
        self._by_hpa: dict[int, ShadowPage] = {}
        self._rmap: dict[int, set[Slot]] = {}  # first gfn of a leaf -> the leaves that map it

    def __len__(self) -> int:
        """How many shadow pages there are."""
        return len(self._by_key)

    def tracked(self, gfn: int) -> list[ShadowPage]:
        """The shadow pages of the guest table in ``gfn``; none if it is no shadowed table."""
        return self._by_gfn.get(gfn, [])

    def tracks_any(self, gfn: int, count: int) -> bool:
        """Whether a shadowed guest table lies in ``count`` frames from ``gfn``: no large leaf."""
        if count == 1:
            return gfn in self._by_gfn
        return any(gfn <= one < gfn + count for one in self._by_gfn)

    def get(self, gfn: int, role: Role) -> ShadowPage:
        """The shadow page of this key, made (and its guest table write-protected) if need be."""
        page = self._by_key.get((gfn, role))
        if page is None:
            page = ShadowPage(gfn, role, self._vm.host.alloc_table())
            self._by_key[gfn, role] = page
            self._by_hpa[page.hpa] = page
            self._vm.tap(ShadowPageMade(gfn, role.level, role.direct))
            if not role.direct:
                self._by_gfn.setdefault(gfn, []).append(page)
                self._write_protect(gfn)
        return page

    def read(self, slot: Slot) -> int:
        """The entry in ``slot``."""
        return self._vm.ram.load(slot.hpa)

    def child(self, slot: Slot) -> ShadowPage | None:
        """The shadow page that the entry in ``slot`` points to."""
        entry = self.read(slot)
        return self._by_hpa.get(entry & ADDRESS) if entry & PRESENT else None

    def link(self, slot: Slot, child: ShadowPage, flags: int) -> None:
        """Make ``slot`` point to ``child``."""
        self.drop(slot)
        child.parents.add(slot)
        self._write(slot, child.gfn, child.hpa | flags)

    def set_leaf(self, slot: Slot, gfn: int, spte: int) -> None:
        """Make ``slot`` map the guest frame ``gfn`` (the first one of a large page)."""
        if slot.page.maps.get(slot.index) != gfn or self.read(slot) & ADDRESS != spte & ADDRESS:
            self.drop(slot)
        slot.page.maps[slot.index] = gfn
        self._rmap.setdefault(gfn, set()).add(slot)
        self._write(slot, gfn, spte)

    def drop(self, slot: Slot) -> bool:
        """Make ``slot`` absent; whether it was present."""
        spte = self.read(slot)
        if not spte & PRESENT:
            return False
        gfn = slot.page.maps.pop(slot.index, None)
        if gfn is not None:
            self._rmap[gfn].discard(slot)
        elif child := self._by_hpa.get(spte & ADDRESS):
            child.parents.discard(slot)
            gfn = child.gfn
        self._vm.ram.store(slot.hpa, 0)
        self._vm.tap(Zap("shadow", slot.page.role.level, gfn or 0, spte))
        return True

    def zap(self, page: ShadowPage, why: str) -> None:
        """Throw ``page`` away: its entries, the entries that point to it, its frame."""
        for index in range(PAGE_SIZE // _ENTRY):
            self.drop(Slot(page, index))
        for parent in list(page.parents):
            self.drop(parent)
        del self._by_key[page.gfn, page.role], self._by_hpa[page.hpa]
        siblings = self._by_gfn.get(page.gfn, [])
        if page in siblings:
            siblings.remove(page)
            if not siblings:
                del self._by_gfn[page.gfn]
        self._vm.host.free_table(page.hpa)
        self._vm.tap(ShadowPageZapped(page.gfn, page.role.level, why))

    def _write_protect(self, gfn: int) -> None:
        """Take W from every leaf that maps ``gfn``; a large one around it goes altogether."""
        changed = 0
        for slot in list(self._rmap.get(gfn, ())):
            spte = self.read(slot)
            if spte & WRITABLE and not spte & PS:
                self._write(slot, gfn, spte & ~WRITABLE)
                changed += 1
        for order in (9, 18):
            first = gfn >> order << order
            for slot in list(self._rmap.get(first, ())):
                if slot.page.role.level == order // 9 + 1:
                    changed += self.drop(slot)
        self._vm.tap(WriteProtected(gfn, changed))

    def _write(self, slot: Slot, gfn: int, spte: int) -> None:
        self._vm.ram.store(slot.hpa, spte)
        self._vm.tap(SpteSet("shadow", slot.page.role.level, gfn, slot.hpa, spte))


def covered(level: int) -> int:
    """How many frames one entry at ``level`` covers."""
    return 1 << 9 * (level - 1)


def shift_of(level: int) -> int:
    """The shift of a page that a leaf at ``level`` maps."""
    return PAGE_SHIFT + 9 * (level - 1)
