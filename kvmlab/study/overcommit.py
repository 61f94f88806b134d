"""A day of many VMs on one host that promised its memory more than once.

Everything is 4096 times smaller than it says: a page of 4 KiB stands for 16 MiB, a guest of 4 GiB
has 256 of them.  Placement, reclaim, swap, KSM, the OOM killer and the managers are the engine's;
how much memory programs use at which hour is the learner's choice of load.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType

import numpy as np

from kvmlab.base.errors import BadChoice, BadSize, ProcessKilled
from kvmlab.base.tap import silent
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.linux.frames import Role
from kvmlab.linux.records import OomKill
from kvmlab.linux.vmstat import VmStat
from kvmlab.management.balloon_manager import (
    GuestSample,
    HostSample,
    Manager,
    checked,
    none,
    proportional,
)
from kvmlab.management.esx import Esx
from kvmlab.management.mom import Mom
from kvmlab.management.placement import Inventory, PlacementError, place
from kvmlab.study.overcommit_vm import Vm
from kvmlab.study.share import Plan

SCALE = 4096  # so many real bytes stand behind one
PAGE_MIB = 16  # what one page of 4 KiB stands for
PAGE_KIB = PAGE_MIB << 10
HOST_MIB = 32_768
HOST_OWN = 512 // PAGE_MIB  # pages that the host's kernel and its daemons take themselves
HOURS = 24

ROUNDS = 20  # of a manager in an hour, at most; MOM alone would make 360
IMAGE = 24  # pages that all guests have alike, kernel and libraries: about a tenth, made up
KSM_SCAN = 878  # pages in an hour: pages_to_scan 100 each sleep_millisecs 100, scaled
SATA_MIB = 572  # MiB/s: 6 Gbit/s with 8b/10b is 600 MB/s, so a swap-in waits at least that long
HOT = 0.6  # of what programs have, the part that they use in each hour; a tenth is random
LEFT = 8  # pages that programs leave free in their guest
MOST_VMS = 24
OWN = "own"  # a manager of the learner's
MOST_NAME = 40

PROFILES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {  # part of its memory that a VM's programs use, every two hours from midnight on
        "office": (0.25, 0.25, 0.25, 0.30, 0.60, 0.80, 0.75, 0.90, 0.80, 0.50, 0.30, 0.25),
        "night": (0.80, 0.90, 0.85, 0.40, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.30, 0.60),
        "evening": (0.50, 0.30, 0.25, 0.25, 0.25, 0.30, 0.40, 0.40, 0.50, 0.80, 0.90, 0.80),
        "steady": (0.60,) * 12,
    }
)
"""Made up for the lesson: peaks at 14:00, at 2:00, at 20:00, and none."""

LOADS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mixed": ("office", "office", "night", "evening", "steady"),
        "office": ("office",),
        "steady": ("steady",),
    }
)
MANAGERS: Mapping[str, Callable[[], Manager]] = MappingProxyType(
    {
        "none": lambda: none,
        "mom": Mom,
        "esx": lambda: Esx(step=PAGE_KIB),
        "proportional": lambda: proportional,
    }
)
CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "reserved": (512, 2048, 4096),
        "flavour": (2048, 4096, 8192),
        "swap": (0, 8, 32),
        "manager": (*MANAGERS, OWN),
        "pattern": tuple(LOADS),
        "ksm": (False, True),
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A host and what is asked of it; sizes are MiB, swap GiB.  Raises `BadChoice`."""

    ratio: float = 1.5
    wanted: int = 16
    reserved: int = 512
    flavour: int = 4096
    swap: int = 8
    manager: str = "none"
    pattern: str = "mixed"
    ksm: bool = False
    names: str = ""  # separated by commas; the rest are vm1, vm2, ...

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                offered = ", ".join(map(str, allowed))
                raise BadChoice(f"{name} is one of {offered}, not {getattr(self, name)!r:.40}")
        if not 1.0 <= self.ratio <= 3.0:
            raise BadChoice(f"a ratio from 1.0 to 3.0, not {self.ratio!r:.20}")
        if not 1 <= self.wanted <= MOST_VMS:
            raise BadChoice(f"from 1 to {MOST_VMS} VMs, not {self.wanted!r:.20}")
        named = self.given
        if len(set(named)) < len(named) or any(len(one) > MOST_NAME for one in named):
            raise BadChoice(f"names are different, of at most {MOST_NAME} letters, with , between")

    @classmethod
    def of(cls, plan: Plan) -> "Setting":
        """The part of a lab's plan that is a setting."""
        return cls(**{one.name: plan[one.name] for one in fields(cls)})  # type: ignore[arg-type]

    @property
    def given(self) -> list[str]:
        """The names that were given."""
        return [one.strip() for one in self.names.split(",") if one.strip()]

    def called(self) -> list[str]:
        """A name for each VM wanted, all different."""
        given = self.given[: self.wanted]
        usual = (f"vm{n}" for n in range(1, self.wanted + len(given) + 1))
        free = [one for one in usual if one not in given]
        return given + free[: self.wanted - len(given)]


def usual_plan() -> dict[str, object]:
    """The plan of a lab in which nothing was chosen yet."""
    return {**asdict(Setting()), "chart": "memory", "did": [], "language": "en"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One VM at one time; pages."""

    name: str
    profile: str
    alive: bool
    pages: int  # that were promised to it
    used: int
    rss: int
    host_swap: int
    guest_swap: int
    balloon: int
    refaults: int  # its pages that came back from either swap, so far


@dataclass(frozen=True, slots=True)
class Tick:
    """The host at one time, and what happened in the hour before; pages."""

    hour: int
    free: int
    rss: int
    used: int  # by the programs in all guests
    swapped: int  # slots in use of the host's swap
    balloons: int
    merged: int  # KSM's pages_sharing
    swap_in: int
    swap_out: int
    guest_in: int  # pages that guests read from their own swap
    killed: tuple[str, ...]
    vms: tuple[Sample, ...]


@dataclass(slots=True)
class Placed:
    """What nova did: who found room, and what was said to the first who did not."""

    inventory: Inventory
    names: list[str] = field(default_factory=list)
    refusal: str = ""


def placement(setting: Setting) -> Placed:
    """Ask nova's filter for each VM in turn."""
    found = Placed(Inventory("compute1", HOST_MIB, setting.reserved, setting.ratio))
    for name in setting.called():
        found.refusal = found.inventory.refusal(name, setting.flavour) or found.refusal
        try:
            place([found.inventory], name, setting.flavour)
        except PlacementError:
            break
        found.names.append(name)
    return found


class Day:
    """The experiment: `run` lets a day pass, an hour at a time; ``ticks`` is what was seen."""

    def __init__(self, setting: Setting, manager: Manager | None = None, *, pool: int = 0) -> None:
        """``manager`` is the learner's own, used where ``setting`` says so; else `BadChoice`.

        ``pool`` MiB are set aside as huge pages for others; raises `BadSize` if the host has less.
        """
        self.setting, self.ticks = setting, list[Tick]()
        self.placed = placement(setting)
        if setting.manager == OWN and manager is None:
            raise BadChoice("no manager of your own was given: labs.overcommit(manager=function)")
        named = MANAGERS.get(setting.manager, lambda: none)
        self._manager = manager if manager and setting.manager == OWN else named()
        host_pages = HOST_MIB // PAGE_MIB
        self.stat, self.kills = VmStat(), list[OomKill]()
        self.host = Host(
            Ram((1 << 20) + host_pages * 4096),
            silent,
            swap=setting.swap * 1024 // PAGE_MIB * 4096,
            min_free_kbytes=32,
        )
        self.host.memory.listen(self._hear)
        self.host.memory.alloc_pages(Role.KERNEL, HOST_OWN)
        self.host.memory.alloc_pages(Role.HUGETLB, _pages_of(pool))
        profiles = LOADS[setting.pattern]
        image = IMAGE if setting.ksm else 0
        pages = setting.flavour // PAGE_MIB
        self.vms = [Vm(self.host, name, pages, image=image) for name in self.placed.names]
        names = enumerate(self.placed.names)
        self.profile = {name: profiles[n % len(profiles)] for n, name in names}
        choose = np.random.default_rng(1)
        self._lean = {vm.name: choose.uniform(0.9, 1.0) for vm in self.vms}
        self._choose = choose
        self._active = dict.fromkeys(self.placed.names, 0.0)
        if setting.ksm:
            self.host.ksm.run = 1
            for vm in self.vms:
                vm.merge()

    def run(self) -> Iterator[Tick]:
        """One hour after the other, from midnight on."""
        for hour in range(HOURS + 1):
            yield self._tick(hour)

    def _tick(self, hour: int) -> Tick:
        before, kills = dict(self.stat.fields()), len(self.kills)
        guests_in = self._guest_in()
        for vm in self.vms:
            if vm.space.alive:
                self._live(vm, hour)
        self.host.memory.balance()
        self._manage()
        if self.setting.ksm:
            self.host.ksm.scan(KSM_SCAN)
        swap = self.host.memory.swap
        vms = tuple(self._sample(vm) for vm in self.vms)
        tick = Tick(
            hour=hour,
            free=self.host.buddy.free_frames,
            rss=sum(one.rss for one in vms),
            used=sum(one.used for one in vms),
            swapped=swap.total - swap.free,
            balloons=sum(one.balloon for one in vms),
            merged=self.host.ksm.pages_sharing,
            swap_in=self.stat["pswpin"] - before.get("pswpin", 0),
            swap_out=self.stat["pswpout"] - before.get("pswpout", 0),
            guest_in=self._guest_in() - guests_in,
            killed=tuple(one.victim for one in self.kills[kills:]),
            vms=vms,
        )
        self.ticks.append(tick)
        return tick

    def _guest_in(self) -> int:
        return sum(vm.stat["pswpin"] for vm in self.vms)

    def _live(self, vm: Vm, hour: int) -> None:
        """An hour of a VM's programs: they take or free memory, and use some of it."""
        points = PROFILES[self.profile[vm.name]]
        part = float(np.interp(hour / 2 % 12, range(13), (*points, points[0])))
        room = vm.pages - vm.own - LEFT
        used = min(int(part * self._lean[vm.name] * vm.pages), room)
        hot = int(used * HOT)
        some = self._choose.integers(0, max(used, 1), used // 10)
        pages = np.unique(np.concatenate([np.arange(hot), some]))
        try:
            vm.resize(used)
            vm.touch(pages[pages < used])
        except ProcessKilled:
            return
        self._active[vm.name] = min(len(pages) / max(vm.current, 1), 1.0)

    def _manage(self) -> None:
        """Rounds of the manager until it changes nothing."""
        for _ in range(ROUNDS):
            running = {vm.name: vm for vm in self.vms if vm.space.alive}
            host = HostSample(HOST_MIB << 10, self.host.buddy.free_frames * PAGE_KIB)
            guests = [self._guest(vm) for vm in running.values()]
            targets = checked(self._manager(host, guests), guests)
            moves = {name: size // PAGE_KIB for name, size in targets.items()}
            moves = {name: left for name, left in moves.items() if left != running[name].current}
            if not moves:
                return
            for name, left in moves.items():
                running[name].balloon(left)

    def _guest(self, vm: Vm) -> GuestSample:
        whole = vm.pages * PAGE_KIB
        return GuestSample(
            vm.name,
            vm.current * PAGE_KIB,
            vm.unused * PAGE_KIB,
            whole,
            minimum=whole // 4,
            active=self._active[vm.name],
        )

    def _sample(self, vm: Vm) -> Sample:
        alive, swap = vm.space.alive, vm.memory.swap
        return Sample(
            name=vm.name,
            profile=self.profile[vm.name],
            alive=alive,
            pages=vm.pages,
            used=vm.used if alive else 0,
            rss=vm.space.rss,
            host_swap=vm.space.swap_entries,
            guest_swap=swap.total - swap.free if alive else 0,
            balloon=vm.pages - vm.current if alive else 0,
            refaults=vm.refaults + vm.stat["pswpin"],
        )

    def _hear(self, record: object) -> None:
        self.stat(record)
        if isinstance(record, OomKill):
            self.kills.append(record)


def _pages_of(pool: int) -> int:
    """Pages that a pool of so many MiB takes."""
    if type(pool) is not int or not 0 <= pool <= HOST_MIB // 2:
        raise BadSize(f"a pool of {pool!r:.20} MiB; write 0 to {HOST_MIB // 2}")
    return -(-pool // PAGE_MIB)
