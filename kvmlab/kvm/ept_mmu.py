"""The EPT MMU: GPA -> HPA in tables that the processor walks, filled on violations.

Linux, arch/x86/kvm/mmu/tdp_mmu.c.  The guest's page tables, page faults and CR3 are its own.
"""

from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, CR4_SMEP
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.records import MmioExit, SpteSet
from kvmlab.kvm.vm import Vm

_RWX, _ACCESSED, _DIRTY, _PS = 7, 1 << 8, 1 << 9, 1 << 7
_WRITE_BACK_IGNORE_PAT = 6 << 3 | 1 << 6
_TABLE = _RWX | _ACCESSED  # KVM makes entries with A, and writable leaves with D, already set
_LEAF = _RWX | _WRITE_BACK_IGNORE_PAT | _ACCESSED | _DIRTY
_EPTP_WB_AD = 6 | 1 << 6
_QUAL_WRITE = 1 << 1


class EptMmu:
    """EPT for one VM: one tree for all its processes."""

    name = "ept"
    policy = "one EPT for the whole VM, filled on violations"

    def __init__(self, vm: Vm, vmcs: Vmcs, levels: int = 4) -> None:
        self._vm, self._vmcs, self._levels = vm, vmcs, levels
        self._root = vm.host.alloc_table()
        self.table_frames = 1

    def arm(self) -> None:
        """EPT with A and D flags; only control bits that KVM must know of exit."""
        self._vmcs.eptp = self._root | (self._levels - 1) << 3 | _EPTP_WB_AD
        self._vmcs.cr0_host_owned = CR0_PE | CR0_PG
        self._vmcs.cr4_host_owned = CR4_PAE | CR4_LA57 | CR4_SMEP
        self._vmcs.efer_exiting = True

    def control_written(self, register: str, value: int) -> None:
        """The guest's registers are the hardware's."""
        setattr(self._vmcs.guest, register.lower(), value)

    def handle(self, reason: VmExit) -> None:
        """Serve an EPT violation: back the page and map it."""
        backing = self._vm.back(reason.gpa)
        if backing is None:
            self._emulate_mmio(reason)
            return
        level = 1
        while (
            level < 3
            and backing.host.shift >= PAGE_SHIFT + 9 * level
            and backing.slot.allows_large(reason.gpa, PAGE_SHIFT + 9 * level)
        ):
            level += 1
        self._map(reason.gpa, backing.host.address, level)

    def _map(self, gpa: int, hpa: int, leaf_level: int) -> None:
        ram, table = self._vm.ram, self._root
        for level in range(self._levels, leaf_level, -1):
            slot = table + (gpa >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8
            entry = ram.load(slot)
            if not entry & _RWX:
                entry = self._vm.host.alloc_table() | _TABLE
                self.table_frames += 1
                self._set(level, gpa, slot, entry)
            table = entry & ~0xFFF & (1 << 52) - 1
        shift = PAGE_SHIFT + 9 * (leaf_level - 1)
        slot = table + (gpa >> shift & 511) * 8
        page = hpa & ~((1 << shift) - 1)
        self._set(leaf_level, gpa, slot, page | _LEAF | (_PS if leaf_level > 1 else 0))

    def _set(self, level: int, gpa: int, slot: int, spte: int) -> None:
        covered = 9 * (level - 1)
        gfn = gpa >> PAGE_SHIFT + covered << covered
        self._vm.ram.store(slot, spte)
        self._vm.tap(SpteSet("ept", level, gfn, slot, spte))

    def _emulate_mmio(self, reason: VmExit) -> None:
        """Nobody lives in the hole: reads give all ones, writes are lost, as on a PC."""
        instruction = self._vmcs.instruction
        size = instruction.size if instruction else 1
        data = instruction.data if instruction else b""
        is_write = bool(reason.qualification & _QUAL_WRITE)
        self._vm.tap(MmioExit(reason.gpa, is_write, data))
        self._vmcs.loaded = b"\xff" * size
        self._vmcs.advance = True
