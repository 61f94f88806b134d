"""The page-modification log of one virtual CPU: switched on with the first log, drained at exits.

Linux, arch/x86/kvm/vmx/vmx.c: vmx_flush_pml_buffer(), vmx_update_cpu_dirty_logging().
"""

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ept import PageModificationLog
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.kvm.records import PmlDrained
from kvmlab.kvm.vm import Vm

_LAST = 511  # the processor fills the page from its end


class Pml:
    """A page of 512 guest-physical addresses that the processor writes, and KVM reads."""

    def __init__(self, vm: Vm, vmcs: Vmcs, cpu: Cpu) -> None:
        self._vm, self._vmcs, self._cpu = vm, vmcs, cpu

    def switch(self) -> None:
        """On while any slot has a log."""
        logged = any(one.flags & LOG_DIRTY_PAGES for one in self._vm.slots)
        if logged and self._vmcs.pml is None:
            self._vmcs.pml = PageModificationLog(self._vm.host.alloc_table())
            self._cpu.refresh()
        elif not logged:
            self.end()

    def end(self) -> None:
        """Off, as also when the VM is no more: the page is the host's again."""
        if self._vmcs.pml:
            self._vm.host.free_table(self._vmcs.pml.address)
            self._vmcs.pml = None
            self._cpu.refresh()

    def drain(self) -> None:
        """Mark what was logged, and empty the log."""
        pml = self._vmcs.pml
        if pml is None or pml.index == _LAST:
            return
        logged = [self._vm.ram.load(pml.address + 8 * n) for n in range(_LAST, pml.index, -1)]
        pml.index = _LAST
        for gpa in logged:
            self._vm.mark_dirty(gpa)
        self._vm.tap(PmlDrained(len(logged)))
