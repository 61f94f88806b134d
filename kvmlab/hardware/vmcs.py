"""The virtual-machine control structure: what a hypervisor arms before it enters a guest.

SDM, "Virtual-Machine Control Structures".  Only fields that translation depends on are here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from kvmlab.hardware.ept import PageModificationLog
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.records import GeneralProtection, Kind, PageFault, VmExit


@dataclass(slots=True)
class Instruction:
    """What the guest was executing when it exited.

    A hypervisor reads the instruction's bytes at the guest's RIP and decodes them; this is what
    that yields: an access of ``size`` bytes (with ``data`` if it stores), or a MOV to ``register``.
    """

    kind: Kind
    gva: int
    size: int
    data: bytes = b""
    register: str = ""
    value: int = 0


@dataclass(slots=True)
class Vmcs:
    """Guest state, host state and controls of one virtual CPU."""

    host_entry: Callable[[VmExit], None]  # host RIP: where an exit goes
    guest: Controls = field(default_factory=Controls)  # what the hardware uses while in the guest
    vpid: int = 1
    eptp: int | None = None  # None: EPT is off
    ncr3: int | None = None  # AMD: nested paging with this root
    nested_levels: int = 4  # AMD: levels of the nested tables
    agile: bool = False  # agile paging (agile.py), which needs EPT
    shadow_root: int | None = None  # its third root, walked in place of CR3; None: nested only
    shadowed: bool = False  # CR3 names a hypervisor's tables, so records call them "shadow"
    mode_based_execute: bool = False
    pml: PageModificationLog | None = None
    page_fault_exiting: bool = False  # exception bitmap, bit 14
    page_fault_mask: int = 0  # of the error code: with bit 14 set it exits if what the mask
    page_fault_match: int = 0  # leaves equals this, with bit 14 clear if it does not
    cr3_load_exiting: bool = False
    invlpg_exiting: bool = False
    hlt_exiting: bool = False
    io_exiting: bool = False  # unconditional I/O exiting: IN and OUT exit
    efer_exiting: bool = False  # MSR bitmap: WRMSR to EFER exits
    cr0_host_owned: int = 0  # guest/host masks: a guest write that changes these bits exits
    cr4_host_owned: int = 0
    read_shadow: Controls | None = None  # what the guest reads of registers that the host owns
    instruction: Instruction | None = None
    advance: bool = False  # VM entry goes on behind the instruction: it was emulated
    loaded: bytes = b""  # what an emulated load returned
    # VM-entry interruption information
    injected: PageFault | GeneralProtection | None = None
    interrupt: int | None = None  # the vector of an interrupt that is to be delivered after it

    def page_fault_exits(self, code: int) -> bool:
        """Whether a #PF with this error code exits (SDM, "Exceptions" among what exits)."""
        return (code & self.page_fault_mask == self.page_fault_match) == self.page_fault_exiting
