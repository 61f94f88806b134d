"""A look at a host of one's own: what its VMs were promised, what they have, and who pays."""

from dataclasses import dataclass

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.checks import expect
from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.linux.records import OomKill
from kvmlab.linux.vmstat import VmStat
from kvmlab.machine import Machine, machine_of
from kvmlab.management.connection import virConnect
from kvmlab.management.domain import virDomain

MOST_VMS = 24
"""As many as are drawn."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One VM at one time; pages of 4 KiB."""

    name: str
    alive: bool
    pages: int  # that were promised to it
    used: int = 0  # MemTotal less MemFree, as the guest has them
    rss: int = 0
    host_swap: int = 0
    guest_swap: int = 0
    balloon: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A host at one look, and what happened since the one before; pages of 4 KiB."""

    seconds: float  # of simulated time
    total: int
    free: int
    swapped: int  # slots in use of the host's swap
    merged: int  # KSM's pages_sharing
    swap_in: int
    swap_out: int
    guest_in: int  # pages that guests read from their own swap
    kills: int  # of the host's OOM killer
    vms: tuple[Guest, ...]

    @property
    def promised(self) -> int:
        """The memory of all VMs that run."""
        return sum(one.pages for one in self.vms if one.alive)

    @property
    def rss(self) -> int:
        """Of all of them."""
        return sum(one.rss for one in self.vms)

    @property
    def used(self) -> int:
        """In all guests."""
        return sum(one.used for one in self.vms)

    @property
    def balloons(self) -> int:
        """What all balloons hold."""
        return sum(one.balloon for one in self.vms)


class HostLook:
    """The VMs of a simulated host's ``connection``, watched from now on; ``seen`` are the looks.

    Raises `BadChoice` if none runs there, or more than are drawn.
    """

    def __init__(self, connection: virConnect) -> None:
        expect("connection", connection, virConnect, "one of connect(Server(...))")
        self._connection = connection
        self._known: dict[str, virDomain] = {}
        self._stat, self._kills = VmStat(), 0
        self.seen: list[Seen] = []
        running = self._running()
        if not running:
            raise BadChoice("no domain runs on this connection: create one, then look")
        machine = machine_of(next(iter(running.values())))
        assert machine.host is not None  # noqa: S101  a domain has a hypervisor
        self._host, self._clock = machine.host, machine.clock
        self._before = self._host.memory.listen(self._hear)
        self._counts = self._now_counted(running)
        self.again()

    def again(self) -> None:
        """Look again, at VMs that came since, too."""
        running, was = self._running(), self._counts
        now = self._counts = self._now_counted(running)
        memory = self._host.memory
        self.seen.append(
            Seen(
                seconds=self._clock.now / SECOND,
                total=self._host.ram.size >> PAGE_SHIFT,
                free=memory.buddy.free_frames,
                swapped=memory.swap.total - memory.swap.free,
                merged=self._host.ksm.pages_sharing,
                swap_in=now["pswpin"] - was["pswpin"],
                swap_out=now["pswpout"] - was["pswpout"],
                guest_in=max(now["guests"] - was["guests"], 0),
                kills=now["kills"] - was["kills"],
                vms=self._guests(),
            )
        )

    def _running(self) -> dict[str, virDomain]:
        """Those that run; all that ever did stay known, in the order in which they were seen."""
        running = {one.name(): one for one in self._connection.listAllDomains() if one.run}
        known = self._known | running
        if len(known) > MOST_VMS:
            raise BadChoice(f"{len(known)} VMs cannot be drawn; up to {MOST_VMS} can")
        self._known = known
        return running

    def _guests(self) -> tuple[Guest, ...]:
        """All that are known; one that runs no more has nothing but what it was promised."""
        last = {one.name: one for one in self.seen[-1].vms} if self.seen else {}
        return tuple(
            _guest(name, one) if one.run else Guest(name, alive=False, pages=last[name].pages)
            for name, one in self._known.items()
        )

    def _now_counted(self, running: dict[str, virDomain]) -> dict[str, int]:
        """What was counted so far, by the host and in the guests."""
        guests = [_linux(machine_of(one)) for one in running.values()]
        found = {name: self._stat[name] for name in ("pswpin", "pswpout")}
        read = sum(one.stat["pswpin"] for one in guests if one)
        return found | {"guests": read, "kills": self._kills}

    def _hear(self, record: object) -> None:
        self._before(record)
        self._stat(record)
        self._kills += isinstance(record, OomKill)


def _linux(machine: Machine) -> Reclaimer | None:
    """What manages the memory of a guest, if anything does."""
    manager = machine.guest.frames.manager
    return manager if isinstance(manager, Reclaimer) else None


def _guest(name: str, domain: virDomain) -> Guest:
    """A domain that runs, as it is now."""
    machine = machine_of(domain)
    assert machine.vmm is not None  # noqa: S101  a domain has a hypervisor
    frames, linux, qemu = machine.guest.frames, _linux(machine), machine.vmm.process
    swap = linux.memory.swap if linux else None
    return Guest(
        name,
        alive=True,
        pages=domain.maxMemory() >> PAGE_SHIFT - 10,
        used=frames.managed - frames.buddy.free_frames,
        rss=qemu.rss,
        host_swap=qemu.swap_entries,
        guest_swap=swap.total - swap.free if swap else 0,
        balloon=machine.balloon.actual if machine.balloon else 0,
    )
