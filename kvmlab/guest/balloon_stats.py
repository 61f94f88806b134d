"""The guest's statistics for the host: one buffer, sent anew each time the host returns it.

Linux, drivers/virtio/virtio_balloon.c: stats_request(), stats_handle_request().
"""

from collections.abc import Callable, Iterable

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.virtio_mmio import VirtioMmioDriver
from kvmlab.virtio.balloon import Tag, pack_stats
from kvmlab.virtio.driver_queue import DriverQueue
from kvmlab.virtio.ring import Segment

Stats = Iterable[tuple[int, int]]


class StatsDriver:
    """Sends what ``stats`` gives, (tag, value) pairs; ``ring`` notifies the queue."""

    def __init__(
        self,
        bus: VirtioMmioDriver,
        queue: DriverQueue,
        ring: Callable[[], None],
        stats: Callable[[], Stats],
    ) -> None:
        self._bus, self._queue, self.ring, self._stats = bus, queue, ring, stats
        self._buffer = bus.buffer(PAGE_SIZE)

    def offer(self) -> None:
        """Put fresh numbers into the buffer and make it available."""
        data = pack_stats(self._stats())
        self._bus.memory.write(self._buffer, data)
        self._queue.offer([Segment(self._buffer, len(data))])

    def answer(self) -> None:
        """If the host returned the buffer, it asks: answer."""
        if self._queue.collect():
            self.offer()
            self.ring()


def basic_stats(kernel: Kernel) -> Stats:
    """What the allocator alone can tell: MemFree and MemTotal, in bytes."""
    frames = ((Tag.MEMFREE, kernel.frames.buddy.free_frames), (Tag.MEMTOT, kernel.frames.managed))
    return [(tag, count << PAGE_SHIFT) for tag, count in frames]
