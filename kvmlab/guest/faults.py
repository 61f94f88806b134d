"""The guest's exception handlers: what a #PF or a #GP comes to.

Linux, arch/x86/mm/fault.c: exc_page_fault(); mm/memory.c: handle_pte_fault().
"""

from kvmlab.base.errors import SegmentationFault
from kvmlab.guest.contexts import Contexts
from kvmlab.guest.memory import Memory
from kvmlab.guest.process import Vma
from kvmlab.hardware import instructions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.permissions import PF_FETCH, PF_PRESENT, PF_WRITE
from kvmlab.hardware.records import GeneralProtection, PageFault


class Faults:
    """Serves the faults of the process that runs."""

    def __init__(self, cpu: Cpu, contexts: Contexts, memory: Memory) -> None:
        self._cpu, self._contexts, self._memory = cpu, contexts, memory

    def page_fault(self, fault: PageFault) -> None:
        """The #PF handler: give or copy the page if a mapping allows the access, else SIGSEGV."""
        with self._contexts.entered():
            self._serve(fault)

    def _serve(self, fault: PageFault) -> None:
        process = self._contexts.current
        vma = process.vma_at(fault.gva) if process else None
        if process is None or vma is None or not _permits(vma, fault.error_code):
            raise SegmentationFault(
                f"SIGSEGV: {fault.kind.name.lower()} of {fault.gva:#x} by "
                f"{process.name if process else 'the kernel'}: #PF with error code "
                f"{fault.error_code:#x}, and no mapping allows it"
            )
        gva = fault.gva & ~((1 << vma.shift) - 1)
        write = bool(fault.error_code & PF_WRITE)
        if self._memory.pager:
            self._memory.pager.faulted()
        if not fault.error_code & PF_PRESENT:
            self._memory.demand(process, vma, gva, write=write)
        elif not (write and self._memory.write_protected(process, vma, gva)):
            instructions.invlpg(self._cpu, fault.gva)  # spurious: only the TLB can be behind

    def protection_fault(self, fault: GeneralProtection) -> None:
        """The #GP handler: SIGSEGV."""
        raise SegmentationFault(f"SIGSEGV: #GP: {fault.why}: {fault.gva:#x}")


def _permits(vma: Vma, code: int) -> bool:
    return (vma.write or not code & PF_WRITE) and (vma.execute or not code & PF_FETCH)
