"""What a guest with a balloon is like before anything is done to it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Protocol

from kvmlab.base.errors import BadChoice
from kvmlab.guest.balloon_stats import Stats
from kvmlab.study.share import Plan

RAM = 16 << 20
MIB = 1 << 20
DOMAIN = "vm1"
_LEGACY_TAGS = 5  # a driver of 2014 knew tags 0 to 5
CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "backing": ("4K", "2M"),
        "driver": ("linux", "2014", "none"),
        "deflate_on_oom": (False, True),
        "reporting": (False, True),
        "period": (1, 10, 0),
        "swap": (0, 16),
        "process": (0, 1, 2, 4, 6),
        "cache": (0, 1, 2, 4),
        "touched": (2, 8, 16),
    }
)
"""What a beginning may say; sizes are MiB, the period seconds."""


class Known(Protocol):
    """What stays as it is while a guest runs, and says what a balloon of it can do."""

    @property
    def backing(self) -> str:
        """The pages that the host backs it with: ``4K``, ``2M`` or ``1G``."""

    @property
    def driver(self) -> str:
        """``linux``, ``2014`` or ``none``."""

    @property
    def deflate_on_oom(self) -> bool:
        """Whether the device offers that."""

    @property
    def reporting(self) -> bool:
        """Whether the device offers free page reporting."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The guest, its balloon and its load; raises `BadChoice` for what `CHOICES` has not."""

    backing: str = "4K"
    driver: str = "linux"
    deflate_on_oom: bool = False
    reporting: bool = False
    period: int = 1
    swap: int = 0
    process: int = 2
    cache: int = 1
    touched: int = 8

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                offered = ", ".join(map(str, allowed))
                raise BadChoice(f"{name} is one of {offered}, not {getattr(self, name)!r:.40}")

    @classmethod
    def of(cls, plan: Plan) -> "Beginning":
        """The part of a lab's plan that is a beginning."""
        return cls(**{name: plan[name] for name in CHOICES})  # type: ignore[arg-type]

    @property
    def xml(self) -> str:
        """The domain's definition."""
        huge = "<memoryBacking><hugepages/></memoryBacking>" if self.backing == "2M" else ""
        switches = [
            f"autodeflate='{'on' if self.deflate_on_oom else 'off'}'",
            f"freePageReporting='{'on' if self.reporting else 'off'}'",
        ]
        period = f"<stats period='{self.period}'/>" if self.period else ""
        return (
            f"<domain type='kvm'><name>{DOMAIN}</name><memory unit='MiB'>{RAM // MIB}</memory>"
            f"{huge}<os><type>hvm</type></os><devices>"
            f"<memballoon model='virtio' {' '.join(switches)}>{period}</memballoon>"
            "</devices></domain>"
        )


def usual_plan() -> dict[str, object]:
    """The plan of a lab in which nothing was chosen or done yet."""
    return {**asdict(Beginning()), "did": [], "language": "en"}


def stats_of_2014(statistics: Callable[[], Stats]) -> Callable[[], Stats]:
    """What a driver of 2014 sends: ten zeroed records first, then the tags that there were.

    Linux, virtio_balloon.c before "init 1st buffer in stats vq" (2017).
    """
    first = [True]

    def stats() -> Stats:
        if first and first.pop():
            return [(0, 0)] * 10
        return [one for one in statistics() if one[0] <= _LEGACY_TAGS]

    return stats
