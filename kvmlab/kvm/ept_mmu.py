"""The direct MMU: GPA -> HPA in tables that the processor walks, filled on violations.

Intel's EPT and AMD's nested paging differ in the bits of an entry (`ept_entries`) and share all
else.  The tables are the VM's (`direct_map`); here is what one virtual CPU arms, and what it does
on an exit.  The guest's page tables, page faults and CR3 are its own.
"""

from kvmlab.hardware import permissions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_SMEP,
    Controls,
)
from kvmlab.hardware.records import WRITE, ExitReason, GeneralProtection, Kind, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.direct_map import DirectMap
from kvmlab.kvm.emulator import Emulator
from kvmlab.kvm.ept_entries import EPT, EPT_WITHOUT_AD, NPT
from kvmlab.kvm.ept_fast import fast_fault
from kvmlab.kvm.flushes import Flushes
from kvmlab.kvm.guest_walk import GuestWalk
from kvmlab.kvm.parameters import DEFAULTS, Parameters
from kvmlab.kvm.pre_fault import pre_fault
from kvmlab.kvm.records import FaultHandled, MmioKnown
from kvmlab.kvm.vm import Vm

_EPTP_WB, _EPTP_AD = 6, 1 << 6
_QUAL_WRITE = 1 << 1  # in an EPT violation's qualification as in a nested page fault's code
_QUAL_FETCH = 1 << 2


class EptMmu:
    """EPT (or ``npt``) for one virtual CPU, over the VM's ``direct`` map."""

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
        parameters: Parameters = DEFAULTS,
        direct: DirectMap | None = None,
    ) -> None:
        bits = NPT if npt else EPT if parameters.eptad else EPT_WITHOUT_AD
        self.vm, self._vmcs, self._levels, self._npt = vm, vmcs, levels, npt
        self._parameters = parameters
        self.direct = direct or DirectMap(vm, bits, levels, cpu.processor, parameters)
        self.flushes, self._cpu = Flushes(cpu, vmcs, vm.tap), cpu
        self._walk = GuestWalk(vm, vmcs.guest, cpu.processor)
        vm.on_end.append(self._end)
        self._emulator = Emulator(vm, vmcs, cpu)
        self._pml = self.direct.dirty.add_cpu(vmcs, cpu)

    def sibling(self, vmcs: Vmcs, cpu: Cpu, _guest: Controls) -> "EptMmu":
        """The MMU of another virtual CPU: the same tree (kvm->arch.tdp_mmu_roots)."""
        npt, parameters = self._npt, self._parameters
        return EptMmu(
            self.vm, vmcs, cpu, self._levels, npt=npt, parameters=parameters, direct=self.direct
        )

    @property
    def table_frames(self) -> int:
        """How many frames its tables take now."""
        return self.direct.tree.table_frames

    def arm(self) -> None:
        """Arm the root; only control bits that KVM must know of exit."""
        root, bits = self.direct.tree.root, self.direct.bits
        if self._npt:
            self._vmcs.ncr3, self._vmcs.nested_levels = root, self._levels
        else:
            keeps = _EPTP_AD if bits.accessed else 0
            self._vmcs.eptp = root | (self._levels - 1) << 3 | _EPTP_WB | keeps
        self._vmcs.cr0_host_owned = CR0_PE | CR0_PG
        self._vmcs.cr4_host_owned = CR4_PAE | CR4_LA57 | CR4_SMEP
        self._vmcs.efer_exiting = True

    def reload(self) -> None:
        """Nothing: the root stays for the life of the VM."""

    def _end(self) -> None:
        """The VMM is gone: no CPU may walk the root any more, which then is freed."""
        self._pml.end()
        self.direct.tree.end()
        self.arm()
        self._cpu.refresh()
        self.flushes.serve()

    def control_written(self, register: str, value: int) -> None:
        """The guest's registers are the hardware's; #GP for PDPTEs that cannot be loaded.

        What the instruction would have flushed is flushed for it (kvm_post_set_cr0, _cr4).
        """
        self._pml.drain()
        guest = self._vmcs.guest
        cr0, cr4 = guest.cr0, guest.cr4
        if why := self._walk.take(register, value):
            self._vmcs.injected = GeneralProtection(0, why)
        elif cr0 & ~guest.cr0 & CR0_PG or _flushes(cr4, guest.cr4):
            self.flushes.request(f"MOV {register}")

    def handle(self, reason: VmExit) -> None:
        """Serve a full log, an access to MMIO, or a violation: back the page and map it.

        Raises `ProcessKilled` once the VMM is no more: its tables are not touched again.
        """
        self.vm.vmm.check_alive()
        self._pml.drain()
        if reason.reason is ExitReason.PML_FULL:
            return
        refused = reason.reason is ExitReason.EPT_MISCONFIG
        refused |= self._npt and bool(reason.qualification & permissions.PF_RESERVED)
        if refused and self.direct.mmio.known(reason.gpa):
            self.vm.tap(MmioKnown(reason.gpa))
            self._emulator.execute(reason.gva)
        else:
            self.vm.tap(FaultHandled(self._page_fault(reason)))

    def pre_fault(self, gpa: int, size: int) -> None:
        """KVM_PRE_FAULT_MEMORY: map a range ahead of use; raises `BadSize`, `BadAddress`."""
        pre_fault(self.vm, self.direct, gpa, size)

    def _page_fault(self, reason: VmExit) -> str:
        """What came of a fault: KVM's RET_PF_...

        A guest table in a READONLY slot ends here too: the processor wants to set A or D, or with
        EPT's own A and D reads it as if it wrote, and is refused.  KVM then executes the whole
        instruction in software, whose walk leaves A and D of such tables alone
        (paging_tmpl.h: FNAME(update_accessed_dirty_bits)).
        """
        gpa, kind = reason.gpa, self._kind(reason)
        if outcome := fast_fault(self.vm, self.direct, gpa, kind):
            return outcome
        backing = self.vm.back(gpa, write=kind is Kind.WRITE)
        if backing is None:
            self.direct.mmio.remember(gpa)
        if backing is None or (kind is Kind.WRITE and not backing.slot.rights & WRITE):
            self._emulator.execute(reason.gva)
            return "emulate"
        return self.direct.fill(gpa, backing, kind)

    def _kind(self, reason: VmExit) -> Kind:
        if reason.qualification & _QUAL_WRITE:
            return Kind.WRITE
        fetch = permissions.PF_FETCH if self._npt else _QUAL_FETCH
        return Kind.FETCH if reason.qualification & fetch else Kind.READ


def _flushes(old: int, new: int) -> bool:
    """Whether a change of CR4 invalidates what is cached (as `mov_cr4` where it does not exit)."""
    return bool(
        (old ^ new) & (CR4_PGE | CR4_PAE) or old & ~new & CR4_PCIDE or new & ~old & CR4_SMEP
    )
