"""The seam between the two ways of virtualizing memory.

Hardware never calls a hypervisor to translate: it obeys the VMCS, and exits.  So an MMU of KVM
is what it arms and what it does on an exit.  EPT and shadow paging are the same silicon with
two contents of the VMCS and two exit handlers.
"""

from typing import Protocol

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.records import VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.flushes import Flushes
from kvmlab.kvm.vm import Vm


class Mmu(Protocol):
    """How a hypervisor makes guest addresses resolve, for one virtual CPU.

    The tables are the VM's: all its virtual CPUs walk the same.  Registers, roots at hand and
    the pending flush are the virtual CPU's own (struct kvm_arch and struct kvm_vcpu_arch).
    """

    name: str  # "ept" or "shadow"
    vm: Vm
    flushes: Flushes

    def sibling(self, vmcs: Vmcs, cpu: Cpu, guest: Controls) -> "Mmu":
        """The MMU of another virtual CPU of the same VM, over the same tables."""

    @property
    def policy(self) -> str:
        """What a learner should know about how it works."""

    def arm(self) -> None:
        """Write the VMCS: what exits, and which root the hardware walks."""

    def reload(self) -> None:
        """Before VM entry: arm a root again if the one in use went (kvm_mmu_reload)."""

    def control_written(self, register: str, value: int) -> None:
        """The guest's MOV to a control register exited; take it up."""

    def handle(self, reason: VmExit) -> None:
        """Serve an exit that has to do with memory: a page fault, an EPT violation, INVLPG."""

    @property
    def table_frames(self) -> int:
        """How many frames its tables take now."""
