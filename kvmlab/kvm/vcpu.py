"""A virtual CPU: a VMCS, the MMU that armed it, and the dispatch of exits.

Linux, arch/x86/kvm/vmx/vmx.c; x86.c: vcpu_enter_guest().
"""

from collections.abc import Callable

from kvmlab.base.errors import MachineCheck
from kvmlab.hardware.apic import STARTUP, decode_command
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.records import ExitReason, OnCpu, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.flushes import Flushes
from kvmlab.kvm.mmio import handle_io
from kvmlab.kvm.mmu import Mmu


class Vcpu:
    """One virtual CPU on one logical CPU; ``make_mmu`` chooses EPT or shadow paging."""

    def __init__(self, cpu: Cpu, boot: Controls, make_mmu: Callable[["Vcpu"], Mmu]) -> None:
        self.cpu = cpu
        self.guest = boot  # the registers as the guest set them
        vmcs = Vmcs(host_entry=self.handle, guest=boot, vpid=cpu.number + 1)
        vmcs.hlt_exiting = vmcs.io_exiting = True
        self.vmcs = cpu.vmptrld(vmcs)
        self.mmu = make_mmu(self)
        self.vm = self.mmu.vm
        self.vm.vcpus.append(self)
        if self.vm.loaded is None:  # the others wait for the guest's SIPI
            self.start()

    def start(self) -> None:
        """Begin to run the guest."""
        self.vm.loaded = self
        self.mmu.arm()
        self.prepare_entry()
        self.cpu.enter(self.vmcs)

    @property
    def flushes(self) -> Flushes:
        """The flush that must be done before the guest goes on."""
        return self.mmu.flushes

    @property
    def in_guest(self) -> bool:
        """Whether the guest runs on it now, and an IPI is needed to stop it (IN_GUEST_MODE)."""
        return self.cpu.in_guest and self.vm.loaded is not self

    def handle(self, reason: VmExit) -> None:
        """Serve one exit and leave the VMCS ready for VM entry.

        Raises `ProcessKilled` if that cost the VMM its life, and whenever it is used later.
        """
        self.vm.loaded = self
        try:
            self._serve(reason)
            self.vm.vmm.release()
        finally:
            self.prepare_entry()

    def prepare_entry(self) -> None:
        """What must be done before the guest goes on: a root, then the flushes asked for.

        Virtual CPUs that were kicked meanwhile exit, do the same, and go on first.
        """
        self.vm.loaded = self
        self.mmu.reload()
        for other in self.vm.vcpus:
            if other.in_guest and other.flushes.pending:
                other.kick()
                self.vm.loaded = self
                self.cpu.tap(OnCpu(self.cpu.number))
        self.flushes.serve()

    def enter_anew(self) -> None:
        """Go on after the host changed something between two exits."""
        self.cpu.in_guest = False
        self.prepare_entry()
        self.cpu.enter(self.vmcs)

    def kick(self) -> None:
        """Bring it out of the guest by an IPI of the host; it goes on at once (kvm_vcpu_kick)."""
        self.cpu.exit(VmExit(ExitReason.EXTERNAL_INTERRUPT, 0, 0, 0))

    def _send_ipi(self, destination: int, vector: int, mode: int) -> None:
        """Send the guest's interrupt on (kvm_apic_send_ipi); SIPI starts one that waits."""
        for target in self.vm.vcpus[destination : destination + 1]:
            if mode == STARTUP and target.cpu.vmcs is None:
                target.start()
            elif mode != STARTUP and target.cpu.vmcs:
                target.vmcs.interrupt = vector
                if target.in_guest:
                    target.kick()

    def _serve(self, reason: VmExit) -> None:
        if reason.reason in (ExitReason.CR_ACCESS, ExitReason.WRMSR):
            instruction = self.vmcs.instruction
            assert instruction is not None  # noqa: S101  such an exit has one
            if instruction.register == "ICR":
                self._send_ipi(*decode_command(instruction.value))
            elif instruction.register != "EOI":
                self.mmu.control_written(instruction.register, instruction.value)
            self.vmcs.advance = True
        elif reason.reason in (
            ExitReason.EPT_VIOLATION,
            ExitReason.EPT_MISCONFIG,
            ExitReason.PML_FULL,
            ExitReason.NPF,
            ExitReason.EXCEPTION,
            ExitReason.INVLPG,
            ExitReason.INVPCID,
        ):
            self.mmu.handle(reason)
        elif reason.reason is ExitReason.IO:
            handle_io(self.vm, self.vmcs, reason)
        elif reason.reason is ExitReason.HLT:
            self.vmcs.advance = True  # an interrupt is never far away
        elif reason.reason is not ExitReason.EXTERNAL_INTERRUPT:  # that one is the host's own
            raise MachineCheck(f"exit {reason.reason.name} at GPA {reason.gpa:#x} has no handler")
