"""How the shadow MMU notices writes to a logged slot, and which pages the guest still uses.

Linux, arch/x86/kvm/mmu/mmu.c: kvm_mmu_slot_apply_flags(), kvm_mmu_write_protect_pt_masked(),
kvm_rmap_zap_collapsible_sptes(), kvm_rmap_age_gfn_range().
"""

from collections.abc import Iterable

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.memslots import Memslot
from kvmlab.kvm.records import Aged
from kvmlab.kvm.shadow_pages import WRITABLE, ShadowPages, shift_of
from kvmlab.kvm.shadow_sptes import ACCESSED
from kvmlab.kvm.vm import Vm


class ShadowDirty:
    """A `LogListener` over the shadow pages: writes are noticed by write protection."""

    def __init__(self, vm: Vm, pages: ShadowPages, accessed: int = ACCESSED) -> None:
        self._vm, self._pages = vm, pages
        self._accessed = accessed  # the A bit of their leaves

    def log_started(self, slot: Memslot) -> None:
        """Protect the whole slot; a large leaf makes way for small ones when it is written."""
        self._protect(slot.gpa >> PAGE_SHIFT, slot.gpa + slot.size - 1 >> PAGE_SHIFT)

    def log_stopped(self, slot: Memslot) -> None:
        """Drop small leaves that large ones could replace: the next fault makes those."""
        last = slot.gpa + slot.size - 1 >> PAGE_SHIFT
        for gfn, spot in self._pages.leaves(slot.gpa >> PAGE_SHIFT, last):
            shift = shift_of(spot.page.role.level + 1)
            gpa = gfn << PAGE_SHIFT
            host = self._vm.vmm.translate(slot.hva_of(gpa))
            large = host is not None and host.shift >= shift and slot.allows_large(gpa, shift)
            if spot.page.role.direct and large:
                self._pages.drop(spot)
                self._vm.flushes.request("collapse")

    def log_cleared(self, gfns: Iterable[int]) -> None:
        """Protect these pages again."""
        for gfn in gfns:
            self._protect(gfn, gfn)

    def drain(self) -> None:
        """The processor logs nothing: it knows no guest-physical addresses here."""

    def _protect(self, first: int, last: int) -> None:
        for gfn, spot in self._pages.leaves(first, last):
            spte = self._pages.read(spot)
            if spte & WRITABLE and self._pages.maps_page(spot):
                self._pages.set_leaf(spot, gfn, spte & ~WRITABLE)
                self._vm.flushes.request("dirty log")

    def age(self, gpas: range, *, clear: bool) -> bool:
        """Whether the guest used one of ``gpas``: the A bits of shadow entries are for this."""
        young = False
        for gfn, spot in self._pages.leaves(gpas.start >> PAGE_SHIFT, gpas.stop - 1 >> PAGE_SHIFT):
            spte = self._pages.read(spot)
            used = bool(spte & self._accessed) and self._pages.maps_page(spot)
            young |= used
            if clear and used:
                self._pages.set_leaf(spot, gfn, spte & ~self._accessed)
                self._vm.tap(Aged("shadow", gfn))
                self._vm.flushes.request("aged")
        return young
