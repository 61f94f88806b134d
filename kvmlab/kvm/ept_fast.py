"""Faults of the direct MMU that need no lock: one entry gets back what KVM took from it.

Linux, arch/x86/kvm/mmu/mmu.c: fast_page_fault(), page_fault_can_be_fast().
"""

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import WRITE, Kind
from kvmlab.kvm.direct_map import DirectMap
from kvmlab.kvm.ept_entries import WRITABLE
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.kvm.records import FastFault
from kvmlab.kvm.vm import Vm


def fast_fault(vm: Vm, direct: DirectMap, gpa: int, kind: Kind) -> str:
    """Serve the access from the leaf for ``gpa``: "fixed", "spurious", or empty if that cannot be.

    A leaf that is only write-protected, in a slot that may be written, gets W back; one that is
    aged by lack of A bits gets its rights back.  No large leaf gets W while writes are logged.
    """
    tree, bits = direct.tree, direct.bits
    slot, leaf = vm.slots.find(gpa), tree.find(gpa)
    write = kind is Kind.WRITE
    if slot is None or not bits.live(leaf.spte) or not (write or not bits.accessed):
        return ""
    spte = bits.restored(leaf.spte)
    if write and not spte & WRITABLE:
        if not direct.writable(slot, gpa) or (leaf.level > 1 and slot.flags & LOG_DIRTY_PAGES):
            return ""
        backing = vm.look(gpa)  # KVM keeps in a bit of the entry whether the host lets it write
        if backing is None or not backing.rights & WRITE:
            return ""
        spte |= WRITABLE | bits.dirty
        vm.mark_dirty(gpa)
    if kind is Kind.FETCH and not bits.executable(spte):
        return ""
    vm.tap(FastFault(gpa >> PAGE_SHIFT))
    if spte == leaf.spte:
        return "spurious"
    tree.set(leaf, spte)
    return "fixed"
