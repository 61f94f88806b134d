"""What a guest, its memory and its host are like before anything is done about huge pages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from kvmlab.base.addresses import PAGE_SHIFT, parse_size
from kvmlab.base.errors import BadChoice
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.hardware.geometries import geometry_named
from kvmlab.linux.frames import Pages, Role
from kvmlab.machine import Machine, Server
from kvmlab.qemu.balloon import BalloonOptions
from kvmlab.study.share import Plan

MIB = 1 << 20
BLOCK = 2 * MIB
HVA = 0x7F5A_0000_0000  # a multiple of 1 GiB: guest-physical address 0 is congruent with it
CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "guest": ("4K", "thp", "2M", "1G"),
        "host": ("thp", "4K", "2M", "1G"),
        "offset": (0, 4, 1024, 2048),
        "fragmented": (False, True),
        "max_ptes_none": (511, 0),
        "geometry": ("64x4+512x8", "unified", "skylake", "zen4", "tiny"),
    }
)
"""What a beginning may say; the offset of the HVA is in KiB."""

CHARTS = ("cost", "latency")
"""What may be drawn of requests that were answered."""

_SMALL, _LARGE = ("20M", "64M"), ("3G", "8G")
"""Guest and host memory; pages of 1 GiB need more of it."""


class Known(Protocol):
    """What is known of a guest and its host that no moment says."""

    @property
    def guest(self) -> str:
        """The page of the process: ``4K``, ``thp``, ``2M`` or ``1G``."""

    @property
    def host(self) -> str:
        """That of QEMU."""

    @property
    def gigantic(self) -> bool:
        """Whether pages of 1 GiB take part."""

    @property
    def ram(self) -> int:
        """How much memory the guest has, in bytes."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What maps the guest's memory and what backs it; raises `BadChoice`.

    ``guest`` is the page of the process, ``host`` that of QEMU (``thp``: small ones of which huge
    ones are made where that can be), ``offset`` how far the HVA of the guest's memory lies from a
    multiple of 1 GiB, ``max_ptes_none`` that of the host's khugepaged, ``geometry`` the TLB.
    """

    guest: str = "2M"
    host: str = "thp"
    offset: int = 0
    fragmented: bool = False
    max_ptes_none: int = 511
    geometry: str = "64x4+512x8"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                offered = ", ".join(map(str, allowed))
                raise BadChoice(f"{name} is one of {offered}, not {getattr(self, name)!r:.40}")
        if self.fragmented and self.gigantic:
            raise BadChoice(
                "a host with room for pages of 1G is not fragmented here, page by page: "
                "choose 4K or 2M"
            )

    @classmethod
    def of(cls, plan: Plan) -> "Beginning":
        """The part of a lab's plan that is a beginning."""
        return cls(**{name: plan[name] for name in CHOICES})  # type: ignore[arg-type]

    @property
    def gigantic(self) -> bool:
        """Whether pages of 1 GiB take part."""
        return "1G" in (self.guest, self.host)

    @property
    def guest_page(self) -> str:
        """The page of the process's mappings."""
        return "4K" if self.guest == "thp" else self.guest

    @property
    def host_page(self) -> str:
        """The page of QEMU's mapping."""
        return "4K" if self.host == "thp" else self.host

    @property
    def ram(self) -> int:
        """How much memory the guest has, in bytes."""
        return parse_size((_LARGE if self.gigantic else _SMALL)[0])

    def build(self) -> tuple[Machine, Server, Pages]:
        """The machine, its server, and what others hold there in every other frame.

        Raises `BadAddress` if such pages cannot lie at the offset, `OutOfMemory` in QEMU's words
        if the host has too few of them.
        """
        server = Server((_LARGE if self.gigantic else _SMALL)[1])
        host = server.host
        others = _fragment(server) if self.fragmented else np.empty(0, np.int64)
        host.huge.enabled = "always" if self.host == "thp" else "never"
        host.khugepaged.settings.max_ptes_none = self.max_ptes_none
        shift = parse_size(self.host_page).bit_length() - 1
        if shift > PAGE_SHIFT:
            host.hugetlb[shift].set_nr(self.ram >> shift)
        machine = Machine(
            guest_memory=self.ram,
            guest_page=self.guest_page,
            host_page=self.host_page,
            hva=HVA + self.offset * 1024,
            geometry=geometry_named(self.geometry),
            server=server,
        )
        linux = Reclaimer(machine.guest)
        linux.huge.enabled = "always" if self.guest == "thp" else "never"
        linux.start(machine.clock)
        machine.attach_balloon(BalloonOptions())
        return machine, server, others


def _fragment(server: Server) -> Pages:
    """The host's kernel took all frames once and keeps every other one: they cannot be moved."""
    memory = server.host.memory
    taken = memory.alloc_pages(Role.KERNEL, memory.buddy.free_frames - 1)
    memory.free_pages(taken[1::2])
    return taken[::2]


def usual_plan() -> dict[str, object]:
    """The plan of a lab in which nothing was chosen or done yet."""
    return {**asdict(Beginning()), "chart": CHARTS[0], "did": [], "language": "en"}
