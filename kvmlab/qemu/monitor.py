"""QMP: the monitor commands of the balloon, with the answers and errors that QEMU gives.

A command is a JSON object, and so is its answer: ``{"return": ..}`` or ``{"error": {"class",
"desc"}}``.  Measured on QEMU 7.2.
"""

import json
from collections.abc import Callable, Mapping
from typing import NoReturn

from kvmlab.base.clock import SECOND, Clock, Timer
from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.base.tap import Tap
from kvmlab.kvm.vm import Vm
from kvmlab.qemu.balloon import Balloon
from kvmlab.qemu.records import BalloonChange

Arguments = Mapping[str, object]
_TYPE = "virtio-balloon-device"
_STATS, _INTERVAL = "guest-stats", "guest-stats-polling-interval"


class QmpError(KvmlabError):
    """A command failed; ``kind`` is the class that QMP names, the text its description."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


class Monitor:
    """The monitor of one VM; devices are named by their path in QOM."""

    def __init__(self, vm: Vm, clock: Clock, tap: Tap) -> None:
        self._vm = vm
        self._balloon: Balloon | None = None
        self._path = ""
        self._events = ChangeEvents(clock, tap)
        self._commands: Mapping[str, Callable[[Arguments], object]] = {
            "balloon": self._set_balloon,
            "query-balloon": self._query_balloon,
            "qom-get": self._qom_get,
            "qom-set": self._qom_set,
        }

    def plug(self, device: Balloon, name: str) -> None:
        """Let ``device`` be the balloon, at ``/machine/peripheral/<name>``; there is but one.

        Raises `BadChoice`.
        """
        if self._balloon is not None:
            raise BadChoice("Only one balloon device is supported")
        self._balloon, self._path = device, f"/machine/peripheral/{name}"
        device.on_change = self._events.changed

    def execute(self, command: str | Mapping[str, object]) -> dict[str, object]:
        """The answer to one command, given as JSON text or as what that would be."""
        try:
            name, arguments = _parse(command)
            return {"return": self._commands.get(name, _unknown(name))(arguments)}
        except QmpError as error:
            return {"error": {"class": error.kind, "desc": str(error)}}

    # -- commands -----------------------------------------------------------------------

    def _set_balloon(self, arguments: Arguments) -> object:
        (value,) = _members(arguments, "value")
        target = _integer("value", value)
        device = self._active()
        if target <= 0:
            raise QmpError("Parameter 'target' expects a size")
        device.set_target(target)
        return {}

    def _query_balloon(self, arguments: Arguments) -> object:
        _members(arguments)
        return {"actual": self._active().left}

    def _qom_get(self, arguments: Arguments) -> object:
        path, name = _members(arguments, "path", "property")
        device = self._at(_text("path", path))
        name = _text("property", name)
        if name == _STATS:
            return device.stats.shown()
        if name == _INTERVAL:
            return device.stats.interval
        return _no_property(name)

    def _qom_set(self, arguments: Arguments) -> object:
        path, name, value = _members(arguments, "path", "property", "value")
        device = self._at(_text("path", path))
        name = _text("property", name)
        if name == _STATS:
            raise QmpError(f"Property '{_TYPE}.{name}' is not writable")
        if name != _INTERVAL:
            _no_property(name)
        seconds = _integer(name, value)
        if seconds < 0:
            raise QmpError("timer value must be greater than zero")
        if seconds > 0xFFFF_FFFF:
            raise QmpError("timer value is too big")
        device.stats.poll_every(seconds)
        return {}

    def _active(self) -> Balloon:
        if not self._vm.sync_mmu:
            text = "Using KVM without synchronous MMU, balloon unavailable"
            raise QmpError(text, "KVMMissingCap")
        if self._balloon is None:
            raise QmpError("No balloon device has been activated", "DeviceNotActive")
        return self._balloon

    def _at(self, path: str) -> Balloon:
        if self._balloon is None or path != self._path:
            raise QmpError(f"Device '{path}' not found", "DeviceNotFound")
        return self._balloon


class ChangeEvents:
    """BALLOON_CHANGE, at most one each second: what comes too soon waits, and the last one wins.

    QEMU, monitor/monitor.c: monitor_qapi_event_conf.
    """

    def __init__(self, clock: Clock, tap: Tap) -> None:
        self._clock, self._tap = clock, tap
        self._quiet: Timer | None = None
        self._waiting: int | None = None

    def changed(self, left: int) -> None:
        """The guest wrote another ``actual``: so many bytes are left to it."""
        if self._quiet is not None and self._quiet.pending:
            self._waiting = left
        else:
            self._send(left)

    def _send(self, left: int) -> None:
        self._tap(BalloonChange(left))
        self._quiet = self._clock.after(SECOND, self._quiet_ends)

    def _quiet_ends(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._send(waiting)


def _parse(command: str | Mapping[str, object]) -> tuple[str, Arguments]:
    """The name and the arguments of a command."""
    if isinstance(command, str):
        try:
            command = json.loads(command)
        except (ValueError, RecursionError) as error:
            why = error if isinstance(error, ValueError) else "nested too deeply"
            raise QmpError(f"JSON parse error, {why}") from None
    if not isinstance(command, Mapping):
        raise QmpError("QMP input must be a JSON object")
    name, arguments = command.get("execute"), command.get("arguments", {})
    if "execute" not in command:
        raise QmpError("QMP input lacks member 'execute'")
    if not isinstance(name, str):
        raise QmpError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, Mapping):
        raise QmpError("QMP input member 'arguments' must be an object")
    for other in command.keys() - {"execute", "arguments", "id"}:
        raise QmpError(f"QMP input member '{other}' is unexpected")
    return name, arguments


def _unknown(name: str) -> Callable[[Arguments], object]:
    def refuse(_arguments: Arguments) -> NoReturn:
        raise QmpError(f"The command {name} has not been found", "CommandNotFound")

    return refuse


def _members(arguments: Arguments, *names: str) -> list[object]:
    """The arguments of these names; all must be there, and no other."""
    for name in names:
        if name not in arguments:
            raise QmpError(f"Parameter '{name}' is missing")
    for other in arguments:
        if other not in names:
            raise QmpError(f"Parameter '{other}' is unexpected")
    return [arguments[name] for name in names]


def _integer(name: str, value: object) -> int:
    """A 64-bit signed integer; JSON's true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise QmpError(f"Invalid parameter type for '{name}', expected: integer")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise QmpError(f"Invalid parameter type for '{name}', expected: string")
    return value


def _no_property(name: str) -> NoReturn:
    raise QmpError(f"Property '{_TYPE}.{name}' not found")
