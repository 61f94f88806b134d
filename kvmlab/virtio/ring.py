"""The split virtqueue: three areas of guest memory that driver and device share.

Virtual I/O Device (VIRTIO) 1.2, section 2.7.  All fields are little endian::

    descriptor table   size x { le64 address; le32 length; le16 flags; le16 next }
    avail ring         le16 flags; le16 idx; le16 ring[size]; le16 used_event
    used ring          le16 flags; le16 idx; { le32 id; le32 length } ring[size]; le16 avail_event

The driver writes the first two, the device the third; ``idx`` counts buffers modulo 2**16, and
its value modulo the size is a place in the ring.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kvmlab.base.errors import BadSize

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
AVAIL_NO_INTERRUPT, USED_NO_NOTIFY = 1, 1
RING_INDIRECT_DESC, RING_EVENT_IDX = 28, 29  # feature bits of the ring
MOST_ENTRIES = 1 << 15
DESCRIPTOR_BYTES, USED_BYTES = 16, 8
INDEX = 0xFFFF
_PAGE = 4096
_DESCRIPTOR = struct.Struct("<QIHH")


class Memory(Protocol):
    """How one side reaches guest memory, by guest-physical address."""

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes at ``gpa``."""

    def write(self, gpa: int, data: bytes) -> None:
        """Write ``data`` at ``gpa``."""


class Segment(NamedTuple):
    """One contiguous piece of a buffer in guest-physical memory."""

    gpa: int
    length: int


class Descriptor(NamedTuple):
    """One entry of a descriptor table."""

    gpa: int
    length: int
    flags: int
    next: int

    def pack(self) -> bytes:
        """Its 16 bytes in guest memory."""
        return _DESCRIPTOR.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> "Descriptor":
        """The descriptor in 16 bytes of guest memory."""
        return cls(*_DESCRIPTOR.unpack(data))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the three areas of a queue of ``size`` entries lie, as guest-physical addresses."""

    size: int
    descriptors: int
    avail: int
    used: int

    def __post_init__(self) -> None:
        if not 0 < self.size <= MOST_ENTRIES or self.size & self.size - 1:
            raise BadSize(f"a split queue has a power of two of entries up to 32768: {self.size}")

    @classmethod
    def contiguous(cls, size: int, base: int) -> "Layout":
        """As Linux lays a queue out: the used ring on a page of its own (vring_init)."""
        avail = base + DESCRIPTOR_BYTES * size
        end = avail + 2 * (3 + size)
        return cls(size, base, avail, -(-end // _PAGE) * _PAGE)

    @property
    def end(self) -> int:
        """The first address behind the used ring."""
        return self.used + 6 + USED_BYTES * self.size

    def descriptor(self, index: int) -> int:
        """The address of an entry of the descriptor table."""
        return self.descriptors + DESCRIPTOR_BYTES * index

    def avail_entry(self, index: int) -> int:
        """The address of ``ring[index mod size]`` of the avail ring."""
        return self.avail + 4 + 2 * (index % self.size)

    def used_entry(self, index: int) -> int:
        """The address of ``ring[index mod size]`` of the used ring."""
        return self.used + 4 + USED_BYTES * (index % self.size)

    @property
    def used_event(self) -> int:
        """Where the driver says at which used buffer it wants an interrupt."""
        return self.avail + 4 + 2 * self.size

    @property
    def avail_event(self) -> int:
        """Where the device says at which available buffer it wants a notification."""
        return self.used + 4 + USED_BYTES * self.size


def read16(memory: Memory, gpa: int) -> int:
    """A le16 of the rings."""
    return int.from_bytes(memory.read(gpa, 2), "little")


def write16(memory: Memory, gpa: int, value: int) -> None:
    """Write a le16 of the rings; it wraps at 2**16."""
    memory.write(gpa, (value & INDEX).to_bytes(2, "little"))


def need_event(event: int, new: int, old: int) -> bool:
    """Whether ``event`` lies in [old, new) modulo 2**16 (vring_need_event; section 2.7.7)."""
    return (new - event - 1) & INDEX < (new - old) & INDEX
