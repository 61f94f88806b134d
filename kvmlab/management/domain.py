"""libvirt's domain: the object that a learner's own program holds.

Names, argument order, return shapes and errors are libvirt-python's; what they do is in
libvirt's src/libvirt-domain.c and in the drivers.  Memory is in KiB.
"""

from typing import TYPE_CHECKING

from kvmlab.management.domain_xml import Definition, Memballoon, describe
from kvmlab.management.drivers import Running
from kvmlab.management.libvirt_errors import (
    VIR_ERR_INVALID_ARG,
    VIR_ERR_NO_DOMAIN,
    VIR_ERR_OVERFLOW,
    internal,
    invalid_argument,
    libvirtError,
    not_valid,
)
from kvmlab.management.scaled import LLONG_MAX, ULONG_MAX

if TYPE_CHECKING:
    from kvmlab.management.connection import virConnect

VIR_DOMAIN_RUNNING, VIR_DOMAIN_SHUTOFF = 1, 5
VIR_DOMAIN_AFFECT_CURRENT, VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_AFFECT_CONFIG = 0, 1, 2
VIR_DOMAIN_MEM_CURRENT, VIR_DOMAIN_MEM_LIVE, VIR_DOMAIN_MEM_CONFIG = 0, 1, 2
VIR_DOMAIN_MEM_MAXIMUM = 4
VIR_DOMAIN_XML_INACTIVE = 2
VIR_DOMAIN_RUNNING_BOOTED, VIR_DOMAIN_SHUTOFF_DESTROYED, VIR_DOMAIN_SHUTOFF_CRASHED = 1, 2, 3
UNLIMITED = 9007199254740991  # VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, in KiB
_TUNABLE = ("hard_limit", "soft_limit", "swap_hard_limit")


class virDomain:
    """One domain of a connection: its definition and, while it runs, its live state."""

    def __init__(self, connection: "virConnect", definition: Definition) -> None:
        self._connection, self._config = connection, definition
        self._live: Definition | None = None
        self._run: Running | None = None
        self._id, self._why_on, self._why_off = -1, 0, 0
        self._persistent = True
        self._gone = False

    # -- what it is ---------------------------------------------------------------------

    def name(self) -> str:
        """Its name."""
        return self._config.name

    def connect(self) -> "virConnect":
        """The connection that it is of."""
        return self._connection

    @property
    def run(self) -> Running | None:
        """The run of it that goes on, for those who look from outside; not libvirt's."""
        return self._running()

    def UUIDString(self) -> str:
        """Its UUID in lower case with hyphens."""
        return self._config.uuid

    def ID(self) -> int:
        """The number of this run; -1 while shut off."""
        return self._id if self._running() else -1

    def OSType(self) -> str:
        """What the driver calls the kind of guest: ``hvm``."""
        return self._connection.driver.os_type

    def isActive(self) -> int:
        """1 while it runs."""
        self._check()
        return int(self._running() is not None)

    def isPersistent(self) -> int:
        """1 if it is still defined when it does not run."""
        self._check()
        return int(self._persistent)

    def state(self, flags: int = 0) -> list[int]:
        """[state, reason]."""
        self._check()
        self._only(flags, 0, "GetState")
        if self._running():
            return [VIR_DOMAIN_RUNNING, self._why_on]
        return [VIR_DOMAIN_SHUTOFF, self._why_off]

    def info(self) -> list[int]:
        """[state, maximum KiB, current KiB, virtual CPUs, nanoseconds of CPU time]."""
        self._check()
        run = self._running()
        now = self._now()
        current = run.current_memory() if run else now.current_memory
        cpu_time = run.cpu_time() if run else self._connection.driver.idle_cpu_time()
        return [self.state()[0], now.memory, current, now.vcpus, cpu_time]

    def maxMemory(self) -> int:
        """The most it may have, in KiB."""
        self._check()
        return self._now().memory

    def XMLDesc(self, flags: int = 0) -> str:
        """Its definition: the live one while it runs, unless VIR_DOMAIN_XML_INACTIVE."""
        self._check()
        run = self._running()
        if run and self._live and not flags & VIR_DOMAIN_XML_INACTIVE:
            self._live.current_memory = run.current_memory()
            return describe(self._live, self._id)
        return describe(self._config)

    # -- life ---------------------------------------------------------------------------

    def create(self) -> int:
        """Start it; returns 0."""
        self._check()
        if self._running():
            raise internal(f"Domain '{self.name()}' is already running")
        self.begin(VIR_DOMAIN_RUNNING_BOOTED)
        return 0

    def begin(self, why: int) -> None:
        """Run it, for the reason that `state` is to tell."""
        live = self._config.copy()
        self._run = self._connection.driver.start(live)
        self._live, self._id, self._why_on = live, self._connection.next_id(), why

    def destroy(self) -> int:
        """Pull the plug; returns 0.  A domain that was not defined is gone then."""
        self._alive().stop()
        self._run = self._live = None
        self._why_off = VIR_DOMAIN_SHUTOFF_DESTROYED
        if not self._persistent:
            self._leave()
        return 0

    def undefine(self) -> int:
        """Forget the definition; a running domain goes on until it stops."""
        self._check()
        self._persistent = False
        if not self._running():
            self._leave()
        return 0

    def be_transient(self) -> None:
        """Keep no definition beyond this run (virDomainCreateXML)."""
        self._persistent = False

    def redefine(self, definition: Definition) -> None:
        """Take a new definition, in force from the next start."""
        self._config, self._persistent = definition, True

    def _leave(self) -> None:
        self._gone = True
        self._connection.forget(self)

    # -- memory -------------------------------------------------------------------------

    def memoryStats(self) -> dict[str, int]:
        """What virsh dommemstat prints; KiB, counts, and seconds since the epoch."""
        self._check()
        return self._alive().memory_stats()

    def setMemory(self, memory: int) -> int:
        """Ask the running guest's balloon to leave ``memory`` KiB; returns 0 at once."""
        self._check()
        size = _size(memory, "virDomainSetMemory")
        self._set_memory(size, VIR_DOMAIN_AFFECT_LIVE)
        return 0

    def setMaxMemory(self, memory: int) -> int:
        """Change the maximum of a domain that is shut off."""
        self._check()
        self._set_maximum(_size(memory, "virDomainSetMaxMemory"), VIR_DOMAIN_AFFECT_CURRENT)
        return 0

    def setMemoryFlags(self, memory: int, flags: int = 0) -> int:
        """Change current or (MEM_MAXIMUM) maximum memory, of this run or of the definition."""
        self._check()
        size = _size(memory, "virDomainSetMemoryFlags")
        known = VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_MEM_MAXIMUM
        self._only(flags, known, "SetMemoryFlags")
        if flags & VIR_DOMAIN_MEM_MAXIMUM:
            self._set_maximum(size, flags & ~VIR_DOMAIN_MEM_MAXIMUM)
        else:
            self._set_memory(size, flags)
        return 0

    def setMemoryStatsPeriod(self, period: int, flags: int = 0) -> int:
        """Collect statistics every ``period`` seconds; 0 stops and keeps the last."""
        self._check()
        if _integer(period) < 0:
            raise libvirtError(
                "period in virDomainSetMemoryStatsPeriod must be zero or greater",
                VIR_ERR_INVALID_ARG,
            )
        self._only(flags, VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, "SetMemoryStatsPeriod")
        live, config = self._affected(flags)
        if live:
            self._alive().set_stats_period(period)
        for definition in (live, config):
            if definition is not None:
                _balloon(definition).period = period
        return 0

    def memoryParameters(self, flags: int = 0) -> dict[str, int]:
        """The limits of ``<memtune>`` in KiB; `UNLIMITED` where there is none."""
        self._check()
        self._only(flags, VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, "GetMemoryParameters")
        live, config = self._affected(flags)
        tune = (live or config or self._config).memtune
        return {name: tune.get(name, UNLIMITED) for name in _TUNABLE}

    def setMemoryParameters(self, params: dict[str, int], flags: int = 0) -> int:
        """Change limits of ``<memtune>``; those not named stay."""
        self._check()
        if not params:
            raise LookupError("Need non-empty dictionary to set attributes")
        for name in params:
            if name not in _TUNABLE:
                raise LookupError(f'Attribute name "{name}" could not be recognized')
        sizes = {name: _integer(value) for name, value in params.items()}
        for definition in self._affected(flags):
            if definition is not None:
                _check_limits({**definition.memtune, **sizes})
        for definition in self._affected(flags):
            if definition is not None:
                definition.memtune.update(sizes)
        return 0

    # -- rules --------------------------------------------------------------------------

    def _set_memory(self, size: int, flags: int) -> None:
        live, config = self._affected(flags)
        if size > min(one.memory for one in (live, config) if one is not None):
            raise invalid_argument("cannot set memory higher than max memory")
        if live:
            self._alive().set_memory(size)
        if config:
            config.current_memory = size

    def _set_maximum(self, size: int, flags: int) -> None:
        live, config = self._affected(flags)
        if live:
            raise not_valid("cannot resize the maximum memory on an active domain")
        assert config is not None  # noqa: S101  one of the two is always affected
        config.memory = size
        config.current_memory = min(config.current_memory, size)

    def _affected(self, flags: int) -> tuple[Definition | None, Definition | None]:
        """The live and the persistent definition that ``flags`` mean.

        libvirt, virDomainObjUpdateModificationImpact().
        """
        both = VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG
        if flags & both == both and not self._connection.driver.both_flags:
            raise libvirtError(
                "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are "
                "mutually exclusive",
                VIR_ERR_INVALID_ARG,
            )
        if flags & both == VIR_DOMAIN_AFFECT_CURRENT:
            flags |= VIR_DOMAIN_AFFECT_LIVE if self._running() else VIR_DOMAIN_AFFECT_CONFIG
        if flags & VIR_DOMAIN_AFFECT_LIVE:
            self._alive()
        if flags & VIR_DOMAIN_AFFECT_CONFIG and not self._persistent:
            raise not_valid("transient domains do not have any persistent config")
        return (
            self._live if flags & VIR_DOMAIN_AFFECT_LIVE else None,
            self._config if flags & VIR_DOMAIN_AFFECT_CONFIG else None,
        )

    def _now(self) -> Definition:
        return self._live if self._running() and self._live else self._config

    def reap(self) -> None:
        """Take note if the host killed its QEMU: a domain that was not defined is gone then."""
        if self._run and not self._run.alive:
            self._run = self._live = None
            self._why_off = VIR_DOMAIN_SHUTOFF_CRASHED
            if not self._persistent:
                self._leave()

    def _running(self) -> Running | None:
        """The run; None when shut off, also when the host killed QEMU."""
        self.reap()
        return self._run

    def _alive(self) -> Running:
        self._check()
        run = self._running()
        if run is None:
            raise not_valid("domain is not running")
        return run

    def _check(self) -> None:
        self.reap()
        if self._gone:
            raise libvirtError(
                f"Domain not found: no domain with matching uuid '{self._config.uuid}' "
                f"({self._config.name})",
                VIR_ERR_NO_DOMAIN,
            )

    def _only(self, flags: int, known: int, function: str) -> None:
        if _integer(flags) & ~known:
            raise libvirtError(
                f"unsupported flags ({flags & ~known:#x}) in function "
                f"{self._connection.driver.scheme}Domain{function}",
                VIR_ERR_INVALID_ARG,
            )


def _integer(value: int) -> int:
    """``value`` as the C binding takes it: a TypeError or OverflowError in Python's own words."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"'{type(value).__name__}' object cannot be interpreted as an integer")
    number = value.__index__()
    if not -LLONG_MAX - 1 <= number <= LLONG_MAX:
        raise OverflowError("Python int too large to convert to C long")
    return number


def _size(memory: int, function: str) -> int:
    """A size in KiB as the C binding reads it: a negative one wraps to unsigned long."""
    size = _integer(memory) & ULONG_MAX
    if not size:
        raise libvirtError(f"memory in {function} must not be zero", VIR_ERR_INVALID_ARG)
    if size >= LLONG_MAX >> 10:
        raise libvirtError(f"numerical overflow: input too large: {size}", VIR_ERR_OVERFLOW)
    return size


def _balloon(definition: Definition) -> Memballoon:
    if definition.balloon is None:
        raise internal("No memory balloon device configured, can not set the collection period")
    return definition.balloon


def _check_limits(tune: dict[str, int]) -> None:
    hard, swap = tune.get("hard_limit", UNLIMITED), tune.get("swap_hard_limit", UNLIMITED)
    if hard > swap:
        raise invalid_argument(
            "memory hard_limit tunable value must be lower than or equal to swap_hard_limit"
        )
