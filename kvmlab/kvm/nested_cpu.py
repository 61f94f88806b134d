"""What L1 takes for silicon: a CPU, its VMCS and its memory, each of which leads to L0."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.ram import ALL_ONES, PAGE_SHIFT, PAGE_SIZE, Ram
from kvmlab.hardware.records import ExitReason
from kvmlab.hardware.tlb import Tag
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.nested_vmx import NestedVcpu

_ZEROES = bytes(PAGE_SIZE)
_READ = ("instruction",)  # a hypervisor keeps copies of the controls that it wrote itself
_IN_MEMORY = ("host_entry", "loaded")  # no fields of a real VMCS: registers in L1's memory


class VirtualCpu(Cpu):
    """The CPU on which L1's KVM believes to run: its VMX instructions exit to L0."""

    def __init__(self, l0: NestedVcpu) -> None:
        super().__init__(l0.cpu.ram, l0.cpu.processor, tap=l0.cpu.tap)
        self._l0 = l0
        self._launched = False

    def vmptrld(self, vmcs: Vmcs) -> Vmcs:
        """L0 keeps the VMCS that L1 loads; L1 reaches it by VMREAD and VMWRITE."""
        self._l0.vmcs12 = vmcs
        self._l0.execute(ExitReason.VMPTRLD)
        return VmcsAccess(vmcs, self._l0)

    def enter(self, vmcs: Vmcs) -> None:  # noqa: ARG002  there is one, the one it loaded
        """VMLAUNCH, later VMRESUME: L0 runs L2."""
        self._l0.execute(ExitReason.VMRESUME if self._launched else ExitReason.VMLAUNCH)
        self._launched = True

    @property
    def in_guest(self) -> bool:
        """Whether L2 runs now, and L1 does not."""
        return self._l0.cpu.in_guest and self._l0.cpu.vmcs is self._l0.vmcs02

    @in_guest.setter
    def in_guest(self, _running: bool) -> None:
        """Nobody sets it: the real CPU knows."""

    def refresh(self) -> None:
        """What L1 changed in its VMCS is taken up by L0 at the next entry of L2."""

    def drop(self, why: str, tags: Callable[[Tag], object], gva: int | None = None) -> None:  # noqa: ARG002
        """INVEPT or INVVPID: L0 flushes what it cached for L2, all of it."""
        self._l0.execute(ExitReason[why])


class VmcsAccess(Vmcs):
    """vmcs12 as L1 reaches it: a VMREAD for what an exit left, a VMWRITE for what changes."""

    def __init__(self, vmcs: Vmcs, l0: NestedVcpu) -> None:
        object.__setattr__(self, "_fields", vmcs)
        object.__setattr__(self, "_l0", l0)

    def __getattribute__(self, name: str) -> object:
        """A field's value."""
        inner = object.__getattribute__(self, "_fields")
        l0 = object.__getattribute__(self, "_l0")
        if name == "guest":
            return ControlsAccess(inner.guest, l0)
        if name in _READ:
            l0.access_vmcs(ExitReason.VMREAD)
        return getattr(inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Change a field."""
        inner = object.__getattribute__(self, "_fields")
        if name not in _IN_MEMORY and getattr(inner, name) != value:
            object.__getattribute__(self, "_l0").access_vmcs(ExitReason.VMWRITE)
        setattr(inner, name, value)


class ControlsAccess(Controls):
    """The guest-state area: control registers of L2."""

    def __init__(self, controls: Controls, l0: NestedVcpu) -> None:
        object.__setattr__(self, "_fields", controls)
        object.__setattr__(self, "_l0", l0)

    def __getattribute__(self, name: str) -> object:
        """A register's value."""
        object.__getattribute__(self, "_l0").access_vmcs(ExitReason.VMREAD)
        return getattr(object.__getattribute__(self, "_fields"), name)

    def __setattr__(self, name: str, value: object) -> None:
        """Change a register."""
        inner = object.__getattribute__(self, "_fields")
        if getattr(inner, name) != value:
            object.__getattribute__(self, "_l0").access_vmcs(ExitReason.VMWRITE)
        setattr(inner, name, value)


class GuestRam(Ram):
    """L1's physical memory as its kernel reaches it: by loads and stores in its direct map.

    L1's boot tables map GVA = GPA, so an access here is an access of L0's CPU while L1 runs,
    with its walk, its EPT violations and its traps.
    """

    def __init__(self, l0: NestedVcpu, size: int) -> None:
        self.size = size
        self._l0 = l0
        self.quiet = False  # look only: read through L0, which nobody notices

    def load(self, hpa: int) -> int:
        """The 8-byte word at an L1 guest-physical address."""
        if hpa >= self.size:
            return ALL_ONES
        if self.quiet:
            backing = self._l0.vm.look(hpa)
            return self._l0.vm.ram.load(backing.host.address) if backing else 0
        with self._l0.l1():
            return self._l0.cpu.load(hpa)

    def store(self, hpa: int, value: int) -> None:
        """Write the 8-byte word at an L1 guest-physical address."""
        if hpa < self.size:
            with self._l0.l1():
                self._l0.cpu.store(hpa, value)

    def read(self, hpa: int, size: int) -> bytes:
        """``size`` bytes, which may span frames."""
        found = b""
        while size:
            count = min(size, PAGE_SIZE - hpa % PAGE_SIZE)
            with self._l0.l1():
                found += self._l0.cpu.load(hpa, count).to_bytes(count, "little")
            hpa, size = hpa + count, size - count
        return found

    def write(self, hpa: int, data: bytes) -> None:
        """Write ``data``, which may span frames."""
        while data:
            count = PAGE_SIZE - hpa % PAGE_SIZE
            with self._l0.l1():
                self._l0.cpu.store_bytes(hpa, data[:count])
            hpa, data = hpa + count, data[count:]

    def words_at(self, hpa: int, count: int) -> NDArray[np.int64]:
        """A copy of ``count`` words of one frame."""
        return np.frombuffer(self.read(hpa, 8 * count), dtype=np.int64)

    def store_words(self, hpa: int, words: NDArray[np.int64]) -> None:
        """Write ``words``, one store for each that changes: L1's kernel goes entry by entry."""
        changed = np.flatnonzero(self.words_at(hpa, len(words)) != words)
        for index in changed.tolist():
            self.store(hpa + 8 * index, int(words[index]) & ALL_ONES)

    def clear_words(self, hpa: int, count: int) -> None:
        """Set ``count`` words of one frame to zero."""
        self.write(hpa, bytes(8 * count))

    def discard_run(self, first: int, count: int) -> None:
        """Clear neighbouring frames."""
        for pfn in range(first, first + count):
            self.discard(pfn)

    def discard(self, pfn: int) -> None:
        """Clear a frame, as L1's kernel does."""
        self.write(pfn << PAGE_SHIFT, _ZEROES)
