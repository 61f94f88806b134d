"""The direct MMU: GPA -> HPA in tables that the processor walks, filled on violations.

Intel's EPT and AMD's nested paging differ in the bits of an entry and share all else.  Linux,
arch/x86/kvm/mmu/tdp_mmu.c; with ``legacy``, mmu.c: direct_map(), __direct_pte_prefetch(), whose
tables are shadow pages and which fills the aligned group of eight.  The guest's page tables,
page faults and CR3 are its own.
"""

from dataclasses import dataclass

from kvmlab.hardware import permissions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, CR4_SMEP, Controls
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import WRITE, Kind, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.flushes import Flushes
from kvmlab.kvm.mmio import emulate_mmio
from kvmlab.kvm.records import (
    FaultHandled,
    Prefetched,
    ShadowPageMade,
    SpteSet,
    Zap,
)
from kvmlab.kvm.vm import Backing, Vm

_PS, _EPTP_WB_AD = 1 << 7, 6 | 1 << 6
_QUAL_WRITE = 1 << 1  # in an EPT violation's qualification as in a nested page fault's code
_QUAL_FETCH, _W = 1 << 2, 1 << 1
_PREFETCH = 8  # PTE_PREFETCH_NUM


@dataclass(frozen=True, slots=True)
class _Bits:
    """The bits of entries; KVM makes them with A, and writable leaves with D, already set."""

    present: int
    table: int
    leaf: int


_EPT = _Bits(7, 7 | 1 << 8, 7 | 6 << 3 | 1 << 6 | 1 << 8 | 1 << 9)  # RWX; WB and IPAT; A, D
_NPT = _Bits(1, 0x67, 0x67)  # P, W, U; A, D


@dataclass(slots=True)
class Tree:
    """The tables of a VM: their root, and how many frames they take."""

    root: int
    frames: int = 1


class EptMmu:
    """EPT (or ``npt``) for one VM: one tree for all its processes."""

    name = "ept"
    policy = "one EPT for the whole VM, filled on violations"

    def __init__(
        self,
        vm: Vm,
        vmcs: Vmcs,
        cpu: Cpu,
        levels: int = 4,
        *,
        npt: bool = False,
        legacy: bool = False,
        tree: Tree | None = None,
    ) -> None:
        self.vm = self._vm = vm
        self._vmcs, self._levels = vmcs, levels
        self._npt, self._legacy = npt, legacy
        self._bits = _NPT if npt else _EPT
        self.flushes = Flushes(cpu, vmcs, vm.tap)
        self._tree = tree or Tree(vm.host.alloc_table())
        self._root = self._tree.root
        if tree is None:
            vm.on_slot_gone.append(self._zap_all)
            vm.on_unmap.append(self._unmap)

    def sibling(self, vmcs: Vmcs, cpu: Cpu, _guest: Controls) -> "EptMmu":
        """The MMU of another virtual CPU: the same tree (kvm->arch.tdp_mmu_roots)."""
        npt, legacy = self._npt, self._legacy
        return EptMmu(self.vm, vmcs, cpu, self._levels, npt=npt, legacy=legacy, tree=self._tree)

    @property
    def table_frames(self) -> int:
        """How many frames its tables take now."""
        return self._tree.frames

    def arm(self) -> None:
        """EPT with A and D flags; only control bits that KVM must know of exit."""
        if self._npt:
            self._vmcs.ncr3, self._vmcs.nested_levels = self._root, self._levels
        else:
            self._vmcs.eptp = self._root | (self._levels - 1) << 3 | _EPTP_WB_AD
        self._vmcs.cr0_host_owned = CR0_PE | CR0_PG
        self._vmcs.cr4_host_owned = CR4_PAE | CR4_LA57 | CR4_SMEP
        self._vmcs.efer_exiting = True

    def reload(self) -> None:
        """Nothing: the root stays for the life of the VM."""

    def control_written(self, register: str, value: int) -> None:
        """The guest's registers are the hardware's."""
        setattr(self._vmcs.guest, register.lower(), value)

    def handle(self, reason: VmExit) -> None:
        """Serve an EPT violation: back the page and map it."""
        backing = self._vm.back(reason.gpa)
        write = bool(reason.qualification & _QUAL_WRITE)
        if backing is None or (write and not backing.slot.rights & WRITE):
            emulate_mmio(self._vm, self._vmcs, reason.gpa, self._kind(reason))
            self._vm.tap(FaultHandled("emulate"))
            return
        level = 1
        while (
            level < 3
            and backing.host.shift >= PAGE_SHIFT + 9 * level
            and backing.slot.allows_large(reason.gpa, PAGE_SHIFT + 9 * level)
        ):
            level += 1
        self._map(reason.gpa, backing, level)
        if self._legacy and level == 1:
            self._prefetch(reason.gpa)
        self._vm.tap(FaultHandled("fixed"))

    def _kind(self, reason: VmExit) -> Kind:
        if reason.qualification & _QUAL_WRITE:
            return Kind.WRITE
        fetch = permissions.PF_FETCH if self._npt else _QUAL_FETCH
        return Kind.FETCH if reason.qualification & fetch else Kind.READ

    def _map(self, gpa: int, backing: Backing, leaf_level: int) -> None:
        ram, table = self._vm.ram, self._root
        for level in range(self._levels, leaf_level, -1):
            slot = table + (gpa >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8
            entry = ram.load(slot)
            if not entry & self._bits.present:
                entry = self._vm.host.alloc_table() | self._bits.table
                self._tree.frames += 1
                if self._legacy:
                    self._vm.tap(ShadowPageMade(_first(gpa, level), level - 1, direct=True))
                self._set(level, gpa, slot, entry)
            table = entry & ~0xFFF & (1 << 52) - 1
        shift = PAGE_SHIFT + 9 * (leaf_level - 1)
        slot = table + (gpa >> shift & 511) * 8
        spte = backing.host.address & ~((1 << shift) - 1) | self._bits.leaf
        spte &= ~(0 if backing.slot.rights & WRITE else _W)
        self._set(leaf_level, gpa, slot, spte | (_PS if leaf_level > 1 else 0))

    def _zap_all(self) -> None:
        """A slot is gone: begin anew with an empty tree (kvm_tdp_mmu_zap_all)."""
        self._zap_below(self._root, self._levels, 0)
        self._vm.flushes.request("slot")

    def _zap_below(self, table: int, level: int, gpa: int) -> None:
        for index in range(512):
            slot, here = table + 8 * index, gpa | index << PAGE_SHIFT + 9 * (level - 1)
            spte = self._vm.ram.load(slot)
            if not spte & self._bits.present:
                continue
            if level > 1 and not spte & _PS:
                below = spte & ~0xFFF & (1 << 52) - 1
                self._zap_below(below, level - 1, here)
                self._vm.host.free_table(below)
                self._tree.frames -= 1
            self._vm.ram.store(slot, 0)
            self._vm.tap(Zap("ept", level, here >> PAGE_SHIFT, slot, spte))

    def _unmap(self, gpas: range) -> None:
        """The host takes pages back: their leaves go, tables stay (tdp_mmu_zap_leafs)."""
        if self._zap_leaves(self._root, self._levels, 0, gpas):
            self._vm.flushes.request("unmap")

    def _zap_leaves(self, table: int, level: int, base: int, gpas: range) -> int:
        shift = PAGE_SHIFT + 9 * (level - 1)
        first = max(0, gpas.start - base >> shift)
        last = min(511, gpas.stop - 1 - base >> shift)
        zapped = 0
        for index in range(first, last + 1):
            slot, here = table + 8 * index, base | index << shift
            spte = self._vm.ram.load(slot)
            if not spte & self._bits.present:
                continue
            if level > 1 and not spte & _PS:
                zapped += self._zap_leaves(spte & ~0xFFF & (1 << 52) - 1, level - 1, here, gpas)
                continue
            self._vm.ram.store(slot, 0)
            self._vm.tap(Zap("ept", level, here >> PAGE_SHIFT, slot, spte))
            zapped += 1
        return zapped

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
            self._map(other, backing, 1)
            self._vm.tap(Prefetched(other >> PAGE_SHIFT))

    def _present(self, gpa: int) -> bool:
        """Whether the last table, which must be there, maps ``gpa``."""
        table = self._root
        for level in range(self._levels, 0, -1):
            entry = self._vm.ram.load(table + (gpa >> PAGE_SHIFT + 9 * (level - 1) & 511) * 8)
            table = entry & ~0xFFF & (1 << 52) - 1
        return bool(entry & self._bits.present)


def _first(gpa: int, level: int) -> int:
    """The first guest frame that the entry for ``gpa`` at ``level`` covers."""
    covered = 9 * (level - 1)
    return gpa >> PAGE_SHIFT + covered << covered
