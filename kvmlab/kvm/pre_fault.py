"""KVM_PRE_FAULT_MEMORY: guest memory is mapped before the guest touches it.

KVM API; Linux, virt/kvm/kvm_main.c: kvm_vcpu_pre_fault_memory(), arch/x86/kvm/mmu/mmu.c:
kvm_tdp_map_page().  Each page is a read fault, and comes from the host if it has to.
"""

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import BadAddress, BadSize
from kvmlab.base.tap import silent
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE
from kvmlab.hardware.records import WRITE, Kind
from kvmlab.host.page_table import BLOCK, PAGE, pfns_of
from kvmlab.host.populate import leading
from kvmlab.kvm.direct_map import DirectMap
from kvmlab.kvm.ept_tree import Entry
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, Memslot
from kvmlab.kvm.vm import Vm

_ABOVE, _ENTRIES = 2, 512  # the level that points to tables of small pages; entries of a table


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
    quiet = vm.tap is silent and not direct.legacy
    while gpa < end:
        if quiet and gpa + BLOCK <= end and _fill_table(vm, direct, gpa):
            gpa += BLOCK
            continue
        backing = vm.back(gpa, write=False)
        if backing is None:
            raise BadAddress(f"GPA {gpa:#x} is in no memslot: nothing can be mapped there")
        direct.fill(gpa, backing, Kind.READ)
        leaf = direct.tree.find(gpa)
        gpa = leaf.gpas.stop
        if leaf.level == 1 and quiet:
            gpa += _fill_rest(vm, direct, backing.slot, leaf, end)


def _fill_table(vm: Vm, direct: DirectMap, gpa: int) -> bool:
    """Map what one table covers from ``gpa`` on, as `DirectMap.fill` would; whether that was done.

    Only where there is no table yet and the host backs all of it, and on the terms of `_fill_rest`.
    """
    slot, end = vm.slots.find(gpa), gpa + BLOCK
    if (
        slot is None
        or gpa % BLOCK
        or end > slot.gpa + slot.size
        or not _even(direct, slot, gpa, end)
    ):
        return False
    entry, host = direct.tree.find(gpa), _backing(vm, slot, gpa, end)
    if entry.level != _ABOVE or entry.spte or len(host) != _ENTRIES or not _plain(host).all():
        return False
    vm.ram.store_words(direct.tree.add_table(entry), _leaves(direct, slot, host))
    return True


def _fill_rest(vm: Vm, direct: DirectMap, slot: Memslot, before: Entry, end: int) -> int:
    """Map what follows ``before`` in its table as `DirectMap.fill` would; how many bytes.

    Only as far as that is copying frame numbers: up to a page that is mapped already or is not
    plain in the host, and nothing where writes are logged or a shadowed guest table lies.
    """
    gpa = before.gpas.stop
    end = min(end, slot.gpa + slot.size, (before.gpa | BLOCK - 1) + 1)
    if gpa >= end or not _even(direct, slot, gpa, end):
        return 0
    vm.vmm.fill_table(slot.hva_of(gpa), slot.hva_of(end - 1) + 1)
    host = _backing(vm, slot, gpa, end)
    mapped = vm.ram.words_at(before.hpa + 8, len(host))
    host = host[: leading((mapped == 0) & _plain(host))]
    vm.ram.store_words(before.hpa + 8, _leaves(direct, slot, host))
    return len(host) << PAGE_SHIFT


def _even(direct: DirectMap, slot: Memslot, gpa: int, end: int) -> bool:
    """Whether all pages between two GPAs have the rights of their slot."""
    return not slot.flags & LOG_DIRTY_PAGES and not direct.special(gpa, end)


def _backing(vm: Vm, slot: Memslot, gpa: int, end: int) -> NDArray[np.int64]:
    """The host's entries for these pages, as far as they are in one of its tables."""
    return vm.vmm.table.small_entries(slot.hva_of(gpa), slot.hva_of(end - 1) + 1)[1]


def _plain(host: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these entries map a page that the guest may use as it likes."""
    plain: NDArray[np.bool_] = host ^ pfns_of(host) << PAGE_SHIFT == PAGE
    return plain


def _leaves(direct: DirectMap, slot: Memslot, host: NDArray[np.int64]) -> NDArray[np.int64]:
    """The leaves for pages that these entries map."""
    write = bool(slot.rights & WRITE)
    leaf = direct.bits.make(0, large=False, write=write, execute=True)
    return pfns_of(host) << PAGE_SHIFT | np.int64(leaf)
