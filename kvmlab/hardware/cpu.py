"""A logical CPU: registers, a TLB, and the way one access goes.

    TlbLookup -> Step x n -> AccessedDirty -> TlbFill -> data
                   |-> PageFault -> the guest's own handler -> retry
                   |-> VmExit -> the hypervisor -> VmEntry -> retry

`Cpu.attempt` is one try and changes nothing but what silicon changes; `Cpu.access` serves what
came of it and tries again.  In VMX non-root operation the CPU obeys the VMCS and exits: it
never asks a hypervisor to translate.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import is_canonical
from kvmlab.base.errors import MachineCheck
from kvmlab.base.tap import Tap, silent
from kvmlab.hardware.context import CR3_PAE, context, context_key
from kvmlab.hardware.faults import nested_exit, page_fault
from kvmlab.hardware.mmu import Access, Mmu, Stop
from kvmlab.hardware.processor import Controls, Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import (
    Data,
    ExitReason,
    GeneralProtection,
    Interrupt,
    Kind,
    PageFault,
    VmEntry,
    VmExit,
)
from kvmlab.hardware.tlb import UNIFIED, Geometry
from kvmlab.hardware.vmcs import Instruction, Vmcs

T = TypeVar("T")
Outcome = int | PageFault | GeneralProtection | VmExit
_ATTEMPTS = 64  # no access of a working machine needs that many faults and exits


class Cpu(Mmu):
    """One logical processor over ``ram``: an MMU, control registers, faults and exits.

    The guest's kernel sets the handlers (vectors 13 and 14 of its IDT); VM entry sets ``vmcs``
    (None outside VMX non-root operation).
    """

    def __init__(
        self,
        ram: Ram,
        processor: Processor | None = None,
        geometry: Geometry = UNIFIED,
        tap: Tap = silent,
        number: int = 0,
    ) -> None:
        super().__init__(ram, processor or Processor(), geometry, tap)
        self.number = number  # its APIC ID
        self.peers: Sequence[Cpu] = ()  # all logical CPUs of the machine
        self.cpl = 0
        self.page_fault_handler: Callable[[PageFault], None] | None = None
        self.protection_fault_handler: Callable[[GeneralProtection], None] | None = None
        self.interrupt_handler: Callable[[int], None] | None = None
        self.vmcs: Vmcs | None = None
        self.in_guest = False  # in VMX non-root operation at this moment
        self._native = Controls()

    @property
    def controls(self) -> Controls:
        """The control state in force: the VMCS guest state inside a VM, else the CPU's own."""
        return self._native if self.vmcs is None else self.vmcs.guest

    @property
    def registers(self) -> Controls:
        """The control registers as software on this CPU reads them.

        In a VM whose hypervisor owns bits of them those are the read shadows; the rest is read
        by exits (CR3-store exiting, RDMSR), which tell the same.
        """
        shadow = self.vmcs.read_shadow if self.vmcs else None
        return shadow or self.controls

    def refresh(self) -> None:
        """Take up a change of the control state: after a MOV to a register, or a VM entry."""
        if self.context.key != context_key(self.controls, self.vmcs):
            self.context = context(self.controls, self.vmcs, self.processor)

    def start(self, controls: Controls) -> None:
        """Begin without a hypervisor, in the state that firmware leaves."""
        self._native = controls
        self.refresh()

    def vmptrld(self, vmcs: Vmcs) -> Vmcs:
        """VMPTRLD: make ``vmcs`` current; returns what VMREAD and VMWRITE reach it through."""
        return vmcs

    def enter(self, vmcs: Vmcs) -> None:
        """VMLAUNCH: from now on the guest runs, under ``vmcs``.

        Raises `MachineCheck` for a VMCS that fails VM entry; the CPU then stays where it was.
        """
        before, self.vmcs = self.vmcs, vmcs
        try:
            self._load_pdptes(vmcs)
            self.refresh()
        except MachineCheck:
            self.vmcs = before
            raise
        self.in_guest = True

    def _load_pdptes(self, vmcs: Vmcs) -> None:
        """VM entry reads a PAE guest's PDPTEs at CR3; with EPT they are in the VMCS.

        SDM, "Loading Page-Directory-Pointer-Table Entries".
        """
        if vmcs.eptp is None and vmcs.ncr3 is None and vmcs.guest.mode == "PAE":
            table, load = vmcs.guest.cr3 & CR3_PAE, self.ram.load
            vmcs.guest.pdptes = load(table), load(table + 8), load(table + 16), load(table + 24)

    # -- one try ------------------------------------------------------------------------

    def attempt(self, gva: int, kind: Kind, *, implicit: bool = False) -> Outcome:
        """Translate one access: the host-physical address, or what stopped it.

        Emits what was done on the way.  Implicit accesses (descriptor tables) are supervisor
        accesses at any CPL.
        """
        width = self.context.width
        if width == 32:
            gva &= 0xFFFF_FFFF
        elif not is_canonical(gva, width):
            return GeneralProtection(gva, "the address is not canonical")
        access = Access(gva, kind, self.cpl == 3 and not implicit, implicit)
        found = self.cached(access, self.controls)
        if found is None:
            reached = self.translate(access, self.controls)
            return self._stopped(reached, access) if isinstance(reached, Stop) else reached
        return found

    def _stopped(self, stop: Stop, access: Access) -> PageFault | VmExit:
        """Who must answer a translation that did not arrive; what it left cached is dropped."""
        if stop.fault.table == "ept":
            if self.nested_tlb and self.context.ept:
                self.nested_tlb.forget(stop.fault.address, self.context.ept.root)
            return nested_exit(stop, access.gva, self.context, self.processor)
        self.forget(access.gva, "#PF")
        fault = page_fault(stop, access, self.controls)
        # Agile paging: a fault in the nested part is the guest's own.
        own = self.context.shadow is not None and stop.fault.table == "guest"
        if self.vmcs and not own and self.vmcs.page_fault_exits(fault.error_code):
            return VmExit(ExitReason.EXCEPTION, fault.error_code, access.gva, 0)
        return fault

    # -- serving what came of it --------------------------------------------------------

    def access(self, gva: int, kind: Kind, size: int = 1, data: bytes = b"") -> int | None:
        """The host-physical address of an access, after all its faults and exits.

        None: a hypervisor emulated the instruction, ``data`` included.  Raises `MachineCheck`
        if nobody can serve a fault.
        """
        for _ in range(_ATTEMPTS):
            outcome = self.attempt(gva, kind)
            if type(outcome) is int:
                return outcome
            if self.serve(outcome, Instruction(kind, gva, size, data)):
                return None
        raise MachineCheck(f"the access to {gva:#x} still faults after {_ATTEMPTS} attempts")

    def serve(self, outcome: Outcome, instruction: Instruction) -> bool:
        """Let the guest or its hypervisor answer what stopped an access.

        Returns whether a hypervisor emulated the instruction, so that it is not to be tried again.
        """
        if isinstance(outcome, VmExit):
            return self.exit(outcome, instruction)
        if isinstance(outcome, PageFault):
            self.deliver(outcome)
        elif isinstance(outcome, GeneralProtection):
            self.protection_fault(outcome)
        return False

    def deliver(self, fault: PageFault) -> None:
        """Run the guest's #PF handler at CPL 0, as its IDT says."""
        if self.page_fault_handler is None:
            raise MachineCheck(
                f"triple fault: #PF at {fault.gva:#x}, error code {fault.error_code:#x}, "
                "and no handler in the IDT"
            )
        self.controls.cr2 = fault.gva
        self.tap(fault)
        self._run(self.page_fault_handler, fault)

    def interrupt(self, vector: int) -> None:
        """Run the guest's handler of an external interrupt at CPL 0, as its IDT says."""
        if self.interrupt_handler is None:
            raise MachineCheck(f"interrupt {vector:#x} on CPU {self.number}: no handler in the IDT")
        self.tap(Interrupt(vector))
        self._run(self.interrupt_handler, vector)

    def _run(self, handler: Callable[[T], None], event: T) -> None:
        cpl, self.cpl = self.cpl, 0
        try:
            handler(event)
        finally:
            self.cpl = cpl

    def protection_fault(self, fault: GeneralProtection) -> None:
        """Deliver a #GP(0) to the guest's handler."""
        self.tap(fault)
        if self.protection_fault_handler is None:
            raise MachineCheck(f"#GP: {fault.why} ({fault.gva:#x}), and no handler in the IDT")
        self.protection_fault_handler(fault)

    def exit(self, reason: VmExit, instruction: Instruction | None = None) -> bool:
        """Leave the guest, run the hypervisor, enter again; whether it emulated the instruction."""
        vmcs = self.vmcs
        if vmcs is None:
            raise MachineCheck("a VM exit outside VMX non-root operation")
        vmcs.instruction, vmcs.advance, vmcs.injected = instruction, False, None
        self.tap(reason)
        self.in_guest = False
        if vmcs.vpid == 0:  # without VPID a transition leaves nothing of the guest cached
            self.drop("VM exit", lambda tag: tag.vpid == 0)
        try:
            vmcs.host_entry(reason)
        finally:
            self.in_guest = True
        self._load_pdptes(vmcs)
        self.refresh()
        self.tap(VmEntry(vmcs.injected))
        advance, injected = vmcs.advance, vmcs.injected
        vmcs.instruction = vmcs.injected = None
        if isinstance(injected, PageFault):
            self.deliver(injected)
        elif injected is not None:
            self.protection_fault(injected)
        if vmcs.interrupt is not None:
            vector, vmcs.interrupt = vmcs.interrupt, None
            self.interrupt(vector)
        return advance

    # -- whole accesses, with their data ------------------------------------------------

    def load(self, gva: int, size: int = 8) -> int:
        """``size`` bytes at ``gva`` as a little-endian number; the bytes lie within one page."""
        hpa = self.access(gva, Kind.READ, size)
        if hpa is None:
            assert self.vmcs is not None  # noqa: S101  only a hypervisor emulates
            return int.from_bytes(self.vmcs.loaded, "little")
        self.tap(Data(gva, hpa, Kind.READ, size))
        return int.from_bytes(self.ram.read(hpa, size), "little")

    def store(self, gva: int, value: int, size: int = 8) -> None:
        """Write a little-endian number of ``size`` bytes at ``gva``, within one page."""
        self.store_bytes(gva, value.to_bytes(size, "little"))

    def store_each(self, gva: int, words: NDArray[np.uint32] | NDArray[np.uint64]) -> None:
        """As many stores of one word, to neighbours within one page.

        Those that the TLB lets through cannot fault or exit: unless somebody listens, they are
        done together.
        """
        size = words.itemsize
        for number in range(len(words)):
            here = gva + number * size
            access = Access(here, Kind.WRITE, self.cpl == 3)
            hpa = self.cached(access, self.controls) if self.tap is silent else None
            if hpa is not None:
                self.ram.write(hpa, words[number:].tobytes())
                return
            self.store(here, int(words[number]), size)

    def store_bytes(self, gva: int, data: bytes) -> None:
        """Write ``data`` at ``gva``, within one page: one instruction (REP STOS for a page)."""
        hpa = self.access(gva, Kind.WRITE, len(data), data)
        if hpa is not None:
            self.tap(Data(gva, hpa, Kind.WRITE, len(data)))
            self.ram.write(hpa, data)
