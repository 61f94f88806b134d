"""A guest with a balloon on a server of its own: what is done to it, and what comes of it.

Each deed leaves `Moment`s: what stood before, one for each buffer of the ring and for whatever
else happened, and what stands after.  All numbers are the engine's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice, ProcessKilled
from kvmlab.guest.process import Process
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.hardware.records import Kind
from kvmlab.linux.frames import Role, runs
from kvmlab.machine import Machine, Server, connect
from kvmlab.management.virsh import virsh
from kvmlab.study.inflation_beginning import DOMAIN, MIB, RAM, Beginning, stats_of_2014
from kvmlab.study.inflation_moments import ept_of, mapped_pages
from kvmlab.study.inflation_watch import Watch
from kvmlab.study.story import Verb

HOST_MEMORY = "64M"
AREA = 0x1000_0000  # where the process has its memory
WORKING = 256  # pages of the working set
STEP = 2  # MiB that a process takes at a time
MOST_SECONDS = 3600


class Inflation(Watch):
    """The experiment.  ``moments`` are those of the last deed, ``history`` all of them."""

    def __init__(self, beginning: Beginning) -> None:
        super().__init__(RAM)
        self.beginning = beginning
        self.server = Server(HOST_MEMORY)
        if beginning.backing == "2M":
            self.server.host.hugetlb[21].set_nr(RAM // (2 * MIB))
        self.connection = connect(self.server, boot=self._boot)
        self.domain = self.connection.createXML(beginning.xml)
        self.process: Process | None = None
        self._taken: list[int] = []  # where each mapping that grew begins
        self._file_pages = 0
        self._load()
        self.server.clock.sleep(SECOND)
        self.listening = True
        self._end()

    # -- the beginning ----------------------------------------------------------------------

    def _boot(self, machine: Machine) -> None:
        """A Linux whose memory was in use before, as far as ``touched`` says."""
        self.machine = machine
        self.guest = Reclaimer(machine.guest, swap=self.beginning.swap * MIB, tap=self.hear)
        self.guest.start(machine.clock)
        ept_of(machine).pre_fault(0, self.beginning.touched * MIB)
        assert machine.balloon is not None  # noqa: S101  its definition names one
        machine.balloon.listen(self.hear)
        if self.beginning.driver != "none":
            self._load_driver()

    def _load_driver(self) -> None:
        told = self.guest.statistics
        stats = stats_of_2014(told) if self.beginning.driver == "2014" else told
        self.machine.load_balloon_driver(stats=stats).listen(self.hear)

    def _load(self) -> None:
        if self.beginning.process:
            self._map(self.beginning.process)
        for _ in range(self.beginning.cache * MIB // PAGE_SIZE):
            self.guest.cache.page(1, self._file_pages)
            self._file_pages += 1
        self._touch(Role.FILE)

    # -- deeds ------------------------------------------------------------------------------

    def setmem(self, kib: int) -> None:
        """``virsh setmem``, and one second; raises what virsh says if it is refused."""
        with self._doing("setmem", kib):
            printed = virsh(self.connection, f"setmem {DOMAIN} {kib}")
            if printed.status:
                raise BadChoice(printed.err.strip().removeprefix("error: "))
            self.server.clock.sleep(SECOND)

    def wait(self, seconds: int) -> None:
        """Let so much time pass; raises `BadChoice`."""
        if not 0 < seconds <= MOST_SECONDS:
            raise BadChoice(f"wait from 1 to {MOST_SECONDS} seconds, not {seconds}")
        with self._doing("wait", seconds):
            self.server.clock.sleep(seconds * SECOND)

    def grow(self) -> None:
        """A process of the guest takes `STEP` MiB more and writes to all of it."""
        with self._doing("grow", STEP), self._survived():
            self._map(STEP)

    def shrink(self) -> None:
        """It gives back what it took last; raises `BadChoice` if there is nothing."""
        if self.process is None or not self._taken:
            raise BadChoice("no process has anything to free; let one take memory first")
        with self._doing("shrink"):
            self.process.munmap(self._taken.pop())

    def read(self) -> None:
        """A MiB of a file that was not read before comes into the page cache."""
        with self._doing("read", 1), self._survived():
            self._read(1)

    def work(self) -> None:
        """The process uses its working set: `WORKING` pages from its first on."""
        if self.process is None or not self._taken:
            raise BadChoice("no process has memory to work with; let one take some first")
        with self._doing("work", WORKING), self._survived():
            for page in range(WORKING):
                self.machine.guest.touch(self._taken[0] + page * PAGE_SIZE, Kind.READ)

    def period(self, seconds: int) -> None:
        """``virsh dommemstat --period``; raises `BadChoice` in virsh's words."""
        with self._doing("period", seconds):
            printed = virsh(self.connection, f"dommemstat {DOMAIN} --period {seconds}")
            if printed.status:
                raise BadChoice(printed.err.strip().removeprefix("error: "))
            self.server.clock.sleep(SECOND)

    def modprobe(self) -> None:
        """Load the balloon's driver; raises `BadChoice` if it is loaded."""
        with self._doing("modprobe"):
            self._load_driver()
            self.server.clock.sleep(SECOND)

    @contextmanager
    def _doing(self, *deed: object) -> Iterator[None]:
        self.begin(*deed)
        yield
        self._end()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """What is done in it may cost the process its life: then there is none any more."""
        try:
            yield
        except ProcessKilled:
            self.process = None
            self._taken.clear()

    def _end(self) -> None:
        """The deed is done: what stands now, and what virsh prints."""
        self.end(virsh(self.connection, f"dommemstat {DOMAIN}").out)

    def _map(self, mib: int) -> None:
        kernel = self.machine.guest
        if self.process is None:
            self.process = kernel.spawn("app")
        kernel.switch(self.process)
        start = max((vma.end for vma in self.process.vmas), default=AREA)
        self._taken.append(start)
        self.process.mmap(start, mib * MIB, populate=True)
        self._touch(Role.ANON)

    def _touch(self, role: Role) -> None:
        """The guest uses such pages that it has: the EPT violations of that, taken in one go.

        KVM_PRE_FAULT_MEMORY leaves the same EPT and the same host frames as page after page.
        """
        pages = self.guest.memory.frames.with_role(role)
        holes = pages[~mapped_pages(self.machine, RAM)[pages]]
        for first, count in runs(holes):
            ept_of(self.machine).pre_fault(first << PAGE_SHIFT, count << PAGE_SHIFT)

    def _read(self, mib: int) -> None:
        for _ in range(mib * MIB // PAGE_SIZE):
            self.guest.cache.read(1, self._file_pages)
            self._file_pages += 1


VERBS: Mapping[str, Verb[Inflation]] = MappingProxyType(
    {
        "setmem": Verb(Inflation.setmem, (int,)),
        "wait": Verb(Inflation.wait, (int,)),
        "grow": Verb(Inflation.grow),
        "shrink": Verb(Inflation.shrink),
        "read": Verb(Inflation.read),
        "work": Verb(Inflation.work),
        "period": Verb(Inflation.period, (int,)),
        "modprobe": Verb(Inflation.modprobe),
    }
)
"""What can be done to it."""
