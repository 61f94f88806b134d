"""The driver's part in free-page hinting: lend the host the names of free blocks.

Linux, drivers/virtio/virtio_balloon.c: report_free_page_func().  The blocks are kept aside until
the host says that its migration is done, or the guest needs them.
"""

from collections.abc import Callable

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.virtio_mmio import VirtioMmioDriver
from kvmlab.virtio.balloon import HINT_DONE, HINT_STOP, Field
from kvmlab.virtio.driver_queue import DriverQueue
from kvmlab.virtio.ring import Segment

ORDER = 10  # of a block: MAX_ORDER, 4 MiB


class HintDriver:
    """Answers command ids; ``ring`` notifies the queue."""

    def __init__(
        self,
        kernel: Kernel,
        bus: VirtioMmioDriver,
        queue: DriverQueue,
        ring: Callable[[], None],
    ) -> None:
        self._kernel, self._bus, self._queue, self._ring = kernel, bus, queue, ring
        self._id = bus.buffer(PAGE_SIZE)
        self._seen = HINT_STOP
        self.blocks: list[int] = []  # GPAs of what is kept aside
        kernel.frames.oom_notifiers.append(self.give_back)

    def look(self) -> None:
        """The configuration changed: begin a round, or take everything back.

        The id is read only now: while a round runs QEMU shows none.
        """
        command = self._bus.config(Field.FREE_PAGE_HINT_CMD_ID)
        if command == self._seen:
            return
        self._seen = command
        if command == HINT_DONE:
            self.give_back()
        elif command != HINT_STOP:
            self._round(command)

    def give_back(self) -> int:
        """Free all that is kept aside; returns how many frames that were."""
        freed = len(self.blocks) << ORDER
        self._kernel.frames.give_back(self.blocks, ORDER)
        self.blocks.clear()
        return freed

    def stop(self) -> None:
        """The driver goes: take everything back."""
        self.give_back()
        self._kernel.frames.oom_notifiers.remove(self.give_back)

    def _round(self, command: int) -> None:
        """Send the id, every free block of order 10, and the id that ends the list."""
        self._send_id(command)
        while (block := self._kernel.frames.take_block(ORDER)) is not None:
            self.blocks.append(block)
            self._send(into=[Segment(block, PAGE_SIZE << ORDER)])
        self._send_id(HINT_STOP)

    def _send_id(self, command: int) -> None:
        self._bus.memory.write(self._id, command.to_bytes(4, "little"))
        self._send(out=[Segment(self._id, 4)])

    def _send(self, out: list[Segment] | None = None, into: list[Segment] | None = None) -> None:
        self._queue.offer(out or [], into or [])
        self._ring()
        while self._queue.collect():
            pass
