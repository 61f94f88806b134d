"""Devices behind addresses: guest-physical ones (MMIO) and ports.

QEMU's devices answer after an exit to user space (KVM API, KVM_EXIT_MMIO and KVM_EXIT_IO).  A
doorbell is rung inside KVM, which only signals (KVM_IOEVENTFD): virtio's notifications.
"""

from collections.abc import Callable
from typing import Protocol

from kvmlab.base.errors import Overlap
from kvmlab.base.tap import Tap
from kvmlab.kvm.records import Doorbell


class Device(Protocol):
    """What a device model offers, as QEMU's MemoryRegionOps."""

    def read(self, offset: int, size: int) -> int:
        """The value of ``size`` bytes at ``offset`` from the start of its range."""

    def write(self, offset: int, value: int, size: int) -> None:
        """Take a value of ``size`` bytes at ``offset``."""


class Bus:
    """Who answers at which addresses; ``space`` is what an address is called."""

    def __init__(self, space: str, tap: Tap) -> None:
        self._space, self._tap = space, tap
        self._devices: list[tuple[range, Device]] = []
        self._bells: dict[int, Callable[[int], None]] = {}

    def attach(self, start: int, size: int, device: Device) -> None:
        """Let ``device`` answer at ``[start, start + size)``; raises `Overlap`."""
        new = range(start, start + size)
        for old, _ in self._devices:
            if new.start < old.stop and old.start < new.stop:
                raise Overlap(
                    f"a device at {self._space} {start:#x} to {new.stop - 1:#x} overlaps the one "
                    f"at {old.start:#x} to {old.stop - 1:#x}"
                )
        self._devices.append((new, device))

    def doorbell(self, address: int, ring: Callable[[int], None]) -> None:
        """Call ``ring`` with what is written at ``address``; raises `Overlap`."""
        if address in self._bells:
            raise Overlap(f"there is a doorbell at {self._space} {address:#x} already")
        self._bells[address] = ring

    def ring(self, address: int, value: int) -> bool:
        """Signal a write to ``address``; whether there is a doorbell."""
        ring = self._bells.get(address)
        if ring is None:
            return False
        self._tap(Doorbell(self._space, address))
        ring(value)
        return True

    def load(self, address: int, size: int) -> bytes:
        """What the device at ``address`` answers; all ones where nobody does, as on a PC."""
        for where, device in self._devices:
            if address in where:
                value = device.read(address - where.start, size)
                return (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return b"\xff" * size

    def store(self, address: int, data: bytes) -> None:
        """Hand ``data`` to the device at ``address``; lost where there is none."""
        for where, device in self._devices:
            if address in where:
                device.write(address - where.start, int.from_bytes(data, "little"), len(data))
                return
