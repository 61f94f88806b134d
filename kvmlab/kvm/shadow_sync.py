"""Leaf tables that went out of step, and when they are brought back.

A shadow page may lag behind its table as a TLB may: until INVLPG, which drops one entry, or a
load of CR3, which brings all in step that the root can reach.  Linux, Documentation/virt/kvm/
x86/mmu.rst, "Synchronized and unsynchronized pages"; mmu.c: mmu_sync_children().
"""

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.mmio_sptes import is_paging
from kvmlab.kvm.records import Synced
from kvmlab.kvm.shadow_pages import (
    ADDRESS,
    ENTRIES,
    PRESENT,
    PS,
    ShadowPage,
    Slot,
    shift_of,
)
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_role import Role
from kvmlab.kvm.shadow_sptes import Why


class Sync:
    """Brings the unsync pages of ``pages`` in step with the guest's tables."""

    def __init__(self, parts: Parts) -> None:
        self._vm, self._policy, self._flushes = parts.vm, parts.policy, parts.flushes
        self._guest, self._pages, self._sptes = parts.guest, parts.pages, parts.sptes

    def get(self, gfn: int, role: Role) -> ShadowPage:
        """The shadow page of this key, made if need be; in step, since it will be linked.

        The guest flushes nothing when an absent entry becomes present, so a page that is unsync
        is compared now.  It stays unsync: protecting it again can wait for the guest's flush.
        """
        page = self._pages.find(gfn, role)
        if page is None:
            page = self._pages.make(gfn, role)
            if self._policy.bypass and not role.direct:
                self._show_absent(page)
            return page
        with self._flushes.together():
            if page.unsync and self._entries(page):
                self._flushes.request("sync")
        page.writes = 0
        return page

    def _show_absent(self, page: ShadowPage) -> None:
        """Tell entries that the guest left absent from those not filled yet (prefetch_page)."""
        for index in range(ENTRIES):
            if not self._guest.entry(page.source(index), page.entry_bytes) & PRESENT:
                self._pages.show_absent(Slot(page, index))

    def children(self, top: ShadowPage) -> None:
        """Bring all in step that a walk from ``top`` can reach, and protect those tables again."""
        stale = self._pages.unsync_below(top)
        with self._flushes.together():
            for page in stale:
                self._pages.write_protect(page.gfn)
        with self._flushes.together():
            for page in stale:
                self._pages.end_unsync(page, "synced")
                if self._entries(page):
                    self._flushes.request("sync")

    def invlpg(self, root: ShadowPage, gva: int) -> None:
        """Drop the entry for ``gva`` under ``root`` if its page is unsync: the next touch fills."""
        page: ShadowPage | None = root
        while page is not None:
            slot = Slot(page, gva >> shift_of(page.role.level) & ENTRIES - 1)
            spte = self._pages.read(slot)
            if page.role.level == 1 or spte & PS:
                if page.unsync and self._pages.drop(slot):
                    self._flushes.request("INVLPG")
                return
            page = self._pages.child(slot)

    def _entries(self, page: ShadowPage) -> int:
        """Compare all entries of ``page``; returns how many were dropped."""
        dropped = sum(self._entry(Slot(page, index)) for index in range(ENTRIES))
        self._vm.tap(Synced(page.gfn, dropped))
        return dropped

    def _entry(self, slot: Slot) -> bool:
        """Compare one entry with the guest's (FNAME(sync_spte)); whether it was dropped."""
        spte = self._pages.read(slot)
        if not self._pages.present(spte):
            if is_paging(spte):
                self._pages.drop(slot)  # sync_mmio_spte(); it is soon made again
            return False
        page = slot.page
        pte = self._guest.usable(self._guest.entry(page.source(slot.index), page.entry_bytes))
        if pte is None or pte.gfn != page.maps[slot.index]:
            return self._pages.drop(slot)
        backing = self._vm.look(pte.gfn << PAGE_SHIFT)  # read-only while KSM shares it
        access = pte.access & page.role.access & (backing.rights if backing else 0)
        self._sptes.set(slot, pte.gfn, spte & ADDRESS, access, Why.SYNC)
        return False
