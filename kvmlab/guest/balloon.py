"""The balloon driver: it takes pages from its own kernel and tells the host which.

Linux, drivers/virtio/virtio_balloon.c.  Arrays of at most 256 page frame numbers, one in flight;
the next step begins when the host has acknowledged it.  Work runs on the clock, as on a
workqueue: an interrupt only queues it.
"""

from collections.abc import Callable
from functools import partial

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.clock import MILLISECOND, Clock, Timer
from kvmlab.base.errors import BadChoice, MachineCheck
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.balloon_hints import HintDriver
from kvmlab.guest.balloon_stats import Stats, StatsDriver, basic_stats
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.page_reporting import PageReporting
from kvmlab.guest.records import BalloonMigrated, BalloonMoved, OutOfPuff
from kvmlab.guest.virtio_mmio import VirtioMmioDriver
from kvmlab.virtio import balloon
from kvmlab.virtio.balloon import MOST_PFNS, Feature, Field, pack_pfns
from kvmlab.virtio.mmio import INTERRUPT_CONFIG, INTERRUPT_QUEUE
from kvmlab.virtio.ring import RING_EVENT_IDX, Layout, Segment

_BYTE = 0xFF
RETRY = 200 * MILLISECOND  # how long it sleeps when it is out of puff


class BalloonDriver:
    """The driver of the balloon whose registers are at ``gpa``; loading it begins its work.

    ``stats`` gives the (tag, value) pairs that it sends when asked.  ``poison`` is what the
    guest's kernel fills freed pages with: None nothing, 0 zeroes (init_on_free=1), 0xAA
    (page_poison=1).  Raises `BadChoice` if there is no such device, and for what is no byte.
    """

    def __init__(
        self,
        kernel: Kernel,
        gpa: int,
        clock: Clock,
        stats: Callable[[], Stats] | None = None,
        poison: int | None = None,
        tap: Tap = silent,
    ) -> None:
        if poison is not None and not 0 <= poison <= _BYTE:
            raise BadChoice(f"poison is a byte, 0 to {_BYTE:#x}, not {poison:#x}")
        self._kernel, self._clock, self._tap = kernel, clock, tap
        self._stats, self._poison = stats or (lambda: basic_stats(kernel)), poison
        with kernel.smp.here.entered():
            self._probe(gpa)

    def _probe(self, gpa: int) -> None:
        """virtballoon_probe(): agree on features, set up queues, begin."""
        self._bus = VirtioMmioDriver(self._kernel, gpa, balloon.DEVICE_ID)
        self.features = self._bus.accept(self._wanted(self._bus.offered()))
        self.pages: list[int] = []  # the balloon: GPAs, the newest last
        self._taken: list[int] = []  # on their way there, while it is out of puff
        self._queues = {
            name: self._bus.queue(number)
            for number, name in enumerate(balloon.queues(self.features))
        }
        self._pfns = self._bus.buffer(PAGE_SIZE)
        self._work: Timer | None = None
        self._busy = self._again = self._stopped = False
        self._then: tuple[str, Callable[[], None]] | None = None  # what follows an acknowledgment
        self._start()

    def _wanted(self, offered: frozenset[int]) -> frozenset[int]:
        """virtballoon_validate(): poison only if the guest poisons; no reports of poison untold."""
        wanted = offered & (frozenset(Feature) | {RING_EVENT_IDX})
        if self._poison is None:
            return wanted - {Feature.PAGE_POISON}
        if Feature.PAGE_POISON not in wanted:
            return wanted - {Feature.REPORTING}
        return wanted

    def _start(self) -> None:
        self._statistics = self._hints = self._reporting = None
        if statistics := self._queues.get(balloon.STATS):
            ring = partial(self._notify, balloon.STATS)
            self._statistics = StatsDriver(self._bus, statistics, ring, self._stats)
            self._statistics.offer()
        if Feature.PAGE_POISON in self.features and self._poison:
            self._bus.set_config(Field.POISON_VAL, self._poison * 0x0101_0101)
        self._bus.go()
        if self._statistics:
            self._statistics.ring()
        if Feature.DEFLATE_ON_OOM in self.features:
            self._kernel.frames.oom_notifiers.append(self._oom)
        if hints := self._queues.get(balloon.HINT):
            ring = partial(self._notify, balloon.HINT)
            self._hints = HintDriver(self._kernel, self._bus, hints, ring)
        if reporting := self._queues.get(balloon.REPORT):
            ring = partial(self._notify, balloon.REPORT)
            self._reporting = PageReporting(self._kernel, reporting, ring, self._clock)
        if self._towards_target():
            self._queue_work()

    def _notify(self, name: str) -> None:
        self._bus.notify(list(self._queues).index(name), self._queues[name])

    # -- interrupts ---------------------------------------------------------------------

    def interrupt(self) -> None:
        """The device's line went up."""
        if not self._stopped:
            with self._kernel.smp.here.entered():
                self._interrupted()

    def _interrupted(self) -> None:
        causes = self._bus.interrupts()
        if causes & INTERRUPT_QUEUE:
            self._acknowledged()
            if self._statistics:
                self._statistics.answer()
            if self._reporting:
                self._reporting.acknowledged()
        if causes & INTERRUPT_CONFIG:
            self._queue_work()
            if self._hints:
                self._hints.look()

    # -- the size -----------------------------------------------------------------------

    def _towards_target(self) -> int:
        return self._bus.config(Field.NUM_PAGES) - len(self.pages)

    def _queue_work(self) -> None:
        if self._busy:
            self._again = True
        elif self._work is None or not self._work.pending:
            self._work = self._after(0, self._update_size)

    def _after(self, delay: int, action: Callable[[], None]) -> Timer:
        """Do something later, in the kernel's own address space."""

        def run() -> None:
            if not self._stopped:
                with self._kernel.smp.here.entered():
                    action()

        return self._clock.after(delay, run)

    def _update_size(self) -> None:
        """update_balloon_size_func(): one step of at most 256 pages, then queued again."""
        difference = self._towards_target()
        if difference and not self._busy:
            self._busy = True
            (self._fill if difference > 0 else self._leak)(abs(difference))

    def _finish(self, *, more: bool) -> None:
        self._write_actual()
        again, self._busy, self._again = self._again, False, False
        if (more or again) and not self._stopped:
            self._queue_work()

    def _write_actual(self) -> None:
        self._bus.set_config(Field.ACTUAL, len(self.pages))

    def _fill(self, wanted: int) -> None:
        """fill_balloon(): take pages as far as there are; without one, sleep first."""
        most = min(wanted, MOST_PFNS)
        taken = self._kernel.frames.take(most)
        if len(taken) == most:
            self._inflate(taken, more=wanted > most)
        else:
            self._tap(OutOfPuff(len(self.pages) + len(taken)))
            self._taken = taken
            self._after(RETRY, lambda: self._inflate(taken, more=True))

    def _inflate(self, taken: list[int], *, more: bool) -> None:
        self.pages += taken
        self._taken = []
        self._adjust_managed(-len(taken))
        self._tell(balloon.INFLATE, taken, lambda: self._finish(more=more))

    def _leak(self, wanted: int) -> None:
        """leak_balloon(): the host hears of it before the pages are used again, always."""
        given = self._dequeue(wanted)

        def free() -> None:
            self._free(given)
            self._finish(more=wanted > len(given) and bool(self.pages))

        self._tell(balloon.DEFLATE, given, free)

    def _dequeue(self, wanted: int) -> list[int]:
        """The newest pages of the balloon, at most 256."""
        count = min(wanted, MOST_PFNS, len(self.pages))
        given = self.pages[len(self.pages) - count :]
        del self.pages[len(self.pages) - count :]
        return given

    def _free(self, pages: list[int]) -> None:
        self._adjust_managed(len(pages))
        self._put(pages)

    def _put(self, pages: list[int]) -> None:
        """Free pages; a kernel that poisons what is free touches each, so the host backs it."""
        if self._poison is None:
            self._kernel.frames.give_back(pages)
            return
        for page in pages:
            if self._poison:
                self._bus.memory.write(page, bytes([self._poison]) * PAGE_SIZE)
            self._kernel.frames.release(page, 0)

    def _adjust_managed(self, pages: int) -> None:
        """MemTotal follows the balloon, unless the guest may take its pages back at will."""
        if Feature.DEFLATE_ON_OOM not in self.features:
            self._kernel.frames.managed += pages

    # -- talking to the host ------------------------------------------------------------

    def _tell(self, name: str, pages: list[int], then: Callable[[], None]) -> None:
        """tell_host(): post the array, ring the bell, go on when it was acknowledged."""
        if not pages:
            then()
            return
        self._bus.memory.write(self._pfns, pack_pfns(page >> PAGE_SHIFT for page in pages))
        self._queues[name].offer([Segment(self._pfns, 4 * len(pages))])
        self._tap(BalloonMoved(name, len(pages)))
        self._then = (name, then)
        self._notify(name)
        self._acknowledged()

    def _acknowledged(self) -> None:
        if self._then and self._queues[self._then[0]].collect():
            (_, then), self._then = self._then, None
            then()

    # -- when the guest is starved, compacts, or unloads --------------------------------

    def _oom(self) -> int:
        """virtballoon_oom_notify(): one step back, whatever the target; returns pages freed."""
        if self._then or not self.pages:
            return 0
        given = self._dequeue(MOST_PFNS)
        freed: list[int] = []

        def free() -> None:
            self._free(given)
            self._write_actual()
            freed.extend(given)

        self._tell(balloon.DEFLATE, given, free)
        return len(freed)

    def migrate(self, page: int) -> bool:
        """Move a page of the balloon elsewhere, as compaction asks; False: busy, try later.

        virtballoon_migratepage(): the host gets the new page before the old one comes back.
        """
        if self._busy or self._then or page not in self.pages:
            return False
        new = self._kernel.frames.take_block(0)
        if new is None:
            return False
        self._busy = True
        self.pages[self.pages.index(page)] = new

        def free() -> None:
            self._put([page])
            self._tap(BalloonMigrated(page, new))
            self._busy = False
            if self._again:
                self._again = False
                self._queue_work()

        self._tell(balloon.INFLATE, [new], lambda: self._tell(balloon.DEFLATE, [page], free))
        return True

    def listen(self, tap: Tap) -> Tap:
        """Say to ``tap`` alone what it does from now on; returns who has heard of it so far."""
        before, self._tap = self._tap, tap
        return before

    def layout(self, queue: str) -> Layout:
        """Where a queue's descriptors and rings lie in the guest's memory."""
        return self._queues[queue].layout

    @property
    def bound(self) -> bool:
        """Whether it drives the device still."""
        return not self._stopped

    def unload(self) -> None:
        """rmmod: deflate everything, tell the host so, reset the device, free what was its own.

        Linux, remove_common(); raises `MachineCheck` while the host owes an acknowledgment.
        """
        with self._kernel.smp.here.entered():
            self._all_acknowledged()
            self._stop()
            while self.pages:
                self._leak(len(self.pages))
                self._all_acknowledged()
            self._write_actual()
            self._bus.release()

    def _all_acknowledged(self) -> None:
        if self._then:
            raise MachineCheck("the host does not acknowledge what the balloon sent")

    def _stop(self) -> None:
        """Work that was queued is not done, and nobody asks for pages any more."""
        self._stopped = True
        self._kernel.frames.give_back(self._taken)
        for helper in (self._hints, self._reporting):
            if helper:
                helper.stop()
        if Feature.DEFLATE_ON_OOM in self.features:
            self._kernel.frames.oom_notifiers.remove(self._oom)
