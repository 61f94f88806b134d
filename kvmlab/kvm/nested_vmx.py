"""Nested VMX, L0's side: one virtual CPU whose guest, L1, is a hypervisor itself.

The hardware knows one level of guests.  Every exit of L2 comes to L0 first; L0 serves it or
hands it to L1, whose VMX instructions exit to L0 in turn, so that one exit of L2 becomes many.
There are three control structures: vmcs01 runs L1, vmcs12 is L1's own, and vmcs02 is what L0
makes of both to run L2.  Linux, arch/x86/kvm/vmx/nested.c; Ben-Yehuda et al., OSDI 2010.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import ExitReason, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.mmu import Mmu
from kvmlab.kvm.nested_ept import MergedEpt
from kvmlab.kvm.records import ExitToL1, FaultHandled
from kvmlab.kvm.tracked_ept import TrackedEpt
from kvmlab.kvm.vcpu import Vcpu

_VPID02 = 0x100  # added to that of L1
_QUAL_WRITE = 1 << 1
_OF_EPT = (ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIG, ExitReason.PML_FULL)
_FLUSHES = (ExitReason.INVEPT, ExitReason.INVVPID)
_LAUNCHES = (ExitReason.VMLAUNCH, ExitReason.VMRESUME)
_SILENT = (ExitReason.VMREAD, ExitReason.VMWRITE, ExitReason.VMPTRLD)  # done by `VmcsAccess`
_ONCE = ("instruction", "advance", "loaded", "injected")  # of one exit, no controls
_OWN = ("host_entry", "vpid", "eptp", "ncr3", "pml", *_ONCE)  # L0 has its own
_CONTROLS = tuple(one.name for one in fields(Vmcs) if one.name not in _OWN)


class NestedVcpu(Vcpu):
    """A virtual CPU of L0 that offers VMX to its guest.

    With ``vmcs_shadowing`` L1's VMREAD and VMWRITE do not exit (SDM, "VMCS Shadowing").
    """

    def __init__(
        self,
        cpu: Cpu,
        boot: Controls,
        make_mmu: Callable[[Vcpu], Mmu],
        *,
        vmcs_shadowing: bool = True,
    ) -> None:
        self.vmcs_shadowing = vmcs_shadowing
        self.vmcs12: Vmcs | None = None
        self.vmcs02 = Vmcs(host_entry=self.handle_l2, vpid=cpu.number + _VPID02)
        super().__init__(cpu, boot, make_mmu)
        self.merged: MergedEpt | None = None
        if isinstance(self.mmu, TrackedEpt):
            self.merged = MergedEpt(self.vm, cpu, self.mmu.tables, self.vmcs02)
        self.vm.on_end.append(self._end)

    def _end(self) -> None:
        """The VMM is gone: vmcs02 too leads to no table any more."""
        if self.merged:
            self.merged.end()
        if self.vmcs12:
            self._prepare_02()
            self.cpu.refresh()
        self.flushes.serve()

    # -- L1 runs ------------------------------------------------------------------------

    @contextmanager
    def l1(self) -> Iterator[None]:
        """Meanwhile L1 runs on the CPU, in its kernel; then L2 goes on if it ran before."""
        cpu = self.cpu
        if cpu.vmcs is self.vmcs:
            yield
            return
        kept = cpu.cpl, cpu.page_fault_handler, cpu.protection_fault_handler, cpu.in_guest
        cpu.cpl, cpu.page_fault_handler, cpu.protection_fault_handler = 0, None, None
        cpu.enter(self.vmcs)
        try:
            yield
        finally:
            if cpu.vmcs is not self.vmcs02:
                self._enter_l2()
            cpu.cpl, cpu.page_fault_handler, cpu.protection_fault_handler, cpu.in_guest = kept

    def execute(self, reason: ExitReason) -> None:
        """An instruction of L1 that exits unconditionally in a guest."""
        with self.l1():
            self.cpu.exit(VmExit(reason, 0, 0, 0))

    def access_vmcs(self, reason: ExitReason) -> None:
        """A VMREAD or VMWRITE of L1: an exit, unless VMCS shadowing spares it."""
        if not self.vmcs_shadowing:
            self.execute(reason)

    def enter_anew(self) -> None:
        """The host did something between two exits; whoever ran goes on."""
        self.cpu.in_guest = False
        self.prepare_entry()
        if self.cpu.vmcs is self.vmcs02:
            self._enter_l2()
        else:
            self.cpu.enter(self.vmcs)

    def _serve(self, reason: VmExit) -> None:
        """An exit of L1."""
        if reason.reason in _LAUNCHES:
            self._enter_l2()
        elif reason.reason in _FLUSHES:
            self.vm.flushes.request(reason.reason.name)
        elif self._writes_table(reason):
            assert self.merged is not None  # noqa: S101  `_writes_table` looked
            self.merged.emulate(self.vmcs, reason.gpa)
            self.vm.tap(FaultHandled("emulate"))
        elif reason.reason not in _SILENT:
            super()._serve(reason)

    def _writes_table(self, reason: VmExit) -> bool:
        """Whether L1 wrote a table of EPT12 that is merged into EPT02."""
        return (
            self.merged is not None
            and reason.reason is ExitReason.EPT_VIOLATION
            and bool(reason.qualification & _QUAL_WRITE)
            and self.merged.pages.tracked(reason.gpa >> PAGE_SHIFT)
            and self.vm.slots.writable(reason.gpa)
        )

    # -- L2 runs ------------------------------------------------------------------------

    def handle_l2(self, reason: VmExit) -> None:
        """Serve an exit of L2, or let L1 serve it (nested_vmx_l0_wants_exit)."""
        self.vm.loaded = self
        for_l1 = self._own(reason) if reason.reason in _OF_EPT else reason
        if reason.reason is ExitReason.EXTERNAL_INTERRUPT:  # the host's own
            for_l1 = None
        if for_l1 is not None:
            self._to_l1(for_l1)
        self.vm.loaded = self
        self._prepare_02()
        self.prepare_entry()

    def _own(self, reason: VmExit) -> VmExit | None:
        """An exit of EPT: L0's, unless EPT12 calls for it; returns what L1 must see."""
        assert self.vmcs12 is not None  # noqa: S101  while L2 runs
        if self.vmcs12.eptp is None or self.merged is None:
            self.mmu.handle(reason)  # L1 shadows: the address is one of L1's
            return None
        return self.merged.violation(reason)

    def _to_l1(self, reason: VmExit) -> None:
        """Make it an exit to L1, which reads why, serves it, and resumes (nested_vmx_vmexit)."""
        vmcs12, vmcs02 = self.vmcs12, self.vmcs02
        assert vmcs12 is not None  # noqa: S101  while L2 runs
        self.vm.tap(ExitToL1(reason.reason.name))
        vmcs12.instruction, vmcs12.advance, vmcs12.injected = vmcs02.instruction, False, None
        with self.l1():
            for _field in fields(VmExit):
                self.access_vmcs(ExitReason.VMREAD)
            vmcs12.host_entry(reason)
            self.execute(ExitReason.VMRESUME)
        vmcs02.advance, vmcs02.loaded = vmcs12.advance, vmcs12.loaded
        vmcs02.injected = vmcs12.injected

    def _enter_l2(self) -> None:
        self._prepare_02()
        self.cpu.enter(self.vmcs02)

    def _prepare_02(self) -> None:
        """vmcs02: L2's state, L1's controls, and tables that lead to the host (prepare_vmcs02).

        L0 asks for no exit of L2 that L1, another KVM, has not asked for.
        """
        vmcs12 = self.vmcs12
        assert vmcs12 is not None  # noqa: S101  what is launched was loaded before
        for name in _CONTROLS:
            setattr(self.vmcs02, name, getattr(vmcs12, name))
        if vmcs12.eptp is None or self.merged is None:
            self.vmcs02.eptp, self.vmcs02.pml = self.vmcs.eptp, self.vmcs.pml
        else:
            self.vmcs02.eptp, self.vmcs02.pml = self.merged.eptp(vmcs12.eptp), None
