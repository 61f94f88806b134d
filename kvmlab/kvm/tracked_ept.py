"""An EPT that keeps the frames of shadowed tables read-only, so that writes to them exit.

With shadow paging alone the shadow tables themselves do that.  Where a guest's stores go through
EPT while some of its tables are shadowed (agile paging, nested guests), EPT must: Linux,
arch/x86/kvm/mmu/page_track.c and mmu.c: kvm_mmu_slot_gfn_write_protect().
"""

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls, Processor
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.direct_map import DirectMap
from kvmlab.kvm.ept_entries import EPT, WRITABLE
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.memslots import Memslot
from kvmlab.kvm.parameters import DEFAULTS
from kvmlab.kvm.records import WriteProtected
from kvmlab.kvm.shadow_pages import ShadowPages, covered
from kvmlab.kvm.vm import Vm


class TrackedMap(DirectMap):
    """The direct map of a VM whose ``tables`` are shadowed."""

    def __init__(self, vm: Vm, levels: int, processor: Processor, tables: ShadowPages) -> None:
        super().__init__(vm, EPT, levels, processor, DEFAULTS)
        self._tables = tables
        tables.on_protect.append(self.write_protect)

    def write_protect(self, gfn: int) -> None:
        """Take W from the leaf that maps ``gfn``; a large one goes, to be filled in small ones."""
        leaf = self.tree.find(gfn << PAGE_SHIFT)
        if leaf.level > 1 and self.bits.live(leaf.spte):
            self.tree.zap(leaf)
        elif leaf.level == 1 and leaf.spte & WRITABLE and self.bits.live(leaf.spte):
            self.tree.set(leaf, leaf.spte & ~WRITABLE)
        else:
            return
        self._vm.tap(WriteProtected(gfn, 1))
        self._flush("write protection")

    def take_dirty(self, gfn: int) -> bool:
        """Whether the leaf of ``gfn`` is dirty; it is clean then, once TLBs are flushed."""
        leaf = self.tree.find(gfn << PAGE_SHIFT)
        dirty = self.bits.live(leaf.spte) and bool(leaf.spte & self.bits.dirty)
        if dirty:
            self.tree.set(leaf, leaf.spte & ~self.bits.dirty)
        return dirty

    def may_be_large(self, slot: Memslot, gpa: int, level: int) -> bool:
        """Not around a shadowed table (disallow_lpage)."""
        size = covered(level)
        around = self._tables.shadows_any(gpa >> PAGE_SHIFT & ~(size - 1), size)
        return not around and super().may_be_large(slot, gpa, level)

    def writable(self, slot: Memslot, gpa: int, /) -> bool:
        """Not where a shadowed table is: its writes are to exit."""
        tracked = self._tables.tracked(gpa >> PAGE_SHIFT)
        return not tracked and super().writable(slot, gpa)

    def special(self, gpa: int, end: int, /) -> bool:
        """Where a shadowed table is."""
        return self._tables.shadows_any(gpa >> PAGE_SHIFT, end - gpa >> PAGE_SHIFT)


class TrackedEpt(EptMmu):
    """EPT of a VM whose ``tables`` are shadowed."""

    def __init__(
        self,
        vm: Vm,
        vmcs: Vmcs,
        cpu: Cpu,
        levels: int,
        tables: ShadowPages,
        tracked: TrackedMap | None = None,
    ) -> None:
        self.tracked = tracked or TrackedMap(vm, levels, cpu.processor, tables)
        super().__init__(vm, vmcs, cpu, levels, direct=self.tracked)
        self.tables = tables

    def sibling(self, vmcs: Vmcs, cpu: Cpu, _guest: Controls) -> "TrackedEpt":
        """The MMU of another virtual CPU: the same tree."""
        return TrackedEpt(self.vm, vmcs, cpu, self._levels, self.tables, self.tracked)

    def take_dirty(self, gfn: int) -> bool:
        """Whether the leaf of ``gfn`` is dirty; it is clean then, once TLBs are flushed."""
        return self.tracked.take_dirty(gfn)
