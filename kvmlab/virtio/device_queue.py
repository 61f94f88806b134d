"""The device's side of a split virtqueue.  The driver is a guest, and nothing it wrote is trusted.

VIRTIO 1.2, sections 2.7.5 to 2.7.8; what is refused is what QEMU's virtqueue_pop() refuses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvmlab.base.errors import RingError
from kvmlab.virtio.ring import (
    AVAIL_NO_INTERRUPT,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    DESCRIPTOR_BYTES,
    INDEX,
    Descriptor,
    Layout,
    Memory,
    Segment,
    need_event,
    read16,
    write16,
)


@dataclass(slots=True)
class Chain:
    """One buffer of the driver's: what the device may read, and what it may write."""

    head: int
    out: list[Segment]
    into: list[Segment]


class DeviceQueue:
    """Takes buffers from the avail ring and puts them on the used ring.

    ``reaches`` says whether all of a range is guest memory.  Every method raises `RingError` on
    a ring that no honest driver makes; the device then stops and asks to be reset.
    """

    def __init__(
        self,
        memory: Memory,
        layout: Layout,
        reaches: Callable[[int, int], bool],
        *,
        event_idx: bool,
        indirect: bool,
    ) -> None:
        self._memory, self._layout, self._reaches = memory, layout, reaches
        self._event_idx, self._indirect = event_idx, indirect
        self._taken = self._used = self._told = 0
        for area, size in (
            (layout.descriptors, DESCRIPTOR_BYTES * layout.size),
            (layout.avail, layout.used_event + 2 - layout.avail),
            (layout.used, layout.avail_event + 2 - layout.used),
        ):
            if not reaches(area, size):
                raise RingError(f"an area of the queue, {size:#x} bytes at {area:#x}, is no memory")

    def pop(self) -> Chain | None:
        """The next buffer that the driver made available; None if there is none."""
        avail = read16(self._memory, self._layout.avail + 2)
        waiting = avail - self._taken & INDEX
        if waiting == 0:
            return None
        if waiting > self._layout.size:
            raise RingError(
                f"avail idx went from {self._taken:#x} to {avail:#x}: more than the ring's "
                f"{self._layout.size} entries"
            )
        head = read16(self._memory, self._layout.avail_entry(self._taken))
        chain = self._chain(head)
        self._taken = self._taken + 1 & INDEX
        if self._event_idx:  # notify me of the very next one
            write16(self._memory, self._layout.avail_event, self._taken)
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Give a buffer back, ``written`` bytes of it written."""
        entry = chain.head.to_bytes(4, "little") + written.to_bytes(4, "little")
        self._memory.write(self._layout.used_entry(self._used), entry)
        self._used = self._used + 1 & INDEX
        write16(self._memory, self._layout.used + 2, self._used)

    def wants_interrupt(self) -> bool:
        """Whether the driver asked to hear of what was pushed since the last call."""
        old, self._told = self._told, self._used
        if self._event_idx:
            return need_event(read16(self._memory, self._layout.used_event), self._used, old)
        return not read16(self._memory, self._layout.avail) & AVAIL_NO_INTERRUPT

    def _chain(self, head: int) -> Chain:
        chain = Chain(head, [], [])
        for one in self._descriptors(
            self._layout.descriptors, self._layout.size, head, inner=False
        ):
            self._check(one)
            if one.flags & DESC_WRITE:
                chain.into.append(Segment(one.gpa, one.length))
            elif chain.into:
                raise RingError(
                    f"buffer {head:#x}: a part to read follows one to write, at {one.gpa:#x}"
                )
            else:
                chain.out.append(Segment(one.gpa, one.length))
        return chain

    def _descriptors(
        self, table: int, size: int, index: int, *, inner: bool
    ) -> Iterator[Descriptor]:
        """The chain that begins at ``index``; one descriptor may stand for a table of them."""
        for _ in range(size):
            if index >= size:
                raise RingError(f"descriptor {index:#x} is beyond a table of {size}")
            entry = self._memory.read(table + DESCRIPTOR_BYTES * index, DESCRIPTOR_BYTES)
            one = Descriptor.unpack(entry)
            if not one.flags & DESC_INDIRECT:
                yield one
            elif inner or not self._indirect or one.flags & DESC_NEXT:
                raise RingError(f"descriptor {index:#x} may not be indirect, with {one.flags:#x}")
            else:
                yield from self._table(one)
            if not one.flags & DESC_NEXT:
                return
            index = one.next
        raise RingError(f"a chain of more than {size} descriptors runs in a circle")

    def _table(self, one: Descriptor) -> Iterator[Descriptor]:
        """The chain in an indirect table."""
        self._check(one)
        size, rest = divmod(one.length, DESCRIPTOR_BYTES)
        if rest or size > self._layout.size:
            raise RingError(f"an indirect table of {one.length:#x} bytes at {one.gpa:#x}")
        return self._descriptors(one.gpa, size, 0, inner=True)

    def _check(self, one: Descriptor) -> None:
        if one.length == 0 or not self._reaches(one.gpa, one.length):
            raise RingError(f"{one.length:#x} bytes at {one.gpa:#x} are no guest memory")
