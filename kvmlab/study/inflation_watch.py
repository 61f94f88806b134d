"""What is seen of a guest with a balloon while it is watched: a `Moment` for all that happens."""

from dataclasses import replace

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.clock import SECOND
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.records import BalloonMoved, OutOfPuff
from kvmlab.linux.records import OomKill
from kvmlab.machine import Machine
from kvmlab.qemu.records import BalloonActual, BalloonServed, BalloonTarget, FreeBlock
from kvmlab.study.inflation_moments import (
    CELLS,
    OWNERS,
    Buffer,
    Moment,
    buffer_of,
    by_cell,
    leaf_shift,
    mapped_pages,
    owner_of_pages,
    used_index,
)

WATCHED = ("pgsteal_file", "pswpout", "pswpin", "pgmajfault", "oom_kill")
MOST = 200  # moments of one deed; what happens after them is in its last


class Watch:
    """Moments of a guest with ``ram`` bytes: ``moments`` of the last deed, ``history`` all of them.

    Who watches sets ``machine`` and ``guest``, lets `hear` be told of their records, and says when
    to note them (``listening``).
    """

    machine: Machine
    guest: Reclaimer

    def __init__(self, ram: int) -> None:
        self.ram = ram
        self.history: list[Moment] = []
        self.moments: list[Moment] = []
        self.deed: tuple[object, ...] = ("begin",)
        self.returned = self.freed = 0
        self.listening = False
        self._posted: Buffer | None = None
        self._counted: dict[str, int] = {}

    def begin(self, *deed: object) -> None:
        """From now on, all that is noted belongs to ``deed``."""
        self.deed, self.moments, self.freed = deed, [], 0
        self._counted = {name: self.guest.stat[name] for name in WATCHED}
        self._note(replace(self.history[-1], event="before", freed=0, counts=(), buffer=None))

    def end(self, stats: str) -> None:
        """The deed is done: what stands now, and what ``virsh dommemstat`` prints."""
        self._note(self._moment("after", freed=self.freed, stats=stats))

    def hear(self, record: object) -> None:
        """A record of the guest's memory, its balloon's driver, or the device."""
        if isinstance(record, BalloonServed | FreeBlock):
            self.returned += record.freed
            self.freed += record.freed
        if not self.listening or len(self.moments) >= MOST:
            return
        if isinstance(record, BalloonMoved):
            self._posted = buffer_of(self.machine, record.queue)
            self._before = self.returned
        elif isinstance(record, BalloonActual) and self._posted:
            self._served(self._posted)
        elif isinstance(record, BalloonTarget):
            self._note(self._moment("target"))
        elif isinstance(record, OutOfPuff):
            self._again("puff", 0)
        elif isinstance(record, FreeBlock):
            self._again("report", record.freed)
        elif isinstance(record, OomKill):
            self._note(self._moment("kill", note=record.victim))

    def _served(self, posted: Buffer) -> None:
        """The device gave a buffer back, and the guest wrote ``actual``."""
        used = used_index(self.machine, posted.queue)
        leaf = leaf_shift(self.machine, posted.pfns[0] << PAGE_SHIFT)
        buffer = replace(posted, used=used, leaf=leaf)
        freed, self._posted = self.returned - self._before, None
        self._note(self._moment(posted.queue, freed=freed, buffer=buffer))

    def _again(self, event: str, freed: int) -> None:
        """Something that comes many times in a row is one moment."""
        last = self.moments[-1] if self.moments else None
        if last and last.event == event:
            del self.moments[-1], self.history[-1]
            many = {"freed": last.freed + freed, "times": last.times + 1}
            self._note(self._moment(event, **many))
        else:
            self._note(self._moment(event, freed=freed))

    def _note(self, moment: Moment) -> None:
        self.moments.append(moment)
        self.history.append(moment)

    def _moment(self, event: str, **more: object) -> Moment:
        info, host = self.guest.meminfo(), self.machine.host
        assert self.machine.balloon is not None  # noqa: S101  who watches made sure of it
        assert self.machine.vmm is not None  # noqa: S101  likewise
        assert host is not None  # noqa: S101  likewise
        stat = self.guest.stat
        grown = {name: stat[name] - self._counted.get(name, 0) for name in WATCHED}
        return Moment(
            event=event,
            seconds=self.machine.clock.now / SECOND,
            ram=self.ram,
            target=self.ram - (self.machine.balloon.num_pages << PAGE_SHIFT),
            actual=self.machine.balloon.left,
            returned=self.returned,
            rss=self.machine.vmm.process.rss << PAGE_SHIFT,
            host_free=host.buddy.free_frames << PAGE_SHIFT,
            total=info["MemTotal"] << 10,
            free=info["MemFree"] << 10,
            cache=info["Cached"] << 10,
            process=info["AnonPages"] << 10,
            swapped=info["SwapTotal"] - info["SwapFree"] << 10,
            blocks=self.guest.memory.buddy.free_blocks(),
            driver=self.machine.balloon_driver is not None,
            interval=self.machine.balloon.stats.interval,
            owners=by_cell(owner_of_pages(self.guest, self.ram), len(OWNERS)),
            mapped=mapped_pages(self.machine, self.ram).reshape(CELLS, -1).sum(axis=1),
            counts=tuple((name, count) for name, count in grown.items() if count),
            **more,  # type: ignore[arg-type]
        )
