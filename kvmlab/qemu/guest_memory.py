"""Guest memory as QEMU's devices reach it: by GPA, through QEMU's own address space.

An access faults pages into the host as any access of QEMU's would (QEMU, softmmu/physmem.c).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadAddress
from kvmlab.hardware.records import WRITE
from kvmlab.kvm.memslots import Memslot
from kvmlab.kvm.vm import Vm


class GuestMemory:
    """RAM and ROM of one VM; what a guest says about addresses is checked here."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def slot(self, gpa: int) -> Memslot | None:
        """The memory that ``gpa`` is in; None in a hole."""
        return self._vm.slots.find(gpa)

    def hvas(self, gpas: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each page is in QEMU's own memory; -1 for what is not RAM."""
        found = np.full_like(gpas, -1)
        for slot in self._vm.slots:
            if slot.rights & WRITE:
                inside = (gpas >= slot.gpa) & (gpas < slot.gpa + slot.size)
                found[inside] = gpas[inside] + (slot.hva - slot.gpa)
        return found

    def reaches(self, gpa: int, size: int) -> bool:
        """Whether all of a range is memory."""
        end = gpa + size
        while gpa < end:
            slot = self.slot(gpa)
            if slot is None:
                return False
            gpa = slot.gpa + slot.size
        return True

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes; raises `BadAddress` where there is no memory."""
        parts = self._parts(gpa, size)
        return b"".join(self._vm.ram.read(self._hpa(at), count) for at, count in parts)

    def write(self, gpa: int, data: bytes) -> None:
        """Write ``data``; a store to ROM is lost.  Raises `BadAddress` where there is no memory."""
        done = 0
        for at, count in self._parts(gpa, len(data)):
            slot = self.slot(at)
            if slot is None or slot.rights & WRITE:
                self._vm.ram.write(self._hpa(at), data[done : done + count])
            done += count

    def _hpa(self, gpa: int) -> int:
        slot = self.slot(gpa)
        if slot is None:
            raise BadAddress(f"there is no guest memory at GPA {gpa:#x}")
        return self._vm.vmm.fault_in(slot.hva_of(gpa)).address

    def _parts(self, gpa: int, size: int) -> Iterator[tuple[int, int]]:
        """The range cut at page boundaries, as (address, bytes)."""
        end = gpa + size
        while gpa < end:
            count = min(end - gpa, PAGE_SIZE - gpa % PAGE_SIZE)
            yield gpa, count
            gpa += count
