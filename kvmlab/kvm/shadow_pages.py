"""Shadow pages: the tables that KVM builds in place of the guest's, and how they are found.

A shadow page stands for one guest table at one place in the guest's tree: its key is the gfn
of the guest table and its role.  The same table reached with other upper rights is shadowed
again.  Linux, Documentation/virt/kvm/x86/mmu.rst and arch/x86/kvm/mmu/mmu.c.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.flushes import RemoteFlushes
from kvmlab.kvm.mmio_sptes import is_paging
from kvmlab.kvm.policy import Policy
from kvmlab.kvm.records import (
    ShadowPageMade,
    ShadowPageZapped,
    SpteSet,
    Unsync,
    UnsyncEnded,
    WriteProtected,
    Zap,
)
from kvmlab.kvm.shadow_rmap import Rmap
from kvmlab.kvm.shadow_role import Role
from kvmlab.kvm.vm import Vm

if TYPE_CHECKING:
    from kvmlab.kvm.shadow_roots import Roots

PRESENT, WRITABLE, USER_BIT, PS = 1, 1 << 1, 1 << 2, 1 << 7
ADDRESS = 0x000F_FFFF_FFFF_F000
TRAP = 0xFFFF_FFFF_FFFF_F001  # shadow_trap_nonpresent_pte: present, but with reserved bits
ENTRIES = 512
_ENTRY = 8


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
    unsync: bool = False  # the guest may write the table; entries may lag behind it
    rebuilt: int | None = None  # index of the entry that a trapped write last built

    @property
    def entry_bytes(self) -> int:
        """The size of an entry of the guest table."""
        return 4 if self.role.has_4_byte_gpte else _ENTRY

    def source(self, index: int) -> int:
        """Where the guest entry is from which entry ``index`` is made: its GPA.

        A 32-bit guest's table is shadowed by quadrants: two pages for its 1024 PTEs, and four
        for its 1024 PDEs, each of which maps 4 MiB and takes two entries here.
        """
        if self.role.has_4_byte_gpte:
            index = self.role.quadrant * ENTRIES + index >> self.role.level - 1
        return (self.gfn << PAGE_SHIFT) + index * self.entry_bytes

    def made_from(self, gpa: int) -> range:
        """The entries that are made from the guest entry at ``gpa`` (get_written_sptes)."""
        entry = (gpa & (1 << PAGE_SHIFT) - 1) // self.entry_bytes
        if not self.role.has_4_byte_gpte:
            return range(entry, entry + 1)
        twice = self.role.level - 1  # a PDE makes two entries
        first = (entry << twice) - self.role.quadrant * ENTRIES
        return range(first, first + (1 << twice)) if 0 <= first < ENTRIES else range(0)


class ShadowPages:
    """All shadow pages of a VM: found by key, by the gfn they shadow, by the gfn they map."""

    def __init__(self, vm: Vm, policy: Policy, flushes: RemoteFlushes) -> None:
        self._vm, self._policy, self._flushes = vm, policy, flushes
        self.roots: list[Roots] = []  # of each virtual CPU
        self.pointer_tables: list[int] = []  # of virtual CPUs in PAE mode: their PDPTEs' frames
        self._absent = TRAP if policy.bypass else 0  # an entry that is to fault into KVM
        self._by_key: dict[tuple[int, Role], ShadowPage] = {}  # in the order of their making
        self._by_gfn: dict[int, list[ShadowPage]] = {}  # of shadowed guest tables
        self._by_hpa: dict[int, ShadowPage] = {}
        self._unsync: dict[ShadowPage, None] = {}
        self.on_protect: list[Callable[[int], None]] = []  # told of frames that become tables
        self._rmap = Rmap()

    def __len__(self) -> int:
        """How many shadow pages there are."""
        return len(self._by_key)

    def oldest_first(self) -> list[ShadowPage]:
        """All shadow pages in the order in which they were made (active_mmu_pages)."""
        return list(self._by_key.values())

    def shadowing(self, gfn: int) -> list[ShadowPage]:
        """The shadow pages of the guest table in ``gfn``; none if it is no shadowed table."""
        return self._by_gfn.get(gfn, [])

    def tracked(self, gfn: int) -> bool:
        """Whether every write to ``gfn`` is emulated (kvm_slot_page_track_is_active).

        Where leaf tables may go out of sync, only upper tables are.
        """
        pages = self.shadowing(gfn)
        return any(page.role.level > 1 for page in pages) if self._policy.unsync else bool(pages)

    def in_use(self) -> list[ShadowPage]:
        """The shadow pages that virtual CPUs have at hand as roots (root_count)."""
        return [page for roots in self.roots for page in roots.pages()]

    def shadows_any(self, gfn: int, count: int) -> bool:
        """Whether a shadowed guest table lies in ``count`` frames from ``gfn``: no large leaf."""
        if count == 1:
            return gfn in self._by_gfn
        return any(gfn <= one < gfn + count for one in self._by_gfn)

    # -- pages --------------------------------------------------------------------------

    def find(self, gfn: int, role: Role) -> ShadowPage | None:
        """The shadow page of this key, if there is one."""
        return self._by_key.get((gfn, role))

    def make(self, gfn: int, role: Role) -> ShadowPage:
        """A new shadow page; its guest table is write-protected, and in step for now."""
        if role.level > 1:  # an upper table cannot stay unsync (kvm_mmu_find_shadow_page)
            with self._flushes.together():
                for page in [one for one in self.shadowing(gfn) if one.unsync]:
                    self.zap(page, "unsync")
        page = ShadowPage(gfn, role, self._vm.host.alloc_table())
        for slot in (Slot(page, index) for index in range(ENTRIES if self._absent else 0)):
            self._vm.ram.store(slot.hpa, self._absent)
        self._by_key[gfn, role] = page
        self._by_hpa[page.hpa] = page
        self._vm.tap(ShadowPageMade(gfn, role.level, role.direct))
        if not role.direct:
            self._by_gfn.setdefault(gfn, []).append(page)
            self.write_protect(gfn)
        return page

    def zap(self, page: ShadowPage, why: str) -> None:
        """Throw ``page`` away: its entries, the entries that point to it, its frame.

        Unsync pages below it go too: nobody would find them when they must be brought in step
        (kvm_mmu_prepare_zap_page).
        """
        for roots in self.roots:
            roots.forget(page)
        for below in self.unsync_below(page):
            self.zap(below, "recycled" if why == "recycled" else "unsync")
        for index in range(ENTRIES):
            self.drop(Slot(page, index))
        for parent in list(page.parents):
            self.drop(parent)
        if page.unsync:
            self.end_unsync(page, "zapped")
        del self._by_key[page.gfn, page.role], self._by_hpa[page.hpa]
        siblings = self._by_gfn.get(page.gfn, [])
        if page in siblings:
            siblings.remove(page)
            if not siblings:
                del self._by_gfn[page.gfn]
        self._vm.host.free_table(page.hpa)
        self._vm.tap(ShadowPageZapped(page.gfn, page.role.level, why))
        self._flushes.request("zap")

    # -- out of step --------------------------------------------------------------------

    def begin_unsync(self, page: ShadowPage) -> None:
        """Let the guest write the table of ``page`` (kvm_unsync_page)."""
        page.unsync = True
        self._unsync[page] = None
        self._vm.tap(Unsync(page.gfn))

    def end_unsync(self, page: ShadowPage, why: str) -> None:
        """``page`` is in step again, or gone (kvm_unlink_unsync_page)."""
        page.unsync = False
        del self._unsync[page]
        self._vm.tap(UnsyncEnded(page.gfn, why))

    def unsync_below(self, top: ShadowPage) -> list[ShadowPage]:
        """The unsync pages that a walk from ``top`` can reach.

        KVM marks the way down in bitmaps, unsync_children; here the way up is searched.
        """
        return [page for page in self._unsync if _hangs_under(page, top)]

    # -- entries ------------------------------------------------------------------------

    def present(self, spte: int) -> bool:
        """Whether the hardware would use the entry (is_shadow_present_pte)."""
        return bool(spte & PRESENT) and spte != TRAP and not is_paging(spte)

    def read(self, slot: Slot) -> int:
        """The entry in ``slot``."""
        return self._vm.ram.load(slot.hpa)

    def child(self, slot: Slot) -> ShadowPage | None:
        """The shadow page that the entry in ``slot`` points to."""
        entry = self.read(slot)
        return self._by_hpa.get(entry & ADDRESS) if self.present(entry) else None

    def link(self, slot: Slot, child: ShadowPage, flags: int) -> None:
        """Make ``slot`` point to ``child``."""
        child.parents.add(slot)
        self._write(slot, child.gfn, child.hpa | flags)

    def set_leaf(self, slot: Slot, gfn: int, spte: int) -> None:
        """Make ``slot`` map the guest frame ``gfn`` (the first one of a large page)."""
        slot.page.maps[slot.index] = gfn
        self._rmap.add(gfn, slot)
        if spte & WRITABLE and (slot.page.role.level == 1 or spte & PS):
            self._vm.mark_dirty(gfn << PAGE_SHIFT)
        self._write(slot, gfn, spte)

    def drop(self, slot: Slot) -> bool:
        """Make ``slot`` absent (mmu_page_zap_pte); whether it was present."""
        spte = self.read(slot)
        if spte == self._absent:
            return False
        self._vm.ram.store(slot.hpa, self._absent)
        if not self.present(spte):
            return False
        gfn = slot.page.maps.pop(slot.index, None)
        if gfn is not None:
            self._rmap.discard(gfn, slot)
        elif child := self._by_hpa.get(spte & ADDRESS):
            child.parents.discard(slot)
            gfn = child.gfn
        self._vm.tap(Zap("shadow", slot.page.role.level, gfn or 0, slot.hpa, spte))
        return True

    def unmap(self, first: int, last: int) -> bool:
        """Drop every leaf that maps a frame from ``first`` to ``last``; whether there was one.

        Shadow pages of guest tables stay: their frames keep what the guest wrote, or the VMM
        gave away memory that the guest still used.
        """
        dropped = [self.drop(slot) for _, slot in self.leaves(first, last)]
        return any(dropped)

    def leaves(self, first: int, last: int) -> list[tuple[int, Slot]]:
        """Every leaf that maps a frame from ``first`` to ``last``, with the first that it maps."""
        return [
            (gfn, slot)
            for gfn, slot in self._rmap.near(first, last)
            if gfn <= last and gfn + self._frames(slot) > first
        ]

    def show_absent(self, slot: Slot) -> None:
        """Let a fault on ``slot`` go to the guest: its own entry is absent (notrap_nonpresent)."""
        self._vm.ram.store(slot.hpa, 0)

    def write_protect(self, gfn: int) -> None:
        """Take W from every leaf that maps ``gfn``; a large one around it goes altogether."""
        changed = 0
        for slot in self._rmap.at(gfn):
            spte = self.read(slot)
            if spte & WRITABLE and not spte & PS:
                self._write(slot, gfn, spte & ~WRITABLE)
                changed += 1
        for order in (9, 18):
            first = gfn >> order << order
            for slot in self._rmap.at(first):
                if self._frames(slot) == 1 << order:
                    changed += self.drop(slot)
        self._vm.tap(WriteProtected(gfn, changed))
        if changed:
            self._flushes.request("write protection")
        for tell in self.on_protect:
            tell(gfn)

    def leaves_of(self, gfn: int) -> list[Slot]:
        """Every leaf that maps ``gfn``, alone or in a large page."""
        found = dict.fromkeys(self._rmap.at(gfn))
        for level in (2, 3):
            slots = self._rmap.at(gfn & ~(covered(level) - 1))
            found |= dict.fromkeys(one for one in slots if self._frames(one) == covered(level))
        return list(found)

    def maps_page(self, slot: Slot) -> bool:
        """Whether an entry with a guest frame maps its page, and does not lead to a table in it."""
        return slot.page.role.level == 1 or bool(self.read(slot) & PS)

    def _frames(self, slot: Slot) -> int:
        """How many frames a leaf maps; a switching entry of agile paging leads to one table."""
        return covered(slot.page.role.level) if self.maps_page(slot) else 1

    def _write(self, slot: Slot, gfn: int, spte: int) -> None:
        self._vm.ram.store(slot.hpa, spte)
        self._vm.tap(SpteSet("shadow", slot.page.role.level, gfn, slot.hpa, spte))


def _hangs_under(page: ShadowPage, top: ShadowPage) -> bool:
    return any(one.page is top or _hangs_under(one.page, top) for one in page.parents)


def covered(level: int) -> int:
    """How many frames one entry at ``level`` covers."""
    return 1 << 9 * (level - 1)


def shift_of(level: int) -> int:
    """The shift of a page that a leaf at ``level`` maps."""
    return PAGE_SHIFT + 9 * (level - 1)


def level_of(shift: int) -> int:
    """The level of a leaf that maps a page of that shift."""
    return (shift - PAGE_SHIFT) // 9 + 1
