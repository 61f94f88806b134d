"""KVM's emulator, as far as memory is concerned: one access of the guest, done in software.

Linux, arch/x86/kvm/emulate.c; x86.c: emulator_read_write(), vcpu_mmio_gva_to_gpa().
"""

from kvmlab.hardware import permissions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import WRITE, Fault, Kind, PageFault
from kvmlab.hardware.vmcs import Instruction, Vmcs
from kvmlab.kvm.guest_walk import GuestWalk
from kvmlab.kvm.mmio import emulate_mmio
from kvmlab.kvm.records import Emulated, Reflected
from kvmlab.kvm.vm import Vm

_USER_CPL = 3


class Emulator:
    """Executes the instruction at which a guest stands, for a virtual CPU without shadow paging."""

    def __init__(self, vm: Vm, vmcs: Vmcs, cpu: Cpu) -> None:
        self._vm, self._vmcs, self._cpu = vm, vmcs, cpu

    def execute(self, gva: int) -> None:
        """Do the access to ``gva``: in memory, by a device, or not at all if it faults."""
        instruction = self._vmcs.instruction
        assert instruction is not None  # noqa: S101  an exit for an access has one
        gpa = self._translate(gva, instruction)
        if gpa is None:
            return
        backing, write = self._vm.back(gpa), instruction.kind is Kind.WRITE
        if backing is None or (write and not backing.slot.rights & WRITE):
            emulate_mmio(self._vm, self._vmcs, gpa, instruction.kind)
            return
        self._vm.tap(Emulated(gva, "guest table"))
        if write:
            self._vm.ram.write(backing.host.address, instruction.data)
            self._vm.mark_dirty(gpa)
        else:
            self._vmcs.loaded = self._vm.ram.read(backing.host.address, instruction.size)
        self._vmcs.advance = True

    def _translate(self, gva: int, instruction: Instruction) -> int | None:
        """The guest-physical address, by the guest's own tables; None after a page fault."""
        guest, kind = self._vmcs.guest, instruction.kind
        if not guest.paging or instruction.register:  # PDPTEs are read at guest-physical addresses
            return instruction.gva
        walk = GuestWalk(self._vm, guest, self._cpu.processor)
        user = self._cpu.cpl == _USER_CPL
        found = walk.walk(gva)
        absent = isinstance(found, Fault)
        if isinstance(found, Fault) or not permissions.allowed(
            guest, found.rights, kind, user=user
        ):
            reserved = isinstance(found, Fault) and found.why == "reserved"
            code = permissions.error_code(
                guest, kind, user=user, present=reserved or not absent, reserved=reserved
            )
            self._vm.tap(Emulated(gva, "#PF"))
            self._vm.tap(Reflected(gva, code))
            self._vmcs.injected = PageFault(gva, code, kind, user)
            return None
        walk.mark(found, write=kind is Kind.WRITE)
        return found.address
