"""MMIO under the shadow MMU: leaves with a reserved bit, so that hardware stops at once.

Linux, arch/x86/kvm/mmu/mmu.c: handle_mmio_page_fault(), mark_mmio_spte().
"""

from kvmlab.hardware import permissions
from kvmlab.hardware.formats import ALL_RIGHTS
from kvmlab.hardware.processor import Controls, Processor
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE
from kvmlab.hardware.records import USER, WRITE, Kind
from kvmlab.kvm import mmio_sptes
from kvmlab.kvm.policy import Policy
from kvmlab.kvm.records import MmioKnown, MmioSpteSet
from kvmlab.kvm.shadow_pages import (
    ENTRIES,
    USER_BIT,
    WRITABLE,
    ShadowPage,
    ShadowPages,
    Slot,
    shift_of,
)
from kvmlab.kvm.vm import Vm


class ShadowMmio:
    """Remembers in leaves of ``pages`` for which pages nobody answers."""

    def __init__(self, vm: Vm, pages: ShadowPages, policy: Policy, processor: Processor) -> None:
        self._vm, self._pages = vm, pages
        self.caching = policy.mmio_caching and mmio_sptes.reserved_bit_exists(processor.maxphyaddr)

    def remember(self, slot: Slot, gpa: int, access: int) -> None:
        """Note in ``slot`` that nobody answers for the page of ``gpa``, and who may try."""
        self._pages.drop(slot)
        pattern = mmio_sptes.PAGING | (WRITABLE if access & WRITE else 0)
        pattern |= USER_BIT if access & USER else 0
        spte = mmio_sptes.make(pattern, gpa, self._vm.slots.generation)
        self._vm.ram.store(slot.hpa, spte)
        self._vm.tap(MmioSpteSet("shadow", gpa >> PAGE_SHIFT, slot.hpa, spte))

    def known(
        self, root: ShadowPage | None, gva: int, guest: Controls, kind: Kind, *, user: bool
    ) -> int | None:
        """The GPA that ``gva`` leads to, if a note allows the access and no slot changed since."""
        spte = 0
        while root is not None:
            slot = Slot(root, gva >> shift_of(root.role.level) & ENTRIES - 1)
            spte, root = self._pages.read(slot), self._pages.child(slot)
        now = self._vm.slots.generation % mmio_sptes.GENERATIONS
        if not mmio_sptes.is_paging(spte) or mmio_sptes.generation_of(spte) != now:
            return None
        rights = ALL_RIGHTS & ~(0 if spte & WRITABLE else WRITE) & ~(0 if spte & USER_BIT else USER)
        if not permissions.allowed(guest, rights, kind, user=user):
            return None
        gpa = mmio_sptes.gpa_of(spte) | gva & PAGE_SIZE - 1
        self._vm.tap(MmioKnown(gpa))
        return gpa
