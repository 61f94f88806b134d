"""Flushes of TLBs: asked of one virtual CPU or of all, done once before each enters its guest.

Linux, virt/kvm/kvm_main.c: kvm_flush_remote_tlbs(), kvm_make_all_cpus_request(); arch/x86/kvm/
x86.c: KVM_REQ_TLB_FLUSH in vcpu_enter_guest().
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvmlab.base.tap import Tap
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.instructions import invept, invvpid
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.records import RemoteFlush, TlbFlushed

if TYPE_CHECKING:
    from kvmlab.kvm.vcpu import Vcpu

_ONE_CONTEXT = 1  # a type of INVVPID
_ALL_ROOTS = 2  # a type of INVEPT


class Flushes:
    """The pending flush of one virtual CPU."""

    def __init__(self, cpu: Cpu, vmcs: Vmcs, tap: Tap) -> None:
        self._cpu, self._vmcs, self._tap = cpu, vmcs, tap
        self._why = ""

    @property
    def pending(self) -> bool:
        """Whether the guest must not go on before `serve`."""
        return bool(self._why)

    def request(self, why: str) -> None:
        """Flush before the guest goes on; the first reason is remembered."""
        self._why = self._why or why

    def serve(self) -> None:
        """Do what was asked for: one flush, however often (vmx_flush_tlb_all)."""
        if not self._why:
            return
        if self._vmcs.eptp is None and self._vmcs.ncr3 is None:
            invvpid(self._cpu, _ONE_CONTEXT, self._vmcs.vpid)
        else:
            invept(self._cpu, _ALL_ROOTS)
        self._tap(TlbFlushed(self._why))
        self._why = ""


class RemoteFlushes:
    """What one virtual CPU changed in the tables of its VM, none may go on using."""

    def __init__(self, vcpus: Sequence["Vcpu"], tap: Tap) -> None:
        self._vcpus, self._tap = vcpus, tap
        self._together: list[str] | None = None  # reasons gathered for one flush

    def request(self, why: str) -> None:
        """Ask a flush of every virtual CPU; those in the guest are kicked out of it.

        One that was kicked before stays out until the change is done, as KVM's does that waits
        for mmu_lock; it needs no second kick.
        """
        if self._together is not None:
            self._together.append(why)
            return
        kicked = sum(one.in_guest and not one.flushes.pending for one in self._vcpus)
        for one in self._vcpus:
            one.flushes.request(why)
        self._tap(RemoteFlush(why, kicked))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is asked for meanwhile is one flush at the end (kvm_mmu_commit_zap_page)."""
        outer, self._together = self._together, []
        try:
            yield
        finally:
            asked, self._together = self._together, outer
            if asked:
                self.request(asked[0])
