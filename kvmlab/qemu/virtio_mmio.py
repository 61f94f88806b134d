"""The virtio-mmio transport: registers in front of a device, and its queues.

VIRTIO 1.2, section 4.2; QEMU, hw/virtio/virtio-mmio.c.  A driver's error makes the device stop
and set DEVICE_NEEDS_RESET (QEMU's virtio_error()); it never stops the VMM.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from kvmlab.base.errors import BadAddress, BadSize, RingError
from kvmlab.base.tap import Tap
from kvmlab.qemu.guest_memory import GuestMemory
from kvmlab.qemu.records import DeviceBroken
from kvmlab.virtio.device_queue import Chain, DeviceQueue
from kvmlab.virtio.device_status import DRIVER_OK, VERSION_1, Negotiation
from kvmlab.virtio.mmio import (
    CONFIG,
    INTERRUPT_CONFIG,
    INTERRUPT_QUEUE,
    MAGIC,
    VERSION,
    Register,
)
from kvmlab.virtio.ring import RING_EVENT_IDX, RING_INDIRECT_DESC, Layout

_VENDOR = 0x554D4551  # "QEMU"
_TRANSPORT_FEATURES = frozenset({RING_INDIRECT_DESC, RING_EVENT_IDX, VERSION_1})
_AREAS = MappingProxyType(
    {
        Register.QUEUE_DESC_LOW: (0, 0),
        Register.QUEUE_DESC_HIGH: (0, 32),
        Register.QUEUE_DRIVER_LOW: (1, 0),
        Register.QUEUE_DRIVER_HIGH: (1, 32),
        Register.QUEUE_DEVICE_LOW: (2, 0),
        Register.QUEUE_DEVICE_HIGH: (2, 32),
    }
)


class Device(Protocol):
    """What stands behind the registers."""

    device_id: int

    @property
    def features(self) -> frozenset[int]:
        """The feature bits that it offers."""

    @property
    def queue_sizes(self) -> Mapping[str, int]:
        """Its queues by name, in the order of their numbers, with their most entries."""

    def config(self) -> bytes:
        """Its configuration space."""

    def configure(self, offset: int, data: bytes) -> None:
        """The driver wrote to its configuration space."""

    def serve(self, name: str, queue: DeviceQueue) -> None:
        """The driver notified a queue."""

    def reset(self) -> None:
        """The driver began anew."""


@dataclass(slots=True)
class _Queue:
    """What the driver said of one queue."""

    name: str
    most: int
    size: int = 0
    areas: Sequence[int] = (0, 0, 0)  # descriptor table, avail ring, used ring
    ring: DeviceQueue | None = None


class VirtioMmio:
    """The registers of one device; ``interrupt`` is called when its line goes up."""

    def __init__(self, device: Device, memory: GuestMemory, tap: Tap) -> None:
        self._device, self._memory, self._tap = device, memory, tap
        self.negotiation = Negotiation(
            device.features | _TRANSPORT_FEATURES, frozenset({VERSION_1})
        )
        self.interrupt: Callable[[], None] | None = None
        self._actions: Mapping[int, Callable[[int], None]] = {
            Register.DRIVER_FEATURES: self._take_features,
            Register.QUEUE_NUM: self._resize,
            Register.QUEUE_READY: self._ready,
            Register.QUEUE_NOTIFY: self._notified,
            Register.INTERRUPT_ACK: self._acknowledge,
            Register.STATUS: self._set_status,
        }
        self._reset()

    def _reset(self) -> None:
        self.negotiation.reset()
        sizes = self._device.queue_sizes
        self._queues = [_Queue(name, most) for name, most in sizes.items()]
        selectors = (Register.DEVICE_FEATURES_SEL, Register.DRIVER_FEATURES_SEL, Register.QUEUE_SEL)
        self._selectors: dict[int, int] = dict.fromkeys(selectors, 0)
        self._interrupts = self._generation = 0

    # -- the driver's accesses ----------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """A load from the window; registers answer to aligned 32-bit loads only."""
        if offset >= CONFIG:
            return int.from_bytes(self._device.config()[offset - CONFIG :][:size], "little")
        return self._register(offset) if size == 4 and offset % 4 == 0 else 0

    def write(self, offset: int, value: int, size: int) -> None:
        """A store to the window; registers take aligned 32-bit stores only."""
        if offset >= CONFIG:
            self._device.configure(offset - CONFIG, value.to_bytes(size, "little"))
        elif size == 4 and offset % 4 == 0:
            self._set_register(offset, value)

    def _register(self, offset: int) -> int:
        queue = self._queue()
        values = {
            Register.MAGIC_VALUE: MAGIC,
            Register.VERSION: VERSION,
            Register.DEVICE_ID: self._device.device_id,
            Register.VENDOR_ID: _VENDOR,
            Register.DEVICE_FEATURES: self._offered(),
            Register.QUEUE_NUM_MAX: queue.most if queue else 0,
            Register.QUEUE_READY: int(queue is not None and queue.ring is not None),
            Register.INTERRUPT_STATUS: self._interrupts,
            Register.STATUS: self.negotiation.status,
            Register.CONFIG_GENERATION: self._generation,
        }
        return values.get(Register(offset), 0) if offset in set(Register) else 0

    def _offered(self) -> int:
        word = sum(1 << bit for bit in self.negotiation.offered)
        return word >> 32 * min(self._selectors[Register.DEVICE_FEATURES_SEL], 2) & 0xFFFF_FFFF

    def _set_register(self, offset: int, value: int) -> None:
        if offset in _AREAS:
            self._place(offset, value)
        elif offset in self._selectors:
            self._selectors[offset] = value
        elif action := self._actions.get(offset):
            action(value)

    def _take_features(self, word: int) -> None:
        if (half := self._selectors[Register.DRIVER_FEATURES_SEL]) < 2:
            self.negotiation.take(32 * half, word)

    def _acknowledge(self, causes: int) -> None:
        self._interrupts &= ~causes

    def _set_status(self, value: int) -> None:
        if value:
            self.negotiation.advance(value)
        else:
            self._device.reset()
            self._reset()

    # -- queues -------------------------------------------------------------------------

    def _queue(self) -> _Queue | None:
        selected = self._selectors[Register.QUEUE_SEL]
        return self._queues[selected] if selected < len(self._queues) else None

    def _resize(self, size: int) -> None:
        if (queue := self._queue()) and queue.ring is None:
            queue.size = size

    def _place(self, offset: int, value: int) -> None:
        queue = self._queue()
        if queue is None or queue.ring is not None:
            return
        area, shift = _AREAS[Register(offset)]
        areas = list(queue.areas)
        areas[area] = areas[area] & ~(0xFFFF_FFFF << shift) | value << shift
        queue.areas = areas

    def _ready(self, value: int) -> None:
        queue = self._queue()
        if queue is None:
            return
        if not value & 1:
            queue.ring = None
            return
        with self._guarded():
            if queue.size > queue.most:
                raise RingError(f"a queue of {queue.size} entries where {queue.most} are the most")
            queue.ring = DeviceQueue(
                self._memory,
                Layout(queue.size, *queue.areas),
                self._memory.reaches,
                event_idx=self.negotiation.has(RING_EVENT_IDX),
                indirect=self.negotiation.has(RING_INDIRECT_DESC),
            )

    def _notified(self, number: int) -> None:
        if number >= len(self._queues) or not self.negotiation.live:
            return
        queue = self._queues[number]
        if queue.ring is not None:
            with self._guarded():
                self._device.serve(queue.name, queue.ring)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What a driver did wrong stops its device, and nothing else."""
        try:
            yield
        except (RingError, BadAddress, BadSize) as error:
            self.negotiation.broken()
            self._tap(DeviceBroken(str(error)))
            self.config_changed()

    # -- what the device does -----------------------------------------------------------

    def give_back(self, name: str, chain: Chain, written: int = 0) -> None:
        """Put a buffer on the used ring of a queue, and interrupt if the driver wants that."""
        ring = next((one.ring for one in self._queues if one.name == name), None)
        if ring is None or not self.negotiation.live:
            return
        with self._guarded():
            ring.push(chain, written)
            if ring.wants_interrupt():
                self._raise(INTERRUPT_QUEUE)

    def config_changed(self) -> None:
        """The configuration space changed; a driver that is there gets an interrupt."""
        self._generation = self._generation + 1 & 0xFFFF_FFFF
        if self.negotiation.status & DRIVER_OK:
            self._raise(INTERRUPT_CONFIG)

    def _raise(self, cause: int) -> None:
        high = bool(self._interrupts)
        self._interrupts |= cause
        if self.interrupt and not high:
            self.interrupt()
