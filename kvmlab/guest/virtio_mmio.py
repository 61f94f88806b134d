"""The guest's end of virtio-mmio: it finds a device, agrees on features and sets up queues.

Linux, drivers/virtio/virtio_mmio.c and virtio.c; VIRTIO 1.2, sections 3.1.1 and 4.2.3.
"""

from collections.abc import Iterable

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadChoice, OutOfMemory
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.physical import Physical
from kvmlab.virtio.device_status import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    VERSION_1,
    bits,
    mask,
)
from kvmlab.virtio.driver_queue import DriverQueue
from kvmlab.virtio.mmio import CONFIG, MAGIC, VERSION, WINDOW, Register
from kvmlab.virtio.ring import RING_EVENT_IDX, Layout


class VirtioMmioDriver:
    """The registers of the device at ``gpa``; raises `BadChoice` if it is not ``device_id``."""

    def __init__(self, kernel: Kernel, gpa: int, device_id: int) -> None:
        self._kernel, self.memory = kernel, Physical(kernel)
        self._registers = kernel.ioremap(gpa, WINDOW)
        found = [self._read(one) for one in (Register.MAGIC_VALUE, Register.VERSION)]
        if found != [MAGIC, VERSION] or self._read(Register.DEVICE_ID) != device_id:
            raise BadChoice(f"there is no virtio-mmio device {device_id} at GPA {gpa:#x}")
        self.features: frozenset[int] = frozenset()
        self._blocks: list[tuple[int, int]] = []  # what the rings lie in: (gpa, order)

    def offered(self) -> frozenset[int]:
        """Reset the device, greet it, and read what it offers."""
        self.reset()
        self._add_status(ACKNOWLEDGE)
        self._add_status(DRIVER)
        word = 0
        for half in (0, 1):
            self._write(Register.DEVICE_FEATURES_SEL, half)
            word |= self._read(Register.DEVICE_FEATURES) << 32 * half
        return bits(word)

    def accept(self, features: Iterable[int]) -> frozenset[int]:
        """Take these features and VERSION_1; returns what is in force.  Raises `BadChoice`."""
        self.features = frozenset(features) | {VERSION_1}
        for half in (0, 1):
            self._write(Register.DRIVER_FEATURES_SEL, half)
            self._write(Register.DRIVER_FEATURES, mask(self.features) >> 32 * half & 0xFFFF_FFFF)
        self._add_status(FEATURES_OK)
        if not self._read(Register.STATUS) & FEATURES_OK:
            self._add_status(FAILED)
            raise BadChoice(f"the device refuses the features {sorted(self.features)}")
        return self.features

    def queue(self, number: int) -> DriverQueue:
        """Set up a queue as large as the device allows."""
        self._write(Register.QUEUE_SEL, number)
        layout = Layout.contiguous(size := self._read(Register.QUEUE_NUM_MAX), 0)
        base = self._alloc(layout.end)
        layout = Layout.contiguous(size, base)
        self._write(Register.QUEUE_NUM, size)
        for register, area in (
            (Register.QUEUE_DESC_LOW, layout.descriptors),
            (Register.QUEUE_DRIVER_LOW, layout.avail),
            (Register.QUEUE_DEVICE_LOW, layout.used),
        ):
            self._write(register, area & 0xFFFF_FFFF)
            self._write(register + 4, area >> 32)
        self._write(Register.QUEUE_READY, 1)
        return DriverQueue(self.memory, layout, event_idx=RING_EVENT_IDX in self.features)

    def buffer(self, length: int) -> int:
        """The GPA of zeroed memory of the driver's own, for what it sends."""
        return self._alloc(length)

    def go(self) -> None:
        """DRIVER_OK: from now on the device serves the queues."""
        self._add_status(DRIVER_OK)

    def notify(self, number: int, queue: DriverQueue) -> None:
        """Ring the bell of a queue if the device listens; the store exits."""
        if queue.wants_kick():
            self._write(Register.QUEUE_NOTIFY, number)

    def interrupts(self) -> int:
        """Why the line is up; acknowledges all of it."""
        causes = self._read(Register.INTERRUPT_STATUS)
        if causes:
            self._write(Register.INTERRUPT_ACK, causes)
        return causes

    def config(self, offset: int) -> int:
        """A 32-bit field of the device's configuration space."""
        return self._read(CONFIG + offset)

    def set_config(self, offset: int, value: int) -> None:
        """Write such a field."""
        self._write(CONFIG + offset, value)

    def reset(self) -> None:
        """Back to the state of power-on."""
        self._write(Register.STATUS, 0)

    def release(self) -> None:
        """Reset the device and free what the rings lay in."""
        self.reset()
        while self._blocks:
            gpa, order = self._blocks.pop()
            self._kernel.frames.release(gpa, order)

    def _alloc(self, length: int) -> int:
        order = (-(-length // PAGE_SIZE) - 1).bit_length()
        try:
            gpa = self._kernel.frames.alloc(order)  # GFP_KERNEL: reclaim makes room for it
        except OutOfMemory as error:
            size = PAGE_SIZE << order
            raise OutOfMemory(f"no {size:#x} bytes are left for a virtio ring") from error
        self._blocks.append((gpa, order))
        return gpa

    def _add_status(self, bit: int) -> None:
        self._write(Register.STATUS, self._read(Register.STATUS) | bit)

    def _read(self, offset: int) -> int:
        return self._kernel.cpu.load(self._registers + offset, 4)

    def _write(self, offset: int, value: int) -> None:
        self._kernel.cpu.store(self._registers + offset, value, 4)
