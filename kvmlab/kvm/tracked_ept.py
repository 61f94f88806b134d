"""An EPT that keeps the frames of shadowed tables read-only, so that writes to them exit.

With shadow paging alone the shadow tables themselves do that.  Where a guest's stores go through
EPT while some of its tables are shadowed (agile paging, nested guests), EPT must: Linux,
arch/x86/kvm/mmu/page_track.c and mmu.c: kvm_mmu_slot_gfn_write_protect().
"""

from dataclasses import replace

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.ept_mmu import EptMmu, Tree
from kvmlab.kvm.memslots import READONLY
from kvmlab.kvm.records import SpteSet, WriteProtected
from kvmlab.kvm.shadow_pages import ADDRESS, PS, WRITABLE, ShadowPages, covered, shift_of
from kvmlab.kvm.vm import Backing, Vm

DIRTY = 1 << 9  # of an EPT leaf
_RIGHTS = 7


class TrackedEpt(EptMmu):
    """EPT of a VM whose ``tables`` are shadowed."""

    def __init__(
        self,
        vm: Vm,
        vmcs: Vmcs,
        cpu: Cpu,
        levels: int,
        tables: ShadowPages,
        tree: Tree | None = None,
    ) -> None:
        super().__init__(vm, vmcs, cpu, levels, tree=tree)
        self.tables = tables
        if tree is None:
            tables.on_protect.append(self.write_protect)

    def sibling(self, vmcs: Vmcs, cpu: Cpu, _guest: Controls) -> "TrackedEpt":
        """The MMU of another virtual CPU: the same tree."""
        return TrackedEpt(self.vm, vmcs, cpu, self._levels, self.tables, self._tree)

    def write_protect(self, gfn: int) -> None:
        """Take W from the leaf that maps ``gfn``; a large one goes, to be filled in small ones."""
        slot, level = self._leaf(gfn)
        spte = self._vm.ram.load(slot) if slot else 0
        if level == 1 and spte & WRITABLE:
            self._set(1, gfn << PAGE_SHIFT, slot, spte & ~WRITABLE)
        elif level > 1:
            first = gfn << PAGE_SHIFT
            self._zap_leaves(self._root, self._levels, 0, range(first, first + 1))
        else:
            return
        self._vm.tap(WriteProtected(gfn, 1))
        self._vm.flushes.request("write protection")

    def take_dirty(self, gfn: int) -> bool:
        """Whether the leaf of ``gfn`` is dirty; it is clean then, once TLBs are flushed."""
        slot, level = self._leaf(gfn)
        spte = self._vm.ram.load(slot) if slot else 0
        if spte & DIRTY:
            self._vm.ram.store(slot, spte & ~DIRTY)
            self._vm.tap(SpteSet("ept", level, gfn, slot, spte & ~DIRTY))
        return bool(spte & DIRTY)

    def _map(self, gpa: int, backing: Backing, leaf_level: int) -> None:
        """As small as it takes to leave shadowed tables out; those are mapped without W."""
        gfn = gpa >> PAGE_SHIFT
        while leaf_level > 1:
            size = covered(leaf_level)
            if not self.tables.shadows_any(gfn & ~(size - 1), size):
                break
            leaf_level -= 1
        if leaf_level == 1 and self.tables.tracked(gfn):
            backing = replace(backing, slot=replace(backing.slot, flags=READONLY))
        super()._map(gpa, backing, leaf_level)

    def _leaf(self, gfn: int) -> tuple[int, int]:
        """Where the leaf of ``gfn`` is, and its level; zeroes if nothing maps it."""
        table = self._root
        for level in range(self._levels, 0, -1):
            slot = table + (gfn << PAGE_SHIFT >> shift_of(level) & 511) * 8
            spte = self._vm.ram.load(slot)
            if not spte & _RIGHTS:
                return 0, 0
            if level == 1 or spte & PS:
                return slot, level
            table = spte & ADDRESS
        return 0, 0
