"""MMIO under the direct MMU: the entries that make hardware stop at once.

Linux, arch/x86/kvm/mmu/mmu.c: handle_mmio_page_fault(), kvm_handle_noslot_fault().
"""

from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm import mmio_sptes
from kvmlab.kvm.ept_entries import Bits
from kvmlab.kvm.ept_tree import EptTree
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.records import MmioSpteSet
from kvmlab.kvm.vm import Vm


class EptMmio:
    """Remembers in the leaves of ``tree`` for which pages nobody answers."""

    def __init__(
        self, vm: Vm, tree: EptTree, bits: Bits, processor: Processor, parameters: Parameters
    ) -> None:
        self._vm, self._tree, self._bits = vm, tree, bits
        width = processor.host_maxphyaddr or processor.maxphyaddr
        needs_bit = bits.mmio == mmio_sptes.PAGING
        possible = not needs_bit or mmio_sptes.reserved_bit_exists(width)
        self._caching = parameters.mmio_caching and possible

    def remember(self, gpa: int) -> None:
        """Note that nobody answers for the page of ``gpa``, if the tree has an entry for it."""
        if not self._caching or gpa >> self._tree.width:
            return
        entry = self._tree.reach(gpa, 1)
        spte = mmio_sptes.make(self._bits.mmio, gpa, self._vm.slots.generation)
        self._vm.ram.store(entry.hpa, spte)
        self._vm.tap(MmioSpteSet("ept", gpa >> PAGE_SHIFT, entry.hpa, spte))

    def known(self, gpa: int) -> bool:
        """Whether the entry that refused ``gpa`` is such a note, and no slot changed since."""
        spte = self._tree.find(gpa).spte
        if not self._bits.is_mmio(spte):
            return False
        now = self._vm.slots.generation % mmio_sptes.GENERATIONS
        return mmio_sptes.generation_of(spte) == now
