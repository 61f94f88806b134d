"""Accesses that no memory answers: a device's registers, a hole, or a write to a READONLY slot.

KVM API, KVM_EXIT_MMIO and KVM_EXIT_INTERNAL_ERROR.
"""

from kvmlab.base.errors import MachineCheck
from kvmlab.hardware.records import Kind
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.records import MmioExit
from kvmlab.kvm.vm import Vm


def emulate_mmio(vm: Vm, vmcs: Vmcs, gpa: int, kind: Kind) -> None:
    """Let the VMM's device answer; where there is none, reads give all ones and writes are lost.

    Instructions cannot be fetched from there: KVM gives up and tells user space.
    """
    if kind is Kind.FETCH:
        raise MachineCheck(
            f"KVM_EXIT_INTERNAL_ERROR (17), suberror 1: instruction fetch from GPA {gpa:#x}, "
            "which is in no memslot"
        )
    instruction = vmcs.instruction
    data = instruction.data if instruction else b""
    vm.tap(MmioExit(gpa, kind is Kind.WRITE, data))
    if kind is Kind.WRITE:
        vm.mmio.store(gpa, data)
    else:
        vmcs.loaded = vm.mmio.load(gpa, instruction.size if instruction else 1)
    vmcs.advance = True
