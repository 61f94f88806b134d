"""How the direct MMU notices writes: the processor's log (PML), or write protection.

Linux, arch/x86/kvm/mmu/mmu.c: kvm_mmu_slot_apply_flags(); tdp_mmu.c: clear_dirty_pt_masked(),
kvm_tdp_mmu_recover_huge_pages().
"""

from collections.abc import Callable, Iterable

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.ept_entries import EPT, PS, WRITABLE, Bits
from kvmlab.kvm.ept_tree import Entry, EptTree, shift_of
from kvmlab.kvm.memslots import Memslot
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.pml import Pml
from kvmlab.kvm.records import Collapsed
from kvmlab.kvm.vm import Vm

_LEVELS = (3, 2)  # of large leaves


class EptDirty:
    """A `LogListener` over one tree: what happens to its leaves as logs begin, go on and end."""

    def __init__(
        self,
        vm: Vm,
        tree: EptTree,
        bits: Bits,
        may_be_large: Callable[[Memslot, int, int], bool],
        parameters: Parameters,
    ) -> None:
        self._vm, self._tree, self._bits = vm, tree, bits
        self._may_be_large = may_be_large
        self.logs: list[Pml] = []  # of the virtual CPUs
        self._eager, self._nx = parameters.eager_page_split, parameters.nx_huge_pages
        self._pml = parameters.pml and bits is EPT  # needs D bits; AMD has nothing like it

    def add_cpu(self, vmcs: Vmcs, cpu: Cpu) -> Pml:
        """Another virtual CPU walks the tree: what its processor logs is read too."""
        log = Pml(self._vm, vmcs, cpu)
        if self._pml:
            self.logs.append(log)
            log.switch()
        return log

    def log_started(self, slot: Memslot) -> None:
        """Split the slot's large leaves, or protect them; make its small ones clean."""
        gpas = range(slot.gpa, slot.gpa + slot.size)
        self._switch_pml()
        if self._eager:
            for leaf in self._tree.leaves(gpas):
                if leaf.level > 1:
                    self._tree.split(leaf)
        changed = [self._clean(leaf) for leaf in self._tree.leaves(gpas)]
        if any(changed):
            self._vm.flushes.request("dirty log")

    def log_stopped(self, slot: Memslot) -> None:
        """Make large leaves again where slot and host page allow."""
        self.drain()
        self._switch_pml()
        gpas = range(slot.gpa, slot.gpa + slot.size)
        tables = [one for one in self._tree.entries(gpas) if not one.leaf]
        collapsed = [self._collapse(one, slot) for one in tables if one.level in _LEVELS]
        if any(collapsed):
            self._vm.flushes.request("collapse")

    def log_cleared(self, gfns: Iterable[int]) -> None:
        """Make these pages clean again."""
        changed = [self._clean(self._tree.find(gfn << PAGE_SHIFT)) for gfn in gfns]
        if any(changed):
            self._vm.flushes.request("dirty log")

    def drain(self) -> None:
        """Take what the processors logged."""
        for one in self.logs:
            one.drain()

    def _switch_pml(self) -> None:
        for one in self.logs:
            one.switch()

    def _clean(self, leaf: Entry) -> bool:
        """Make the next write to a leaf's page be noticed; whether that changed the leaf."""
        if not self._bits.live(leaf.spte):
            return False
        notices = self._bits.dirty if self._pml and leaf.level == 1 else WRITABLE
        if not leaf.spte & notices:
            return False
        self._tree.set(leaf, leaf.spte & ~notices)
        return True

    def _collapse(self, table: Entry, slot: Memslot) -> bool:
        """Put one large leaf in the place of a table, made from a leaf below it."""
        shift = shift_of(table.level)
        if self._vm.ram.load(table.hpa) != table.spte or not self._may_be_large(
            slot, table.gpa, table.level
        ):
            return False  # it went with a larger one, or may not be
        host = self._vm.vmm.translate(slot.hva_of(table.gpa))
        child = next(self._tree.leaves(table.gpas), None)
        if host is None or host.shift < shift or child is None:
            return False
        spte = child.spte & ~(child.gpa - table.gpa) | PS
        self._tree.set(table, self._bits.without_execute(spte) if self._nx else spte)
        self._vm.tap(Collapsed("ept", table.level, table.gpa >> PAGE_SHIFT))
        return True
