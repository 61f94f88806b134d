"""A look at a guest of one's own: what its balloon did since the last look."""

from dataclasses import dataclass

from kvmlab.base.addresses import size_text
from kvmlab.base.checks import expect
from kvmlab.base.errors import BadChoice
from kvmlab.guest.balloon import BalloonDriver
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.linux.memory import Memory
from kvmlab.machine import Machine, machine_of
from kvmlab.management.domain import virDomain
from kvmlab.management.virsh import virsh
from kvmlab.qemu.balloon import Balloon
from kvmlab.qemu.machine import LOW_MEMORY
from kvmlab.study.inflation_moments import Moment, ept_of
from kvmlab.study.inflation_watch import Watch
from kvmlab.virtio.balloon import Feature


@dataclass(frozen=True, slots=True)
class Found:
    """What a guest of one's own is like (`inflation_beginning.Known`)."""

    backing: str
    driver: str
    deflate_on_oom: bool
    reporting: bool


class Look:
    """A running domain of a simulated host, or a `Machine`, watched from now on.

    ``moments`` are what happened up to the last look since the one before, ``history`` everything.
    Raises `BadChoice` for one whose balloon, Linux or EPT cannot be looked at.
    """

    def __init__(self, own: "virDomain | Machine") -> None:
        expect(
            "domain", own, (virDomain, Machine), "a domain of connect(Server(...)), or a Machine"
        )
        self._domain = own if isinstance(own, virDomain) else None
        machine = machine_of(own) if isinstance(own, virDomain) else own
        balloon, guest = _checked(machine)
        self.watch = Watch(balloon.ram)
        self.watch.machine, self.watch.guest = machine, guest
        self.beginning = _found(machine, balloon)
        for one in (balloon, machine.balloon_driver, guest.memory):
            if one:
                self._overhear(one)
        self.watch.deed = ("own", self.watch.ram >> 20)
        self.again()
        self.watch.listening = True

    @property
    def name(self) -> str:
        """What virsh calls it; nothing where no libvirt knows the machine."""
        return self._domain.name() if self._domain else ""

    def again(self) -> None:
        """Look again: ``moments`` become what happened since."""
        self.watch.end(self._stats())
        self.deed, self.moments = self.watch.deed, list(self.watch.moments)
        self.history: list[Moment] = list(self.watch.history)
        self.watch.begin("since")

    def _overhear(self, one: "Balloon | BalloonDriver | Memory") -> None:
        """Be told, too, what ``one`` says."""

        def both(record: object) -> None:
            before(record)
            self.watch.hear(record)

        before = one.listen(both)

    def _stats(self) -> str:
        """What virsh dommemstat prints; nothing where no libvirt knows the machine."""
        if self._domain is None:
            return ""
        return virsh(self._domain.connect(), f"dommemstat {self.name}").out


def _checked(machine: Machine) -> tuple[Balloon, Reclaimer]:
    """The balloon and the memory management of a guest; raises `BadChoice` for one without."""
    if machine.balloon is None:
        raise BadChoice("this machine has no balloon; give it one with machine.attach_balloon()")
    ept_of(machine)  # or there is nothing to draw
    guest = machine.guest.frames.manager
    if not isinstance(guest, Reclaimer):
        raise BadChoice("this guest's memory is not managed; attach a Reclaimer(machine.guest)")
    if machine.balloon.ram > LOW_MEMORY:  # the maps have no place for the hole above it
        raise BadChoice(
            f"a guest of {size_text(machine.balloon.ram)} cannot be drawn; "
            f"choose up to {size_text(LOW_MEMORY)}"
        )
    return machine.balloon, guest


def _found(machine: Machine, balloon: Balloon) -> Found:
    """What stays as it is while that guest runs."""
    assert machine.vmm is not None  # noqa: S101  it has a balloon
    area = next(iter(machine.vmm.process.areas))
    return Found(
        backing=size_text(1 << area.shift),
        driver="linux" if machine.balloon_driver else "none",
        deflate_on_oom=Feature.DEFLATE_ON_OOM in balloon.features,
        reporting=Feature.REPORTING in balloon.features,
    )
