"""OpenStack's placement of memory: how much a host may promise, and to whom.

capacity = (total - reserved) * allocation_ratio; MiB throughout.  OpenStack placement, "Resource
provider inventories"; nova, ``ram_allocation_ratio`` (1.5 until Zed, 1.0 since 27.0.0) and
``reserved_host_memory_mb``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvmlab.base.errors import BadSize, KvmlabError

RESERVED_HOST_MEMORY = 512  # MiB: nova's default
RATIO_UNTIL_ZED, RATIO = 1.5, 1.0


class PlacementError(KvmlabError, ValueError):
    """A request that placement refuses; the text is placement's own."""


@dataclass(slots=True)
class Inventory:
    """MEMORY_MB of one host as placement knows it, and what is allocated from it."""

    provider: str  # the host's name or UUID
    total: int
    reserved: int = RESERVED_HOST_MEMORY
    ratio: float = RATIO
    allocations: dict[str, int] = field(default_factory=dict)  # MiB by instance

    def __post_init__(self) -> None:
        if self.reserved >= self.total:
            raise PlacementError(
                f"Invalid inventory for 'MEMORY_MB' on resource provider '{self.provider}'. "
                "The reserved value is greater than or equal to total."
            )
        self.set_ratio(self.ratio)

    @property
    def capacity(self) -> float:
        """What may be promised in all, in MiB; shown truncated, compared as it is."""
        return (self.total - self.reserved) * self.ratio

    @property
    def used(self) -> int:
        """What is promised, in MiB."""
        return sum(self.allocations.values())

    def set_ratio(self, ratio: float) -> None:
        """Change the ratio: nobody is evicted, only what comes next is refused."""
        if not ratio > 0:
            raise BadSize(f"an allocation ratio of {ratio} is not above 0; nova's default is 1.0")
        self.ratio = ratio

    def refusal(self, instance: str, size: int) -> str | None:
        """Why ``size`` MiB for ``instance`` is refused; None if it is not.

        A change that makes an existing overage smaller is let through.
        """
        if size <= 0 or size > self.total:  # min_unit 1, max_unit total, step_size 1
            return "The requested amount would violate inventory constraints."
        now = self.allocations.get(instance, 0)
        if self.used - now + size > self.capacity and size >= now:
            return "The requested amount would exceed the capacity."
        return None

    def allocate(self, instance: str, size: int) -> None:
        """Promise ``size`` MiB to ``instance``, in place of what it had; or `PlacementError`."""
        why = self.refusal(instance, size)
        if why:
            raise PlacementError(
                "Unable to create allocation for 'MEMORY_MB' on resource provider "
                f"'{self.provider}'. {why}"
            )
        self.allocations[instance] = size

    def free(self, instance: str) -> None:
        """Take the promise back."""
        self.allocations.pop(instance, None)


def place(hosts: Sequence[Inventory], instance: str, size: int) -> Inventory:
    """Put ``instance`` of ``size`` MiB on the host with the most unpromised memory.

    That is nova's RAMWeigher, which spreads; of equals the first.  Raises `PlacementError` where
    no host has room.
    """
    candidates = [host for host in hosts if host.refusal(instance, size) is None]
    if not candidates:
        raise PlacementError("No valid host was found. There are not enough hosts available.")
    chosen = max(candidates, key=lambda host: host.total - host.used)
    chosen.allocate(instance, size)
    return chosen
