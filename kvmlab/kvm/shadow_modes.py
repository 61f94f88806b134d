"""What each paging mode of the guest asks of its shadow: roots, and registers for the hardware.

A guest of 4 or 5 levels is shadowed by tables of as many levels.  For all others, those without
paging too, the hardware runs in PAE mode: CR3 names a table of KVM's own, whose four PDPTEs
point to a shadow page for each gigabyte.  Linux, arch/x86/kvm/mmu/mmu.c: kvm_calc_cpu_role(),
mmu_alloc_shadow_roots(), mmu_alloc_direct_roots(); struct kvm_mmu, pae_root.
"""

from kvmlab.base.errors import MachineCheck
from kvmlab.hardware.context import PCID
from kvmlab.hardware.processor import (
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Controls,
)
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.shadow_pages import PRESENT, ShadowPage
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_roots import Root, RootKey
from kvmlab.kvm.shadow_sync import Sync

_QUARTERS, _QUARTER_SHIFT = 4, 30
_POINTER_ADDRESS = 0x000F_FFFF_FFFF_F000
_FOUR_GIGABYTES = 1 << 32  # CR3 has 32 bits outside long mode


def arm_registers(hardware: Controls, guest: Controls, root: Root) -> None:
    """Give the hardware ``root`` and the registers to walk it with.

    Paging, PAE, WP and NX are on whatever the guest says.  What the processor ignores while
    paging is off must be off itself (vmx_set_cr4), and long mode is only where the guest is in
    it (vmx_set_efer).
    """
    hardware.cr0 = guest.cr0 | CR0_PG | CR0_WP
    hardware.cr4 = guest.cr4 | CR4_PAE
    hardware.efer = guest.efer | EFER_NXE
    if not guest.paging:
        hardware.cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE)
    if not guest.long_mode:
        hardware.efer &= ~(EFER_LME | EFER_LMA)
    hardware.cr3 = root.hpa | (guest.cr3 & PCID if guest.cr4 & CR4_PCIDE else 0)


class RootMaker:
    """Makes the shadow roots that the guest's registers call for."""

    def __init__(self, guest: Controls, parts: Parts, sync: Sync) -> None:
        self._guest, self._walk, self._sync = guest, parts.guest, sync
        self._vm, self._pages = parts.vm, parts.pages
        self._pointers: int | None = None  # the frame of the table of PDPTEs: pae_root

    def key(self) -> RootKey:
        """Of the root that the guest's registers call for now."""
        guest = self._guest
        pdptes = guest.pdptes if guest.mode == "PAE" else None
        return RootKey(guest.cr3 if guest.paging else 0, self._walk.role, pdptes)

    def make(self, key: RootKey) -> Root:
        """The root for ``key``; its shadow pages are found or made."""
        if key.role.level > 2:
            top = self._sync.get(self._walk.root_gfn, key.role)
            return Root(key, (top,), top.hpa)
        pages = tuple(self._quarter(number, key) for number in range(_QUARTERS))
        table = self._pointer_table()
        for number, page in enumerate(pages):
            self._vm.ram.store(table + 8 * number, page.hpa | PRESENT if page else 0)
        return Root(key, pages, table)

    def _quarter(self, number: int, key: RootKey) -> ShadowPage | None:
        """The shadow page of one gigabyte; None if the guest's PDPTE says it is absent."""
        if key.role.direct:
            return self._sync.get(number << _QUARTER_SHIFT - PAGE_SHIFT, key.role)
        if key.pdptes is None:
            return self._sync.get(self._walk.root_gfn, key.role._replace(quadrant=number))
        if not key.pdptes[number] & PRESENT:
            return None
        return self._sync.get((key.pdptes[number] & _POINTER_ADDRESS) >> PAGE_SHIFT, key.role)

    def end(self) -> None:
        """The VM is no more: the frame of the PDPTEs is the host's again."""
        if self._pointers is not None:
            self._pages.pointer_tables.remove(self._pointers)
            self._vm.host.free_table(self._pointers)
            self._pointers = None

    def _pointer_table(self) -> int:
        """The frame of the PDPTEs, taken when a guest first needs it (KVM: with the vCPU)."""
        if self._pointers is None:
            self._pointers = self._vm.host.alloc_table()
            self._pages.pointer_tables.append(self._pointers)
            if self._pointers >= _FOUR_GIGABYTES:
                raise MachineCheck(f"PDPTEs at {self._pointers:#x}: they must lie below 4 GiB")
        return self._pointers
