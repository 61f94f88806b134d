"""What virsh's commands do and print.

libvirt, tools/virsh-domain-monitor.c, virsh-domain.c.
"""

import re
from collections.abc import Callable
from types import MappingProxyType
from xml.etree import ElementTree as ET

from kvmlab.management.connection import virConnect
from kvmlab.management.domain import (
    UNLIMITED,
    VIR_DOMAIN_AFFECT_CONFIG,
    VIR_DOMAIN_AFFECT_LIVE,
    VIR_DOMAIN_MEM_MAXIMUM,
    VIR_DOMAIN_RUNNING,
    VIR_DOMAIN_XML_INACTIVE,
    virDomain,
)
from kvmlab.management.libvirt_errors import libvirtError
from kvmlab.management.scaled import INT_MAX, KIB, ULONG_MAX, kib, number, scale, split_scaled
from kvmlab.management.virsh_line import Command, Options, Refused
from kvmlab.management.xml_text import to_text

# -- what commands share ------------------------------------------------------------------


def _domain(connection: virConnect, options: Options) -> virDomain:
    """By number, by UUID, or by name, in virsh's order."""
    text = options.values["domain"]
    finders: list[Callable[[], virDomain]] = [
        lambda: connection.lookupByUUIDString(text),
        lambda: connection.lookupByName(text),
    ]
    if (found := number(text, INT_MAX)) is not None:
        finders.insert(0, lambda: connection.lookupByID(found))
    for find in finders:
        try:
            return find()
        except libvirtError:
            continue
    raise Refused(f"failed to get domain '{text}'")


def _impact(options: Options) -> int:
    for flag in ("live", "config"):
        if {"current", flag} <= options.flags:
            raise Refused(f"Options --current and --{flag} are mutually exclusive")
    live = VIR_DOMAIN_AFFECT_LIVE if "live" in options.flags else 0
    return live | (VIR_DOMAIN_AFFECT_CONFIG if "config" in options.flags else 0)


def _size(options: Options) -> int:
    """The option ``size`` in KiB, rounded up; a bare number is in KiB."""
    text = options.values["size"]
    refused = f"Scaled numeric value '{text}' for <size> option is malformed or out of range"
    found = split_scaled(text)
    if found is None:
        raise Refused(refused)
    try:
        return kib(scale(*found, default=KIB, limit=ULONG_MAX))
    except libvirtError as error:
        raise Refused(refused, str(error)) from None


def _doing(what: str, action: Callable[[], object]) -> None:
    """Do it; on failure say ``what`` failed, then why."""
    try:
        action()
    except libvirtError as error:
        raise Refused(what, str(error)) from None


# -- the commands -------------------------------------------------------------------------


def _dommemstat(connection: virConnect, options: Options) -> str:
    domain = _domain(connection, options)
    impact = _impact(options)
    if "period" in options.values:
        period = _period(options.values["period"])
        _doing(
            "Unable to change balloon collection period.",
            lambda: domain.setMemoryStatsPeriod(period, impact),
        )
        return ""
    try:
        found = domain.memoryStats()
    except libvirtError as error:
        what = f"Failed to get memory statistics for domain {options.values['domain']}"
        raise Refused(what, str(error)) from None
    return "".join(f"{name} {value}\n" for name, value in found.items())


def _period(text: str) -> int:
    found = re.fullmatch(r"\s*([-+]?)([0-9]+)", text)
    seconds = number(found[2], INT_MAX) if found else None
    if found is None or seconds is None:
        raise Refused(f"Numeric value '{text}' for <period> option is malformed or out of range")
    if seconds and found[1] == "-":
        raise Refused(f"Invalid collection period value '{text}'")
    return seconds


def _setmem(connection: virConnect, options: Options) -> str:
    impact = _impact(options) if options.flags else VIR_DOMAIN_AFFECT_LIVE
    domain, size = _domain(connection, options), _size(options)
    domain.setMemoryFlags(size, impact)
    return ""


def _setmaxmem(connection: virConnect, options: Options) -> str:
    impact = _impact(options)
    domain, size = _domain(connection, options), _size(options)
    _doing(
        "Unable to change MaxMemorySize",
        lambda: domain.setMemoryFlags(size, impact | VIR_DOMAIN_MEM_MAXIMUM),
    )
    return ""


def _state(domain: virDomain) -> str:
    return "running" if domain.state()[0] == VIR_DOMAIN_RUNNING else "shut off"


def _dominfo(connection: virConnect, options: Options) -> str:
    domain = _domain(connection, options)
    _, maximum, current, vcpus, cpu_time = domain.info()
    running = domain.isActive()
    security = connection.driver.security
    rows = [
        ("Id", str(domain.ID()) if running else "-"),
        ("Name", domain.name()),
        ("UUID", domain.UUIDString()),
        ("OS Type", domain.OSType()),
        ("State", _state(domain)),
        ("CPU(s)", str(vcpus)),
        *([("CPU time", f"{cpu_time / 1e9:.1f}s")] if cpu_time else []),
        ("Max memory", f"{maximum} KiB"),
        ("Used memory", f"{current} KiB"),
        ("Persistent", "yes" if domain.isPersistent() else "no"),
        ("Autostart", "disable"),
        ("Managed save", "no"),
        *zip(("Security model", "Security DOI"), security, strict=False),
        *([("Security label", security[2])] if running and len(security) > 2 else []),
    ]
    return "".join(f"{name + ':':15} {value}\n" for name, value in rows)


def _domstats(connection: virConnect, options: Options) -> str:
    """The balloon's part of domstats; a driver without live statistics prints the name alone."""
    domain = _domain(connection, options)
    lines = [f"Domain: '{domain.name()}'\n"]
    if connection.driver.scheme != "test":
        found = domain.memoryStats() if domain.isActive() else {}
        lines += [f"  balloon.current={domain.info()[2]}\n"]
        lines += [f"  balloon.maximum={domain.maxMemory()}\n"]
        lines += [
            f"  balloon.{name.replace('last_update', 'last-update')}={value}\n"
            for name, value in found.items()
            if name != "actual"
        ]
    return "".join(lines)


def _dumpxml(connection: virConnect, options: Options) -> str:
    domain = _domain(connection, options)
    text = domain.XMLDesc(VIR_DOMAIN_XML_INACTIVE if "inactive" in options.flags else 0)
    if "xpath" not in options.values:
        return text
    path = options.values["xpath"]
    try:
        found = ET.fromstring(text).findall(f".{path}" if path.startswith("/") else path)  # noqa: S314
    except (SyntaxError, KeyError, TypeError):  # the last where a bracket is not closed
        raise Refused(
            f"xpath '{path}' is not one that can be followed; write //memballoon"
        ) from None
    return "".join(to_text(one, '"') for one in found)


def _list(connection: virConnect, options: Options) -> str:
    domains = [
        one for one in connection.listAllDomains() if one.isActive() or "all" in options.flags
    ]
    rows = [(str(one.ID()) if one.isActive() else "-", one.name(), _state(one)) for one in domains]
    table = [("Id", "Name", "State"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [f" {a:{widths[0]}}   {b:{widths[1]}}   {c}" for a, b, c in table]
    rule = "-" * sum(width + 3 for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _start(connection: virConnect, options: Options) -> str:
    domain = _domain(connection, options)
    if domain.isActive():
        raise Refused("Domain is already active")
    _doing(f"Failed to start domain '{domain.name()}'", domain.create)
    return f"Domain '{domain.name()}' started\n"


def _destroy(connection: virConnect, options: Options) -> str:
    domain = _domain(connection, options)
    _doing(f"Failed to destroy domain '{domain.name()}'", domain.destroy)
    return f"Domain '{domain.name()}' destroyed\n"


def _undefine(connection: virConnect, options: Options) -> str:
    domain = _domain(connection, options)
    _doing(f"Failed to undefine domain '{domain.name()}'", domain.undefine)
    return f"Domain '{domain.name()}' has been undefined\n"


def _memtune(connection: virConnect, options: Options) -> str:
    limits = _domain(connection, options).memoryParameters()
    return "".join(
        f"{name:15}: {'unlimited' if value == UNLIMITED else value}\n"
        for name, value in limits.items()
    )


def _domstate(connection: virConnect, options: Options) -> str:
    return f"{_state(_domain(connection, options))}\n"


_MODIFY = ("live", "config", "current")
COMMANDS = MappingProxyType(
    {
        "dommemstat": Command(_dommemstat, flags=_MODIFY, valued=("period",)),
        "setmem": Command(_setmem, ("domain", "size"), flags=_MODIFY),
        "setmaxmem": Command(_setmaxmem, ("domain", "size"), flags=_MODIFY),
        "dominfo": Command(_dominfo),
        "domstate": Command(_domstate),
        "domstats": Command(_domstats, flags=("balloon",)),
        "dumpxml": Command(_dumpxml, flags=("inactive",), valued=("xpath",)),
        "list": Command(_list, (), flags=("all",)),
        "memtune": Command(_memtune),
        "start": Command(_start),
        "destroy": Command(_destroy),
        "undefine": Command(_undefine),
    }
)
