"""libvirtd on a server: it starts a machine for each domain and speaks to it through QMP.

libvirt, src/qemu/qemu_process.c; what a definition asks of QEMU in qemu_command.c.
"""

from collections.abc import Callable, Collection
from functools import partial

from kvmlab.base.checks import expect, expect_callable
from kvmlab.base.errors import BadChoice, KvmlabError, OutOfMemory, ProcessKilled
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.host.address_space import AddressSpace
from kvmlab.machine.machine import Machine
from kvmlab.machine.server import Server
from kvmlab.management.connection import virConnect
from kvmlab.management.domain import virDomain
from kvmlab.management.domain_xml import Definition
from kvmlab.management.drivers import LATEST, QemuDriver
from kvmlab.management.libvirt_errors import internal
from kvmlab.qemu.balloon import BalloonOptions

Boot = Callable[[Machine], None]
"""What runs in a guest once its kernel is up: the balloon's driver, programs."""

_HUGE = 2048  # KiB: the default huge page of x86


def boot_linux(machine: Machine) -> None:
    """A current Linux: memory is reclaimed, and the balloon's driver tells all it knows."""
    reclaimer = Reclaimer(machine.guest)
    reclaimer.start(machine.clock)
    if machine.balloon:
        machine.load_balloon_driver(stats=reclaimer.statistics)


class Emulator:
    """The QEMU of one domain (management/drivers.py)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def _process(self) -> AddressSpace:
        assert self.machine.vmm is not None  # noqa: S101  a domain has a hypervisor
        return self.machine.vmm.process

    @property
    def alive(self) -> bool:
        """Whether the process still is: the host's OOM killer may have taken it."""
        return self._process.alive

    def qmp(self, request: dict[str, object]) -> dict[str, object]:
        """One QMP request to its monitor; raises `libvirtError` if that costs QEMU its life."""
        assert self.machine.vmm is not None  # noqa: S101  likewise
        try:
            answer = self.machine.vmm.monitor.execute(request)
        except ProcessKilled as error:
            raise internal("End of file from qemu monitor") from error
        self.machine.clock.sleep(0)  # the guest hears of it at once
        return answer

    def rss(self) -> int:
        """Resident KiB: the guest's memory that the host backs.

        QEMU's own code and heap, some 50 to 200 MiB of a real one, are not simulated.
        """
        return self._process.rss * 4

    def cpu_time(self) -> int:
        """0: processor time is not simulated, and dominfo leaves its line out."""
        return 0

    def stop(self) -> None:
        """The process ends and its memory goes back to the host."""
        self.machine.power_off()


def connect(
    server: Server,
    *,
    boot: Boot = boot_linux,
    lib_version: int = LATEST,
    hugetlbfs: Collection[int] = (_HUGE, 1 << 20),
) -> virConnect:
    """A connection ``qemu:///system`` to ``server``, as libvirt-python's `open` returns one.

    ``boot`` is what its guests run; ``lib_version`` that of libvirt, 9.0.0 as 9000000.
    ``hugetlbfs`` are the page sizes in KiB of the mounts that it may use, qemu.conf's
    ``hugetlbfs_mount``; none disables huge pages.  Raises `BadChoice` for values of other types.
    """
    expect("server", server, Server, "a Server")
    expect_callable("boot", boot, "a function of a machine")
    expect("lib_version", lib_version, int, "a number such as 9000000")
    expect("hugetlbfs", hugetlbfs, (tuple, list, set, frozenset), "page sizes in KiB")
    mib = server.ram.size >> 20
    node: list[object] = ["x86_64", mib, 1, 0, 1, 1, 1, 1]
    memory = partial(_node_memory, server)
    driver = QemuDriver(partial(_launch, server, boot, hugetlbfs), node, memory, lib_version)
    return virConnect(driver, "qemu:///system")


def machine_of(domain: virDomain) -> Machine:
    """The machine that ``domain`` runs on; raises `BadChoice` unless it does, on a server."""
    emulator = getattr(domain.run, "emulator", None)
    if not isinstance(emulator, Emulator):
        raise BadChoice(
            f"domain {domain.name()!r:.40} runs on no simulated host; "
            "start one of connect(Server(...))"
        )
    return emulator.machine


def _launch(
    server: Server, boot: Boot, hugetlbfs: Collection[int], definition: Definition
) -> Emulator:
    """Start QEMU with the memory, the backing and the balloon that ``definition`` names."""
    host_page = _host_page(hugetlbfs, definition)
    try:
        machine = Machine(
            guest_memory=definition.memory << 10,
            host_page=host_page,
            vcpus=definition.vcpus,
            server=server,
            tap=server.tap,
        )
    except OutOfMemory as error:
        raise internal(f"process exited while connecting to monitor: {error}") from error
    except KvmlabError as error:
        raise internal(f"qemu unexpectedly closed the monitor: {error}") from error
    if balloon := definition.balloon:
        options = BalloonOptions(
            deflate_on_oom=balloon.autodeflate == "on",
            free_page_reporting=balloon.free_page_reporting == "on",
        )
        machine.attach_balloon(options, driver=False)
    try:
        boot(machine)
    except KvmlabError as error:
        machine.power_off()
        raise internal(f"qemu unexpectedly closed the monitor: {error}") from error
    server.clock.sleep(0)
    return Emulator(machine)


def _host_page(hugetlbfs: Collection[int], definition: Definition) -> int:
    """The page size in bytes that backs the guest: 4 KiB, or that of a mounted hugetlbfs.

    libvirt, qemu_conf.c: qemuGetDomainHupageMemPath().
    """
    asked = definition.hugepage
    if asked is None:
        return 4096
    if not hugetlbfs:
        raise internal("hugetlbfs filesystem is not mounted or disabled by administrator config")
    if (asked or _HUGE) not in hugetlbfs:
        raise internal(f"Unable to find any usable hugetlbfs mount for {asked or _HUGE} KiB")
    return (asked or _HUGE) << 10


def _node_memory(server: Server) -> dict[str, int]:
    """virNodeGetMemoryStats(): what libvirt reads in /proc/meminfo, in KiB."""
    found = server.host.meminfo()
    names = {"total": "MemTotal", "free": "MemFree", "buffers": "Buffers", "cached": "Cached"}
    return {name: found[field] for name, field in names.items()}
