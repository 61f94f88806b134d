"""The seam between the two ways of virtualizing memory.

Hardware never calls a hypervisor to translate: it obeys the VMCS, and exits.  So an MMU of KVM
is what it arms and what it does on an exit.  EPT and shadow paging are the same silicon with
two contents of the VMCS and two exit handlers.
"""

from typing import Protocol

from kvmlab.hardware.records import VmExit


class Mmu(Protocol):
    """How a hypervisor makes guest addresses resolve."""

    name: str  # "ept" or "shadow"

    @property
    def policy(self) -> str:
        """What a learner should know about how it works."""

    def arm(self) -> None:
        """Write the VMCS: what exits, and which root the hardware walks."""

    def control_written(self, register: str, value: int) -> None:
        """The guest's MOV to a control register exited; take it up."""

    def handle(self, reason: VmExit) -> None:
        """Serve a page-fault exit, an EPT violation, or an INVLPG."""

    @property
    def table_frames(self) -> int:
        """How many frames its tables take now."""
