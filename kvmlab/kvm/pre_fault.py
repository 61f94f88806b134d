"""KVM_PRE_FAULT_MEMORY: guest memory is mapped before the guest touches it.

KVM API; Linux, virt/kvm/kvm_main.c: kvm_vcpu_pre_fault_memory(), arch/x86/kvm/mmu/mmu.c:
kvm_tdp_map_page().  Each page is a read fault, and comes from the host if it has to.
"""

import numpy as np

from kvmlab.base.errors import BadAddress, BadSize
from kvmlab.base.tap import silent
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE
from kvmlab.hardware.records import WRITE, Kind
from kvmlab.host.page_table import PAGE, pfns_of
from kvmlab.host.populate import leading
from kvmlab.kvm.direct_map import DirectMap
from kvmlab.kvm.ept_tree import Entry
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, Memslot
from kvmlab.kvm.vm import Vm


def pre_fault(vm: Vm, direct: DirectMap, gpa: int, size: int) -> None:
    """Map ``size`` bytes from ``gpa`` on; leaves beyond the end may be mapped with the last.

    Raises `BadSize` or `BadAddress` where the ioctl returns EINVAL or, outside every slot, ENOENT;
    what comes before such an address is mapped then, as the ioctl says by its count.
    """
    if gpa % PAGE_SIZE or size % PAGE_SIZE or size <= 0:
        raise BadSize(f"GPA {gpa:#x} and size {size:#x} must be multiples of 4 KiB, more than 0")
    try:
        with vm.flushes.together():
            _each(vm, direct, gpa, gpa + size)
    finally:
        vm.vmm.release()
        vm.go_on()


def _each(vm: Vm, direct: DirectMap, gpa: int, end: int) -> None:
    while gpa < end:
        backing = vm.back(gpa, write=False)
        if backing is None:
            raise BadAddress(f"GPA {gpa:#x} is in no memslot: nothing can be mapped there")
        direct.fill(gpa, backing, Kind.READ)
        leaf = direct.tree.find(gpa)
        gpa = leaf.gpas.stop
        if leaf.level == 1 and vm.tap is silent and not direct.legacy:
            gpa += _fill_table(vm, direct, backing.slot, leaf, end)


def _fill_table(vm: Vm, direct: DirectMap, slot: Memslot, before: Entry, end: int) -> int:
    """Map what follows ``before`` in its table as `DirectMap.fill` would; how many bytes.

    Only as far as that is copying frame numbers: up to a page that is mapped already or is not
    plain in the host, and nothing where writes are logged or a shadowed guest table lies.
    """
    gpa = before.gpas.stop
    end = min(end, slot.gpa + slot.size, (before.gpa | (1 << PAGE_SHIFT + 9) - 1) + 1)
    if gpa >= end or slot.flags & LOG_DIRTY_PAGES or direct.special(gpa, end):
        return 0
    vm.vmm.fill_table(slot.hva_of(gpa), slot.hva_of(end - 1) + 1)
    _, host = vm.vmm.table.small_entries(slot.hva_of(gpa), slot.hva_of(end - 1) + 1)
    mapped, pfns = vm.ram.words_at(before.hpa + 8, len(host)), pfns_of(host)
    pfns = pfns[: leading((mapped == 0) & (host ^ pfns << PAGE_SHIFT == PAGE))]
    write = bool(slot.rights & WRITE)
    leaf = direct.bits.make(0, large=False, write=write, execute=True)
    vm.ram.store_words(before.hpa + 8, pfns << PAGE_SHIFT | np.int64(leaf))
    return len(pfns) << PAGE_SHIFT
