"""Flushes of a virtual CPU's TLB: asked for while an exit is served, done once before VM entry.

Linux, kvm_make_request(KVM_REQ_TLB_FLUSH) and vcpu_enter_guest().
"""

from kvmlab.base.tap import Tap
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.instructions import invvpid
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.records import TlbFlushed

_ONE_CONTEXT = 1  # a type of INVVPID


class Flushes:
    """The pending flush of one virtual CPU."""

    def __init__(self, cpu: Cpu, vmcs: Vmcs, tap: Tap) -> None:
        self._cpu, self._vmcs, self._tap = cpu, vmcs, tap
        self._why = ""

    def request(self, why: str) -> None:
        """Flush before the guest goes on; the first reason is remembered."""
        self._why = self._why or why

    def serve(self) -> None:
        """Do what was asked for: one flush, however often."""
        if self._why:
            invvpid(self._cpu, _ONE_CONTEXT, self._vmcs.vpid)
            self._tap(TlbFlushed(self._why))
            self._why = ""
