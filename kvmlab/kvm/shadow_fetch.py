"""Filling: the shadow path to an address, its leaf, and the leaves beside it.

Linux, arch/x86/kvm/mmu/paging_tmpl.h: FNAME(fetch), FNAME(pte_prefetch).
"""

from kvmlab.hardware.formats import ALL_RIGHTS
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import EXECUTE, USER, WRITE, Mapped
from kvmlab.kvm.guest_walk import Pte
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.kvm.records import Prefetched
from kvmlab.kvm.shadow_pages import (
    ENTRIES,
    ShadowPage,
    Slot,
    covered,
    level_of,
    shift_of,
)
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_role import Role
from kvmlab.kvm.shadow_sptes import Outcome, Why, page_of
from kvmlab.kvm.shadow_sync import Sync
from kvmlab.kvm.vm import Backing

_TABLE = 0x67  # upper entries allow everything: P, W, U, A, D; rights live in the leaves
_LARGEST_LEAF = 3


class Fetch:
    """Builds shadow paths from what the walk of the guest's tables found."""

    upper = _TABLE

    def __init__(self, parts: Parts, sync: Sync) -> None:
        self._vm, self._policy, self._flushes = parts.vm, parts.policy, parts.flushes
        self._guest, self._pages, self._sptes = parts.guest, parts.pages, parts.sptes
        self._sync = sync

    def fill(
        self, root: ShadowPage, gva: int, mapped: Mapped, backing: Backing, *, write: bool
    ) -> Outcome:
        """Build the shadow path from ``root`` to ``gva``, set its leaf, prefetch around it."""
        access = self._access(root, mapped, write=write) & backing.rights
        page = self._through_tables(root, gva, mapped)
        leaf = self._largest_leaf(mapped, backing)
        page = self._through_page(page, gva, mapped, leaf, access)
        slot = Slot(page, gva >> shift_of(leaf) & ENTRIES - 1)
        gfn = (mapped.address >> PAGE_SHIFT) & ~(covered(leaf) - 1)
        hpa = page_of(backing.host.address, leaf)
        outcome = self._sptes.set(slot, gfn, hpa, access, Why.FAULT)
        if outcome is not Outcome.SPURIOUS:
            self._prefetch(slot)
        return outcome

    def _access(self, root: ShadowPage, mapped: Mapped, *, write: bool) -> int:
        """The rights of the leaf.

        While the guest runs with CR0.WP clear, its kernel may write what is read-only; the
        hardware has WP set.  So the page becomes a writable one of the kernel's, which SMEP
        shall not make executable for it, and the next access by a user turns it back (FNAME(
        page_fault); Documentation/virt/kvm/x86/mmu.rst, "Emulating cr0.wp").
        """
        if not write and mapped.path:  # for a write D is set, where the slot of the table lets it
            return self._guest.leaf_access(mapped.path[-1].entry, mapped.rights)
        if write and not mapped.rights & WRITE:
            kernel = mapped.rights & ~USER | WRITE
            return kernel & ~EXECUTE if root.role.smep_andnot_wp else kernel
        return mapped.rights

    def path(self, root: ShadowPage, gva: int, mapped: Mapped, *, write: bool) -> tuple[Slot, int]:
        """The last-level entry for ``gva``, on a shadow path built for it, and its rights."""
        access = self._access(root, mapped, write=write)
        page = self._through_tables(root, gva, mapped)
        page = self._through_page(page, gva, mapped, 1, access)
        return Slot(page, gva >> PAGE_SHIFT & ENTRIES - 1), access

    def build(self, slot: Slot, entry: int) -> None:
        """Build the leaf that a PTE just stored calls for (kvm 2007: mmu_pte_write_new_pte)."""
        pte = self._guest.usable(entry)
        backing = self._vm.back(pte.gfn << PAGE_SHIFT) if pte else None
        if pte and backing:
            self._set(slot, pte, backing)
            slot.page.rebuilt = slot.index

    def _through_tables(self, page: ShadowPage, gva: int, mapped: Mapped) -> ShadowPage:
        """Down the shadow pages of the guest's tables, to that of the table with the leaf."""
        page.writes = 0
        access = ALL_RIGHTS
        for number, level in enumerate(range(page.role.level, _leaf_level(mapped), -1)):
            slot = Slot(page, gva >> shift_of(level) & ENTRIES - 1)
            access &= self._guest.rights(mapped.path[number].entry)
            gfn = mapped.path[number + 1].address >> PAGE_SHIFT
            page = self._child(slot, gfn, page.role.child(slot.index, access, direct=False))
        return page

    def _through_page(
        self, page: ShadowPage, gva: int, mapped: Mapped, leaf: int, access: int
    ) -> ShadowPage:
        """Where the guest's page is larger than ours can be: down direct shadow pages."""
        for level in range(_leaf_level(mapped), leaf, -1):
            slot = Slot(page, gva >> shift_of(level) & ENTRIES - 1)
            gfn = (mapped.address >> PAGE_SHIFT) & ~(covered(level) - 1)
            page = self._child(slot, gfn, page.role.child(slot.index, access, direct=True))
        return page

    def _child(self, slot: Slot, gfn: int, role: Role) -> ShadowPage:
        child = self._pages.child(slot)
        if child is None or (child.gfn, child.role) != (gfn, role):
            child = self._sync.get(gfn, role)
            self._sync.children(child)
            if self._pages.drop(slot):
                self._flushes.request("relinked")
            self._pages.link(slot, child, self.upper)
        child.writes = 0
        return child

    def _largest_leaf(self, mapped: Mapped, backing: Backing) -> int:
        """The largest leaf that guest page, host page, slot and shadowed tables allow."""
        gpa, level = mapped.address, 1
        while level < min(_leaf_level(mapped), _LARGEST_LEAF):
            size = covered(level + 1)
            first = (gpa >> PAGE_SHIFT) & ~(size - 1)
            if (
                backing.host.shift < shift_of(level + 1)
                or not backing.slot.allows_large(gpa, shift_of(level + 1))
                or self._pages.shadows_any(first, size)
            ):
                break
            level += 1
        return level

    # -- the leaves beside it -----------------------------------------------------------

    def _prefetch(self, slot: Slot) -> None:
        """Fill the aligned group of ``slot`` upwards, until an entry cannot be used."""
        group = self._policy.prefetch
        if not group or slot.page.role.level > 1:
            return
        first = slot.index // group * group
        for index in range(first, first + group):
            other = Slot(slot.page, index)
            if index == slot.index or self._pages.present(self._pages.read(other)):
                continue
            if not self._prefetch_one(other):
                return

    def _prefetch_one(self, slot: Slot) -> bool:
        """Fill one entry if the guest accessed it and the host has its page at hand."""
        page = slot.page
        pte: Pte | None = Pte(page.gfn + slot.index, ALL_RIGHTS)
        if not page.role.direct:
            pte = self._guest.usable(self._guest.entry(page.source(slot.index), page.entry_bytes))
        backing = self._vm.look(pte.gfn << PAGE_SHIFT) if pte else None
        if pte is None or backing is None:
            return False
        if backing.slot.flags & LOG_DIRTY_PAGES and pte.access & WRITE:
            return False  # nobody wrote it: gfn_to_memslot_dirty_bitmap()
        self._set(slot, pte, backing)
        self._vm.tap(Prefetched(pte.gfn))
        return True

    def _set(self, slot: Slot, pte: Pte, backing: Backing) -> None:
        access = pte.access & slot.page.role.access & backing.rights
        self._sptes.set(slot, pte.gfn, page_of(backing.host.address, 1), access, Why.PREFETCH)


def _leaf_level(mapped: Mapped) -> int:
    """The level of the guest's leaf; a guest without paging is as one with pages of 2 MiB."""
    return mapped.path[-1].level if mapped.path else level_of(mapped.shift)
