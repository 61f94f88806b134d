"""A virtual CPU: a VMCS, the MMU that armed it, and the dispatch of exits.

Linux, arch/x86/kvm/vmx/vmx.c.
"""

from collections.abc import Callable

from kvmlab.base.errors import MachineCheck
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.records import ExitReason, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.mmu import Mmu


class Vcpu:
    """One virtual CPU on one logical CPU; ``make_mmu`` chooses EPT or shadow paging."""

    def __init__(self, cpu: Cpu, boot: Controls, make_mmu: Callable[["Vcpu"], Mmu]) -> None:
        self.cpu = cpu
        self.guest = boot  # the registers as the guest set them
        self.vmcs = Vmcs(host_entry=self.handle, guest=boot)
        self.mmu = make_mmu(self)
        self.mmu.arm()
        cpu.enter(self.vmcs)

    def handle(self, reason: VmExit) -> None:
        """Serve one exit and leave the VMCS ready for VM entry."""
        if reason.reason in (ExitReason.CR_ACCESS, ExitReason.WRMSR):
            instruction = self.vmcs.instruction
            assert instruction is not None  # noqa: S101  such an exit has one
            self.mmu.control_written(instruction.register, instruction.value)
            self.vmcs.advance = True
        elif reason.reason in (
            ExitReason.EPT_VIOLATION,
            ExitReason.NPF,
            ExitReason.EXCEPTION,
            ExitReason.INVLPG,
            ExitReason.INVPCID,
        ):
            self.mmu.handle(reason)
        else:
            raise MachineCheck(f"exit {reason.reason.name} at GPA {reason.gpa:#x} has no handler")
