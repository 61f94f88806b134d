"""What starts a domain, and what libvirt asks of a running one: the drivers below the API.

`TestDriver` is libvirt's own ``test:///default``: it runs nothing and answers with numbers made
of the definition (libvirt, src/test/test_driver.c).  `QemuDriver` speaks QMP to a QEMU
(src/qemu/qemu_driver.c: qemuDomainMemoryStatsInternal(); qemu_monitor_json.c).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kvmlab.management.domain_xml import Definition
from kvmlab.management.libvirt_errors import internal, libvirtError, not_valid

LATEST = 9_000_000  # libvirt 9.0.0 as virGetVersion() counts
_UNKNOWN = (1 << 64) - 1  # QEMU's word for a statistic that the guest did not send
_NO_BALLOON = frozenset({"DeviceNotActive", "KVMMissingCap"})

# libvirt's name, QEMU's, whether it is bytes, and the first libvirt that knows it.
_STATISTICS = (
    ("swap_in", "stat-swap-in", True, 0),
    ("swap_out", "stat-swap-out", True, 0),
    ("major_fault", "stat-major-faults", False, 0),
    ("minor_fault", "stat-minor-faults", False, 0),
    ("unused", "stat-free-memory", True, 0),
    ("available", "stat-total-memory", True, 0),
    ("usable", "stat-available-memory", True, 2_001_000),
    ("last_update", "last-update", False, 2_001_000),
    ("disk_caches", "stat-disk-caches", True, 4_006_000),
    ("hugetlb_pgalloc", "stat-htlb-pgalloc", False, 5_004_000),
    ("hugetlb_pgfail", "stat-htlb-pgfail", False, 5_004_000),
)


class Running(Protocol):
    """A domain that runs, as its driver sees it."""

    @property
    def alive(self) -> bool:
        """Whether it still does: the host may have killed it."""

    def memory_stats(self) -> dict[str, int]:
        """The statistics by libvirt's names, in libvirt's order; KiB and counts."""

    def set_memory(self, size: int) -> None:
        """Ask for a balloon that leaves ``size`` KiB; it is the guest that must act."""

    def set_stats_period(self, seconds: int) -> None:
        """Collect the guest's statistics so often; 0 stops."""

    def current_memory(self) -> int:
        """What the balloon leaves to the guest now, in KiB."""

    def cpu_time(self) -> int:
        """Nanoseconds of processor time."""

    def stop(self) -> None:
        """Pull the plug."""


class Driver(Protocol):
    """Where domains run."""

    scheme: str  # of the URI: "test", "qemu"
    domain_type: str
    os_type: str
    lib_version: int
    both_flags: bool  # whether LIVE and CONFIG may be asked for in one call
    security: tuple[str, ...]  # what dominfo says of a running domain's label

    def start(self, definition: Definition) -> Running:
        """Run a domain; raises `libvirtError`."""

    def node_info(self) -> list[object]:
        """virNodeGetInfo(): arch, MiB, CPUs, MHz, NUMA nodes, sockets, cores, threads."""

    def node_memory(self) -> dict[str, int] | None:
        """virNodeGetMemoryStats() in KiB; None where the driver has no such call."""

    def idle_cpu_time(self) -> int:
        """The CPU time in ns that a domain shows while it is shut off."""


# -- test:///default ----------------------------------------------------------------------


@dataclass(slots=True)
class _Pretended:
    """A domain of the test driver: numbers made of its definition."""

    definition: Definition
    clock: Callable[[], int]
    alive: bool = True

    def memory_stats(self) -> dict[str, int]:
        if self.definition.balloon is None:
            return {}
        current = self.definition.current_memory
        made = dict.fromkeys((name for name, *_ in _STATISTICS), 0)
        made |= {
            "available": current,
            "unused": current // 2,
            "usable": current // 2,
            "disk_caches": current // 8,
            "last_update": 627319920,  # a date of its authors' choice
        }
        return {"actual": current, **made, "rss": current // 2}

    def set_memory(self, size: int) -> None:
        self.definition.current_memory = size

    def set_stats_period(self, seconds: int) -> None:
        """Nothing to collect from."""

    def current_memory(self) -> int:
        return self.definition.current_memory

    def cpu_time(self) -> int:
        return self.clock()

    def stop(self) -> None:
        self.alive = False


@dataclass(slots=True)
class TestDriver:
    """libvirt's test driver; ``clock`` gives the nanoseconds that it shows as CPU time."""

    clock: Callable[[], int]
    scheme: str = "test"
    domain_type: str = "test"
    os_type: str = "linux"
    lib_version: int = LATEST
    both_flags: bool = False
    security: tuple[str, ...] = ("testSecurity", "", "libvirt-test (enforcing)")

    def start(self, definition: Definition) -> Running:
        """A domain that only says it runs."""
        return _Pretended(definition, self.clock)

    def node_info(self) -> list[object]:
        """The host that the test driver makes up: 16 CPUs and 3 GiB on two nodes."""
        return ["i686", 3072, 16, 1400, 2, 2, 2, 2]

    def node_memory(self) -> None:
        """Not supported there."""

    def idle_cpu_time(self) -> int:
        """The wall clock, as for a running one."""
        return self.clock()


# -- QEMU ---------------------------------------------------------------------------------


class Emulator(Protocol):
    """A QEMU process, as libvirt holds it: its monitor, and what /proc says of it."""

    @property
    def alive(self) -> bool:
        """Whether the process still is."""

    def qmp(self, request: dict[str, object]) -> dict[str, object]:
        """One QMP request; the response has ``return`` or ``error`` ({class, desc})."""

    def rss(self) -> int:
        """Resident set in KiB."""

    def cpu_time(self) -> int:
        """Nanoseconds of processor time."""

    def stop(self) -> None:
        """SIGTERM."""


Launcher = Callable[[Definition], Emulator]


@dataclass(slots=True)
class _Guest:
    """A domain of the QEMU driver."""

    definition: Definition
    emulator: Emulator
    lib_version: int
    balloon_path: str = "/machine/peripheral/balloon0"

    @property
    def alive(self) -> bool:
        return self.emulator.alive

    def memory_stats(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if self.definition.balloon and (actual := self._actual()) is not None:
            found["actual"] = actual
            found |= self._guest_stats()
        return {**found, "rss": self.emulator.rss()}

    def _actual(self) -> int | None:
        """query-balloon, in KiB; None where QEMU has no balloon.

        A guest may say that it has given more than it had: QEMU's number is negative then, and
        becomes what C makes of it (virJSONValueObjectGetNumberUlong()).
        """
        answer = self.emulator.qmp({"execute": "query-balloon"})
        error = answer.get("error")
        if isinstance(error, dict) and error["class"] in _NO_BALLOON:
            return None
        told = _returned(answer)
        assert isinstance(told, dict)  # noqa: S101  QMP's schema: BalloonInfo
        return int(told["actual"]) % (1 << 64) >> 10

    def _guest_stats(self) -> dict[str, int]:
        arguments = {"path": self.balloon_path, "property": "guest-stats"}
        told = _returned(self.emulator.qmp({"execute": "qom-get", "arguments": arguments}))
        assert isinstance(told, dict)  # noqa: S101  what the property holds
        values = {**told["stats"], "last-update": told["last-update"]}
        return {
            name: values[key] >> 10 if is_bytes else values[key]
            for name, key, is_bytes, since in _STATISTICS
            if since <= self.lib_version and values.get(key, _UNKNOWN) != _UNKNOWN
        }

    def set_memory(self, size: int) -> None:
        if not self.definition.balloon:
            raise not_valid(
                "Unable to change memory of active domain without the balloon device and "
                "guest OS balloon driver"
            )
        _returned(self.emulator.qmp({"execute": "balloon", "arguments": {"value": size << 10}}))

    def set_stats_period(self, seconds: int) -> None:
        if not self.definition.balloon:
            raise internal("No memory balloon device configured, can not set the collection period")
        arguments = {
            "path": self.balloon_path,
            "property": "guest-stats-polling-interval",
            "value": seconds,
        }
        _returned(self.emulator.qmp({"execute": "qom-set", "arguments": arguments}))

    def current_memory(self) -> int:
        actual = self._actual() if self.definition.balloon else None
        return self.definition.memory if actual is None else actual

    def cpu_time(self) -> int:
        return self.emulator.cpu_time()

    def stop(self) -> None:
        self.emulator.stop()


def _returned(answer: dict[str, object]) -> object:
    """What QMP returned; its error as libvirt passes it on."""
    error = answer.get("error")
    if isinstance(error, dict):
        raise internal(f"unable to execute QEMU command: {error['desc']}")
    return answer["return"]


@dataclass(slots=True)
class QemuDriver:
    """libvirt's QEMU driver over ``launch``.

    ``node`` is what virNodeGetInfo() says, ``memory`` gives what virNodeGetMemoryStats() does.
    ``lib_version`` is as virGetVersion() counts: older ones know fewer statistics.
    """

    launch: Launcher
    node: list[object]
    memory: Callable[[], dict[str, int]]
    lib_version: int = LATEST
    scheme: str = "qemu"
    domain_type: str = "kvm"
    os_type: str = "hvm"
    both_flags: bool = True
    security: tuple[str, ...] = ("none", "0")

    def start(self, definition: Definition) -> Running:
        """Launch QEMU; libvirt then sets the balloon and the period that the definition asks."""
        guest = _Guest(definition, self.launch(definition), self.lib_version)
        balloon = definition.balloon
        try:
            if balloon and definition.current_memory < definition.memory:
                guest.set_memory(definition.current_memory)
            if balloon and balloon.period:
                guest.set_stats_period(balloon.period)
        except libvirtError:
            guest.stop()
            raise
        return guest

    def node_info(self) -> list[object]:
        """The simulated host's."""
        return list(self.node)

    def node_memory(self) -> dict[str, int]:
        """The simulated host's /proc/meminfo: total, free, buffers, cached."""
        return self.memory()

    def idle_cpu_time(self) -> int:
        """None is spent while nothing runs."""
        return 0
