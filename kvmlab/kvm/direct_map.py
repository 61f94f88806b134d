"""GPA -> HPA for a whole VM: one tree, however many processes and virtual CPUs use it.

Linux, arch/x86/kvm/mmu/tdp_mmu.c; with ``tdp_mmu=0``, mmu.c: direct_map() and
__direct_pte_prefetch(), whose tables are shadow pages and which fills the aligned group of eight.
"""

from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import WRITE, Kind
from kvmlab.kvm.ept_dirty import EptDirty
from kvmlab.kvm.ept_entries import Bits
from kvmlab.kvm.ept_mmio import EptMmio
from kvmlab.kvm.ept_nx import NxPages
from kvmlab.kvm.ept_tree import EptTree, shift_of
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, Memslot
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.records import Aged, Prefetched
from kvmlab.kvm.vm import Backing, Vm

_PREFETCH = 8  # PTE_PREFETCH_NUM
_LARGEST = 3


class DirectMap:
    """The tree of a VM, with what fills it and what takes from it."""

    def __init__(
        self, vm: Vm, bits: Bits, levels: int, processor: Processor, parameters: Parameters
    ) -> None:
        self._vm, self.bits, self.legacy = vm, bits, not parameters.tdp_mmu
        self.tree = EptTree(vm, bits, levels, legacy=self.legacy)
        self.dirty = EptDirty(vm, self.tree, bits, self.may_be_large, parameters)
        self.mmio = EptMmio(vm, self.tree, bits, processor, parameters)
        self.nx = NxPages(vm, self.tree) if parameters.nx_huge_pages else None
        vm.on_slot_gone.append(self._zap_all)
        vm.on_unmap.append(self._unmap)
        vm.on_age.append(self._age)
        vm.logs.listeners.append(self.dirty)

    def fill(self, gpa: int, backing: Backing, kind: Kind) -> str:
        """Map the page of ``gpa`` with as large a leaf as may be: "fixed" or "spurious"."""
        largest = self._largest(gpa, backing)
        level = 1 if self.nx and kind is Kind.FETCH else largest
        before = self.tree.find(gpa)
        changed = self._map(gpa, backing, level)
        if self.nx and level < largest:
            self.nx.track(gpa, min(largest, before.level))
        if self.legacy and level == 1:
            self._prefetch(gpa)
        if self.tree.stale:
            self._flush("remapped")
        return "fixed" if changed else "spurious"

    def _largest(self, gpa: int, backing: Backing) -> int:
        """The level of the largest leaf that host page and slot allow around ``gpa``."""
        level = 1
        while (
            level < _LARGEST
            and backing.host.shift >= shift_of(level + 1)
            and self.may_be_large(backing.slot, gpa, level + 1)
        ):
            level += 1
        return level

    def may_be_large(self, slot: Memslot, gpa: int, level: int) -> bool:
        """Whether a leaf at ``level`` may map the range around ``gpa``, whatever the host has."""
        return slot.allows_large(gpa, shift_of(level))

    def writable(self, slot: Memslot, _gpa: int, /) -> bool:
        """Whether the guest may write the page of ``gpa`` without an exit."""
        return bool(slot.rights & WRITE)

    def special(self, _gpa: int, _end: int, /) -> bool:
        """Whether some page between two GPAs has other rights than its slot."""
        return False

    def _map(self, gpa: int, backing: Backing, level: int) -> bool:
        """Set the leaf at ``level``; whether that changed anything."""
        entry = self.tree.reach(gpa, level)
        write = self.writable(backing.slot, gpa) and bool(backing.rights & WRITE)
        first = backing.host.address & ~((1 << shift_of(level)) - 1)
        execute = self.nx is None or level == 1
        spte = self.bits.make(first, large=level > 1, write=write, execute=execute)
        if write:
            self._vm.mark_dirty(gpa)
        if spte == entry.spte:
            return False
        self.tree.set(entry, spte)
        return True

    def _prefetch(self, gpa: int) -> None:
        """Map the aligned group of ``gpa`` upwards, until the host lacks a page.

        Nothing in a slot whose writes are logged: what nobody touched would look written.
        """
        size = _PREFETCH << PAGE_SHIFT
        for other in range(gpa & ~(size - 1), (gpa & ~(size - 1)) + size, 1 << PAGE_SHIFT):
            if self.bits.live(self.tree.find(other).spte):
                continue
            backing = self._vm.look(other)
            if backing is None or backing.slot.flags & LOG_DIRTY_PAGES:
                return
            self._map(other, backing, 1)
            self._vm.tap(Prefetched(other >> PAGE_SHIFT))

    # -- what the host and the slots take -----------------------------------------------

    def _zap_all(self) -> None:
        """A slot is gone: begin anew with an empty tree (kvm_tdp_mmu_zap_all)."""
        self.tree.clear()
        self._flush("slot")

    def _unmap(self, gpas: range) -> None:
        """The host takes pages back: their leaves go, tables stay (tdp_mmu_zap_leafs)."""
        self.tree.zap_leaves(gpas)
        if self.tree.stale:
            self._flush("unmap")

    def _age(self, gpas: range, *, clear: bool) -> bool:
        """Whether the guest used one of ``gpas``; with ``clear`` they look unused from now on."""
        young = False
        for leaf in self.tree.leaves(gpas):
            used = self.bits.young(leaf.spte)
            young |= used
            if clear and used:
                self.tree.set(leaf, self.bits.aged(leaf.spte))
                self._vm.tap(Aged("ept", leaf.gpa >> PAGE_SHIFT))
        if young and clear:
            self._flush("aged")
        return young

    def _flush(self, why: str) -> None:
        self.tree.stale = False
        self._vm.flushes.request(why)
