"""Free page reporting: the kernel tells the host, every so often, which large blocks are free.

Linux, mm/page_reporting.c.  No page leaves the guest: a block is out of the allocator's hands only
until the host has acknowledged the report, and is used again like any other, at the price of an
EPT violation.  `actual` and MemTotal do not change.
"""

from collections.abc import Callable

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.clock import SECOND, Clock
from kvmlab.guest.kernel import Kernel
from kvmlab.linux.buddy import MAX_ORDER
from kvmlab.virtio.driver_queue import DriverQueue
from kvmlab.virtio.ring import Segment

DELAY = 2 * SECOND  # PAGE_REPORTING_DELAY
ORDER = 9  # pageblock_order: 2 MiB
CAPACITY = 32  # PAGE_REPORTING_CAPACITY: blocks in one report


class PageReporting:
    """Reports free blocks of 2 MiB and more; ``ring`` notifies the queue."""

    def __init__(
        self, kernel: Kernel, queue: DriverQueue, ring: Callable[[], None], clock: Clock
    ) -> None:
        self._kernel, self._queue, self._ring, self._clock = kernel, queue, ring, clock
        self._isolated: list[tuple[int, int]] = []  # first frame and order, until acknowledged
        self._timer = clock.after(DELAY, self._pass)

    def _pass(self) -> None:
        """One pass over the free lists, the largest blocks first; then again after a while."""
        self._timer = self._clock.after(DELAY, self._pass)
        with self._kernel.smp.here.entered():
            self._report()

    def _report(self) -> None:
        if self._isolated:
            return  # the host has not answered yet
        buddy = self._kernel.frames.buddy
        for order in range(MAX_ORDER, ORDER - 1, -1):
            while len(self._isolated) < CAPACITY:
                pfn = buddy.isolate_unreported(order)
                if pfn is None:
                    break
                self._isolated.append((pfn, order))
        if self._isolated:
            blocks = [
                Segment(pfn << PAGE_SHIFT, PAGE_SIZE << order) for pfn, order in self._isolated
            ]
            self._queue.offer([], blocks)
            self._ring()
            self.acknowledged()

    def stop(self) -> None:
        """The driver goes: no more passes, and what the host has not answered for is free again."""
        self._timer.cancel()
        for pfn, order in self._isolated:
            self._kernel.frames.buddy.free(pfn, order)
        self._isolated.clear()

    def acknowledged(self) -> None:
        """The host may have answered: the blocks go back, marked, and the next are reported."""
        if not self._queue.collect():
            return
        for pfn, order in self._isolated:
            self._kernel.frames.buddy.put_back_reported(pfn, order)
        self._isolated.clear()
        self._report()
