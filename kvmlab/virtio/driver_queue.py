"""The driver's side of a split virtqueue.  VIRTIO 1.2, sections 2.7.13 and 2.7.14."""

from collections.abc import Sequence

from kvmlab.base.errors import BadSize, OutOfMemory, RingError
from kvmlab.virtio.ring import (
    AVAIL_NO_INTERRUPT,
    DESC_NEXT,
    DESC_WRITE,
    INDEX,
    USED_NO_NOTIFY,
    Descriptor,
    Layout,
    Memory,
    Segment,
    need_event,
    read16,
    write16,
)


class DriverQueue:
    """Offers buffers and collects used ones, in memory that the driver cleared."""

    def __init__(self, memory: Memory, layout: Layout, *, event_idx: bool) -> None:
        self._memory, self.layout, self._event_idx = memory, layout, event_idx
        self._free = list(range(layout.size - 1, -1, -1))  # used from its end
        self._chains: dict[int, list[int]] = {}  # head -> the descriptors of a buffer in flight
        self._avail = self._seen = self._kicked = 0

    def offer(self, out: Sequence[Segment], into: Sequence[Segment] = ()) -> int:
        """Make a buffer available: parts the device reads, then parts it writes.

        Returns the head, by which `collect` will name the buffer.  Raises `OutOfMemory` if the
        ring has too few free descriptors, `BadSize` for a buffer without parts.
        """
        segments = [(one, 0) for one in out] + [(one, DESC_WRITE) for one in into]
        if not segments:
            raise BadSize("a buffer has at least one part")
        if len(segments) > len(self._free):
            raise OutOfMemory(
                f"{len(segments)} descriptors are needed, {len(self._free)} of the ring are free"
            )
        chain = [self._free.pop() for _ in segments]
        for index, following, (segment, write) in zip(
            chain, [*chain[1:], None], segments, strict=True
        ):
            flags = write | (DESC_NEXT if following is not None else 0)
            entry = Descriptor(segment.gpa, segment.length, flags, following or 0)
            self._memory.write(self.layout.descriptor(index), entry.pack())
        self._chains[chain[0]] = chain
        write16(self._memory, self.layout.avail_entry(self._avail), chain[0])
        self._avail = self._avail + 1 & INDEX
        write16(self._memory, self.layout.avail + 2, self._avail)  # only now does the device see it
        return chain[0]

    def wants_kick(self) -> bool:
        """Whether the device asked to be notified of what was offered since the last call."""
        old, self._kicked = self._kicked, self._avail
        if self._event_idx:
            return need_event(read16(self._memory, self.layout.avail_event), self._avail, old)
        return not read16(self._memory, self.layout.used) & USED_NO_NOTIFY

    def collect(self) -> tuple[int, int] | None:
        """The next buffer that the device has used, as (head, bytes written); None if none is.

        Raises `RingError` if it names no buffer that it has.
        """
        if read16(self._memory, self.layout.used + 2) == self._seen:
            return None
        data = self._memory.read(self.layout.used_entry(self._seen), 8)
        head, written = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")
        if head not in self._chains:
            raise RingError(f"the device used buffer {head:#x}, which it does not have")
        self._free += reversed(self._chains.pop(head))
        self._seen = self._seen + 1 & INDEX
        if self._event_idx:
            write16(self._memory, self.layout.used_event, self._seen)
        return head, written

    def silence(self) -> None:
        """Ask for no interrupts: the driver will look by itself."""
        write16(self._memory, self.layout.avail, AVAIL_NO_INTERRUPT)
