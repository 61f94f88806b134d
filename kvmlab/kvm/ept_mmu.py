"""The direct MMU: GPA -> HPA in tables that the processor walks, filled on violations.

Intel's EPT and AMD's nested paging differ in the bits of an entry and share all else.  Linux,
arch/x86/kvm/mmu/tdp_mmu.c; with ``legacy``, mmu.c: direct_map(), __direct_pte_prefetch(), whose
tables are shadow pages and which fills the aligned group of eight.  The guest's page tables,
page faults and CR3 are its own.
"""

from dataclasses import dataclass

from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, CR4_SMEP
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.records import FaultHandled, MmioExit, Prefetched, ShadowPageMade, SpteSet
from kvmlab.kvm.vm import Vm

_PS, _EPTP_WB_AD = 1 << 7, 6 | 1 << 6
_QUAL_WRITE = 1 << 1  # in an EPT violation's qualification as in a nested page fault's code
_PREFETCH = 8  # PTE_PREFETCH_NUM


@dataclass(frozen=True, slots=True)
class _Bits:
    """The bits of entries; KVM makes them with A, and writable leaves with D, already set."""

    present: int
    table: int
    leaf: int


_EPT = _Bits(7, 7 | 1 << 8, 7 | 6 << 3 | 1 << 6 | 1 << 8 | 1 << 9)  # RWX; WB and IPAT; A, D
_NPT = _Bits(1, 0x67, 0x67)  # P, W, U; A, D


class EptMmu:
    """EPT (or ``npt``) for one VM: one tree for all its processes."""

    name = "ept"
    policy = "one EPT for the whole VM, filled on violations"

    def __init__(
        self, vm: Vm, vmcs: Vmcs, levels: int = 4, *, npt: bool = False, legacy: bool = False
    ) -> None:
        self._vm, self._vmcs, self._levels = vm, vmcs, levels
        self._npt, self._legacy = npt, legacy
        self._bits = _NPT if npt else _EPT
        self._root = vm.host.alloc_table()
        self.table_frames = 1

    def arm(self) -> None:
        """EPT with A and D flags; only control bits that KVM must know of exit."""
        if self._npt:
            self._vmcs.ncr3, self._vmcs.nested_levels = self._root, self._levels
        else:
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
            self._vm.tap(FaultHandled("emulate"))
            return
        level = 1
        while (
            level < 3
            and backing.host.shift >= PAGE_SHIFT + 9 * level
            and backing.slot.allows_large(reason.gpa, PAGE_SHIFT + 9 * level)
        ):
            level += 1
        self._map(reason.gpa, backing.host.address, level)
        if self._legacy and level == 1:
            self._prefetch(reason.gpa)
        self._vm.tap(FaultHandled("fixed"))

    def _map(self, gpa: int, hpa: int, leaf_level: int) -> None:
        ram, table = self._vm.ram, self._root
        for level in range(self._levels, leaf_level, -1):
            slot = table + (gpa >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8
            entry = ram.load(slot)
            if not entry & self._bits.present:
                entry = self._vm.host.alloc_table() | self._bits.table
                self.table_frames += 1
                if self._legacy:
                    self._vm.tap(ShadowPageMade(_first(gpa, level), level - 1, direct=True))
                self._set(level, gpa, slot, entry)
            table = entry & ~0xFFF & (1 << 52) - 1
        shift = PAGE_SHIFT + 9 * (leaf_level - 1)
        slot = table + (gpa >> shift & 511) * 8
        page = hpa & ~((1 << shift) - 1)
        self._set(leaf_level, gpa, slot, page | self._bits.leaf | (_PS if leaf_level > 1 else 0))

    def _set(self, level: int, gpa: int, slot: int, spte: int) -> None:
        self._vm.ram.store(slot, spte)
        self._vm.tap(SpteSet("ept", level, _first(gpa, level), slot, spte))

    def _prefetch(self, gpa: int) -> None:
        """Map the aligned group of ``gpa`` upwards, until the host lacks a page."""
        size = _PREFETCH << PAGE_SHIFT
        for other in range(gpa & ~(size - 1), (gpa & ~(size - 1)) + size, 1 << PAGE_SHIFT):
            if self._present(other):
                continue
            backing = self._vm.look(other)
            if backing is None:
                return
            self._map(other, backing.host.address, 1)
            self._vm.tap(Prefetched(other >> PAGE_SHIFT))

    def _present(self, gpa: int) -> bool:
        """Whether the last table, which must be there, maps ``gpa``."""
        table = self._root
        for level in range(self._levels, 0, -1):
            entry = self._vm.ram.load(table + (gpa >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8)
            table = entry & ~0xFFF & (1 << 52) - 1
        return bool(entry & self._bits.present)

    def _emulate_mmio(self, reason: VmExit) -> None:
        """Nobody lives in the hole: reads give all ones, writes are lost, as on a PC."""
        instruction = self._vmcs.instruction
        size = instruction.size if instruction else 1
        data = instruction.data if instruction else b""
        is_write = bool(reason.qualification & _QUAL_WRITE)
        self._vm.tap(MmioExit(reason.gpa, is_write, data))
        self._vmcs.loaded = b"\xff" * size
        self._vmcs.advance = True


def _first(gpa: int, level: int) -> int:
    """The first guest frame that the entry for ``gpa`` at ``level`` covers."""
    covered = 9 * (level - 1)
    return gpa >> PAGE_SHIFT + covered << covered
