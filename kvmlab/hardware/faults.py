"""What a refused translation means to the processor: a #PF, or a VM exit and its qualification.

SDM, "Page-Fault Exceptions" and "Exit Qualification for EPT Violations"; APM volume 2, "Nested
versus Guest Page Faults".
"""

from kvmlab.hardware import permissions
from kvmlab.hardware.context import Context
from kvmlab.hardware.ept import advanced_bits, qualification
from kvmlab.hardware.mmu import Access, Stop
from kvmlab.hardware.processor import Controls, Processor
from kvmlab.hardware.records import WRITE, ExitReason, Fault, Kind, PageFault, VmExit


def page_fault(stop: Stop, access: Access, controls: Controls) -> PageFault:
    """The #PF that the tables walked for the GVA call for.

    PK is reported whenever a key denies, also if the page would be denied anyway.
    """
    why = stop.fault.why
    code = permissions.error_code(
        controls,
        access.kind,
        user=access.user,
        present=why != "absent",
        reserved=why == "reserved",
        key=why == "key",
    )
    return PageFault(access.gva, code, access.kind, access.user)


def nested_exit(stop: Stop, gva: int, ctx: Context, processor: Processor) -> VmExit:
    """The exit that the second dimension calls for: EPT's reasons, or AMD's nested page fault."""
    fault = stop.fault
    if ctx.ept is not None and ctx.ept.npt:
        return VmExit(ExitReason.NPF, _npf_code(fault, final=stop.final), gva, fault.address)
    if fault.why == "reserved":
        return VmExit(ExitReason.EPT_MISCONFIG, 0, gva, fault.address)
    if fault.why == "pml full":
        return VmExit(ExitReason.PML_FULL, 0, gva, fault.address)
    code = qualification(fault, final=stop.final, mode_based=ctx.mode_based)
    if stop.final and (processor.advanced_exit_information or ctx.mode_based):
        code |= advanced_bits(stop.mapped)
    return VmExit(ExitReason.EPT_VIOLATION, code, gva, fault.address)


def _npf_code(fault: Fault, *, final: bool) -> int:
    """EXITINFO1 of a nested page fault (APM volume 2, "Nested versus Guest Page Faults")."""
    code = permissions.PF_USER | (permissions.PF_WRITE if fault.wants & WRITE else 0)
    code |= 0 if fault.why in ("absent", "width") else permissions.PF_PRESENT
    code |= permissions.PF_RESERVED if fault.why == "reserved" else 0
    code |= permissions.PF_FETCH if fault.wants & int(Kind.FETCH) else 0
    return code | (1 << 32 if final else 1 << 33)
