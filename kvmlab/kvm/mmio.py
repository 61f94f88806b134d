"""Accesses that no memory answers: outside every slot, or writes to a READONLY one; and ports.

KVM API, KVM_EXIT_MMIO, KVM_EXIT_IO and KVM_EXIT_INTERNAL_ERROR.
"""

from kvmlab.base.errors import MachineCheck
from kvmlab.hardware.io import port_access
from kvmlab.hardware.records import Kind, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.records import Emulated, IoExit, MmioExit
from kvmlab.kvm.vm import Vm


def emulate_mmio(vm: Vm, vmcs: Vmcs, gpa: int, kind: Kind) -> None:
    """Let the device at ``gpa`` answer; where nobody lives, reads give all ones, as on a PC.

    Instructions cannot be fetched from there: KVM gives up and tells user space.
    """
    if kind is Kind.FETCH:
        raise MachineCheck(
            f"KVM_EXIT_INTERNAL_ERROR (17), suberror 1: instruction fetch from GPA {gpa:#x}, "
            "which is in no memslot"
        )
    instruction = vmcs.instruction
    data = instruction.data if instruction else b""
    vm.tap(Emulated(gpa, "MMIO"))
    vmcs.advance = True
    if kind is Kind.WRITE and vm.mmio.ring(gpa, int.from_bytes(data, "little")):
        return
    vm.tap(MmioExit(gpa, kind is Kind.WRITE, data))
    if kind is Kind.WRITE:
        vm.mmio.store(gpa, data)
    else:
        vmcs.loaded = vm.mmio.load(gpa, instruction.size if instruction else 1)


def handle_io(vm: Vm, vmcs: Vmcs, reason: VmExit) -> None:
    """IN or OUT: a doorbell, or the device at the port (kvm_fast_pio)."""
    instruction = vmcs.instruction
    assert instruction is not None  # noqa: S101  such an exit has one
    port, size, is_read = port_access(reason.qualification)
    vmcs.advance = True
    if not is_read and vm.ports.ring(port, instruction.value):
        return
    data = b"" if is_read else instruction.value.to_bytes(size, "little")
    vm.tap(IoExit(port, not is_read, data))
    if is_read:
        vmcs.loaded = vm.ports.load(port, size)
    else:
        vm.ports.store(port, data)
