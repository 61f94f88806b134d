"""Two files that decide about a host's memory: nova.conf, and libvirt's qemu.conf.

Only what concerns memory is read.  nova, conf/compute.py, on oslo.config's sections and keys;
libvirt, src/qemu/qemu.conf.in, in the syntax of util/virconf.c.
"""

import ast
import re
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as Malformed
from dataclasses import dataclass
from types import MappingProxyType

from kvmlab.base.errors import BadChoice
from kvmlab.management.placement import RATIO, RESERVED_HOST_MEMORY

MOUNTED = MappingProxyType({"/dev/hugepages": 2048})
"""Where a current system mounts hugetlbfs, and the size of its pages in KiB (systemd)."""

_MOUNT = re.compile(r"^[ \t]*hugetlbfs_mount[ \t]*=\s*(\[.*?\]|[^\n]*)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class NovaMemory:
    """What nova.conf makes of a host's memory: `Inventory` takes both."""

    ratio: float = RATIO
    reserved: int = RESERVED_HOST_MEMORY  # MiB


def nova_conf(text: str, *, usual: float = RATIO) -> NovaMemory:
    """The ratio and the reserved memory that a nova.conf sets in its section ``[DEFAULT]``.

    ``ram_allocation_ratio`` wins over ``initial_ram_allocation_ratio``, 0.0 is no choice, and
    ``usual`` is the ratio of the release.  Raises `BadChoice`.
    """
    parser = ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    try:
        parser.read_string(text, "nova.conf")
    except Malformed as error:
        raise BadChoice(f"nova.conf: {str(error).splitlines()[0]}") from error
    given = parser.defaults()
    names = ("ram_allocation_ratio", "initial_ram_allocation_ratio")
    ratios = [_ratio(name, given[name]) for name in names if name in given]
    ratio = next((one for one in ratios if one), usual)
    return NovaMemory(ratio, _reserved(given.get("reserved_host_memory_mb")))


def _ratio(name: str, value: str | None) -> float:
    try:
        ratio = float(value or "")
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < float("inf"):
        raise BadChoice(f"nova.conf: {name} is {value!r:.40}; write a number such as 1.5")
    return ratio


def _reserved(value: str | None) -> int:
    if value is None:
        return RESERVED_HOST_MEMORY
    if not re.fullmatch(r"[0-9]{1,12}", value.strip()):
        raise BadChoice(
            f"nova.conf: reserved_host_memory_mb is {value!r:.40}; write a whole number of MiB"
        )
    return int(value)


def hugetlbfs_sizes(text: str, mounted: Mapping[str, int] = MOUNTED) -> tuple[int, ...]:
    """The huge pages, in KiB, that a qemu.conf lets libvirt use: those of ``hugetlbfs_mount``.

    It is one mount or a list of them; an empty text disables huge pages.  Where it is not set,
    every mount of ``mounted`` (page size in KiB by place) is used.  Raises `BadChoice`.
    """
    lines = _MOUNT.findall(text)
    if not lines:
        return tuple(mounted.values())
    places = _places(lines[-1])
    for place in places:
        if place not in mounted:
            offered = ", ".join(mounted) or "nowhere"
            raise BadChoice(
                f"qemu.conf: hugetlbfs_mount names {place!r:.80}, and hugetlbfs is mounted at "
                f"{offered}"
            )
    return tuple(mounted[place] for place in places)


def _places(value: str) -> list[str]:
    """The texts of a value: one in quotation marks, or a list of them; empty ones name nothing."""
    try:
        found = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        found = None
    places = [found] if isinstance(found, str) else found
    if not isinstance(places, list) or not all(isinstance(one, str) for one in places):
        raise BadChoice(
            f"qemu.conf: hugetlbfs_mount is {value.strip()!r:.60}; write "
            '"/dev/hugepages", a list of such, or ""'
        )
    return [one for one in places if one]
