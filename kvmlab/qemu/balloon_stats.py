"""The guest's own statistics, as old as its last answer.

The queue runs backwards: the guest's one buffer stays with the host until the next poll.  QEMU,
hw/virtio/virtio-balloon.c: virtio_balloon_receive_stats(), balloon_stats_poll_cb().
"""

from collections.abc import Callable
from types import MappingProxyType

from kvmlab.base.clock import SECOND, Clock, Timer
from kvmlab.base.tap import Tap
from kvmlab.qemu.records import StatsArrived
from kvmlab.virtio.balloon import Tag, unpack_stats
from kvmlab.virtio.device_queue import Chain

UNKNOWN = (1 << 64) - 1
NAMES = MappingProxyType(
    {
        Tag.SWAP_IN: "stat-swap-in",
        Tag.SWAP_OUT: "stat-swap-out",
        Tag.MAJFLT: "stat-major-faults",
        Tag.MINFLT: "stat-minor-faults",
        Tag.MEMFREE: "stat-free-memory",
        Tag.MEMTOT: "stat-total-memory",
        Tag.AVAIL: "stat-available-memory",
        Tag.CACHES: "stat-disk-caches",
        Tag.HTLB_PGALLOC: "stat-htlb-pgalloc",
        Tag.HTLB_PGFAIL: "stat-htlb-pgfail",
        Tag.OOM_KILL: "stat-oom-kills",
        Tag.ALLOC_STALL: "stat-alloc-stalls",
        Tag.ASYNC_SCAN: "stat-async-scans",
        Tag.DIRECT_SCAN: "stat-direct-scans",
        Tag.ASYNC_RECLAIM: "stat-async-reclaims",
        Tag.DIRECT_RECLAIM: "stat-direct-reclaims",
    }
)


class GuestStats:
    """What the guest last said, and the timer that asks it again.

    ``give_back`` returns the guest's buffer to it, which asks for the next answer.
    """

    def __init__(self, clock: Clock, give_back: Callable[[Chain], None], tap: Tap) -> None:
        self._clock, self._give_back, self.tap = clock, give_back, tap
        self.interval = 0  # seconds; 0: nobody asks
        self._timer: Timer | None = None
        self.reset()

    def reset(self) -> None:
        """Nothing is known, and no buffer is here."""
        self.values = dict.fromkeys(Tag, UNKNOWN)
        self.last_update = 0  # seconds since 1970; 0: never
        self._held: Chain | None = None

    def receive(self, chain: Chain, data: bytes) -> None:
        """The guest posted its buffer: read it, and keep it until the next poll."""
        if self._held is not None:  # it may have but one
            self._give_back(self._held)
        self._held = chain
        self.values = dict.fromkeys(Tag, UNKNOWN)
        records = unpack_stats(data)
        self.values.update({Tag(tag): value for tag, value in records if tag in self.values})
        self.last_update = self._clock.wall
        self.tap(StatsArrived(tuple(records), self.last_update))
        if self.interval:
            self._arm(self.interval)

    def poll_every(self, seconds: int) -> None:
        """Ask every so often, at once if nobody asked before; 0 stops, and keeps what is known."""
        started = self.interval == 0 and seconds > 0
        unchanged, self.interval = self.interval == seconds, seconds
        if unchanged:
            return
        self._arm(0 if started else seconds)

    def _arm(self, seconds: int) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._clock.after(seconds * SECOND, self._poll) if self.interval else None

    def _poll(self) -> None:
        held, self._held = self._held, None
        if held is None:  # no driver, or its answer is on the way
            self._arm(self.interval)
        else:
            self._give_back(held)

    def shown(self) -> dict[str, object]:
        """As QOM's ``guest-stats`` shows it."""
        stats = {NAMES[tag]: value for tag, value in self.values.items()}
        return {"stats": stats, "last-update": self.last_update}
