"""What guests with a balloon did, and what libvirt saw of them: each run once, results kept."""

from dataclasses import dataclass
from functools import cache

from kvmlab.base.clock import SECOND
from kvmlab.base.errors import KvmlabError
from kvmlab.course.runs import AREA
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.records import BalloonMoved, OutOfPuff
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine, Server, connect
from kvmlab.machine.libvirtd import boot_linux
from kvmlab.management import libvirt
from kvmlab.management.connection import virConnect
from kvmlab.management.virsh import virsh
from kvmlab.qemu.balloon import Balloon, BalloonOptions
from kvmlab.qemu.records import BalloonServed

_MIB, _PAGE = 1 << 20, 4096
_KIB = 4  # in a page
GUEST = 8
"""MiB of the guests here: small, so that thousands of questions cost seconds."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A guest with a balloon: what happens in it before, and what it is asked for; in pages."""

    target: int  # KiB left to the guest
    touched: int = 0  # by a program
    kept: bool = False  # and not given back to the guest's kernel
    pinned: int = 0  # by the kernel itself
    host_page: str = "4K"
    driver: bool = True
    on_oom: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it; KiB where no unit is said."""

    actual: int
    freed: int  # that the host really got back
    buffers: int  # arrays of page frame numbers sent
    total: int  # by which MemTotal fell
    stalled: bool
    rss: int


@dataclass(frozen=True, slots=True)
class _Run:
    machine: Machine
    records: list[object]

    @property
    def rss(self) -> int:
        assert self.machine.vmm is not None  # noqa: S101  these guests are virtual
        return self.machine.vmm.process.rss * _KIB

    def ask(self, target: int) -> None:
        """``setmem``: the balloon command, and five seconds for the guest."""
        assert self.machine.vmm is not None  # noqa: S101  likewise
        request = {"execute": "balloon", "arguments": {"value": target << 10}}
        self.machine.vmm.monitor.execute(request)
        self.machine.clock.sleep(5 * SECOND)

    def touch(self, first: int, pages: int) -> None:
        for number in range(first, first + pages):
            self.machine.guest.touch(AREA + number * _PAGE, Kind.WRITE)


def _started(setting: Setting) -> _Run:
    records: list[object] = []

    def tap(record: object) -> None:
        if isinstance(record, (BalloonMoved, BalloonServed, OutOfPuff)):
            records.append(record)

    machine = Machine(
        guest_memory=GUEST * _MIB, host_memory="32M", host_page=setting.host_page, tap=tap
    )
    machine.attach_balloon(BalloonOptions(deflate_on_oom=setting.on_oom), driver=setting.driver)
    return _Run(machine, records)


@cache
def ballooned(setting: Setting) -> Outcome:
    """Start the guest, let it use memory, ask it to shrink, and wait."""
    run = _started(setting)
    guest = run.machine.guest
    process = guest.spawn("program")
    guest.switch(process)
    process.mmap(AREA, _MIB)
    run.touch(0, setting.touched)
    if not setting.kept:
        process.munmap(AREA)
    guest.frames.take(setting.pinned)
    total = guest.frames.managed
    run.ask(setting.target)
    assert run.machine.balloon is not None  # noqa: S101  it was attached
    return Outcome(
        actual=run.machine.balloon.left >> 10,
        freed=sum(one.freed for one in run.records if isinstance(one, BalloonServed)) >> 10,
        buffers=sum(isinstance(one, BalloonMoved) for one in run.records),
        total=(total - guest.frames.managed) * _KIB,
        stalled=any(isinstance(one, OutOfPuff) for one in run.records),
        rss=run.rss,
    )


@cache
def _device(memory: int) -> Balloon:
    """The balloon of a guest of ``memory`` MiB without a driver."""
    machine = Machine(guest_memory=memory * _MIB, host_memory=(memory + 64) * _MIB)
    return machine.attach_balloon(driver=False)


def target_pages(memory: int, left: int) -> int:
    """``num_pages`` after the command to leave ``left`` MiB to a guest of ``memory`` MiB."""
    device = _device(memory)
    device.set_target(left * _MIB)  # each target is set anew, whatever was asked before
    return device.num_pages


@cache
def deflated(touched: int, again: int) -> tuple[int, int]:
    """By how many KiB RSS grows when a balloon is deflated, then when ``again`` pages are used."""
    run = _started(Setting(0))
    guest = run.machine.guest
    process = guest.spawn("program")
    guest.switch(process)
    process.mmap(AREA, _MIB)
    run.touch(0, touched)
    process.munmap(AREA)
    run.ask(2 << 10)
    run.ask(3 << 10)  # so that the deflate queue's own pages are backed
    before = run.rss
    run.ask(GUEST << 10)
    grown = run.rss - before
    process.mmap(AREA, _MIB)
    run.touch(0, again)
    return grown, run.rss - before


@cache
def starved(balloon: int, more: int, *, on_oom: bool) -> tuple[bool, int]:
    """Let the guest's kernel ask for ``more`` pages while a balloon holds ``balloon`` KiB.

    Returns whether it got them all, and the KiB that the balloon holds then.
    """
    run = _started(Setting(0, on_oom=on_oom))
    run.ask((GUEST << 10) - balloon)
    frames = run.machine.guest.frames
    served = True
    with run.machine.guest.contexts.entered():
        try:
            for _ in range(more):
                frames.alloc()
        except KvmlabError:
            served = False
    assert run.machine.balloon is not None  # noqa: S101  it was attached
    return served, (GUEST << 10) - (run.machine.balloon.left >> 10)


# -- through libvirt ------------------------------------------------------------------------

_XML = """<domain type='kvm'><name>vm</name><memory unit='MiB'>{memory}</memory><os><type>hvm</type>
</os><devices><memballoon model='virtio'><stats period='{period}'/></memballoon></devices>
</domain>"""
_POLLED = 16  # MiB


@dataclass(frozen=True, slots=True)
class Seen:
    """A moment of a domain: what virsh prints, and in KiB what is so in the guest."""

    second: int
    text: str
    stats: tuple[tuple[str, int], ...]
    free: int
    used: int


@cache
def seen(period: int) -> tuple[Seen, ...]:
    """Forty seconds of a domain, polled every ``period``, whose use of memory changes."""
    server, machines = Server("64M"), list[Machine]()

    def boot(machine: Machine) -> None:
        machines.append(machine)
        boot_linux(machine)

    connection = connect(server, boot=boot)
    domain = connection.createXML(_XML.format(memory=_POLLED, period=period))
    (machine,) = machines
    guest = machine.guest
    process = guest.spawn("program")
    guest.switch(process)
    process.mmap(AREA, _MIB)
    found = []
    for second in range(1, 41):
        guest.frames.take(11 + 37 * second % 29)
        for page in range(3 * second, 3 * second + 3):
            guest.touch(AREA + page * _PAGE, Kind.WRITE)
        server.clock.sleep(SECOND)
        if second % 10 == 0:
            domain.setMemory((_POLLED << 10) - 150 * second)
            server.clock.sleep(0)
        found.append(_moment(connection, machine, second))
    return tuple(found)


def _moment(connection: virConnect, machine: Machine, second: int) -> Seen:
    text = virsh(connection, "dommemstat vm").out.strip()
    stats = tuple((name, int(value)) for name, value in map(str.split, text.splitlines()))
    reclaimer = machine.guest.frames.manager
    assert isinstance(reclaimer, Reclaimer)  # noqa: S101  boot_linux attached it
    info = reclaimer.meminfo()
    return Seen(second, text, stats, info["MemFree"], info["MemTotal"] - info["MemFree"])


@cache
def set_memory(size: str) -> tuple[int | None, str]:
    """The KiB that ``virsh setmem`` leaves a guest of 8 GiB, or None and what it says."""
    connection = libvirt.open("test:///default")
    printed = virsh(connection, f"setmem test {size}")
    if printed.status:
        return None, printed.err.strip().splitlines()[-1]
    return connection.lookupByName("test").info()[2], ""
