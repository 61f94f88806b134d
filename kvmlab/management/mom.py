"""MOM's default balloon and KSM policies, as oVirt runs them.

Memory Overcommitment Manager, policies balloon.policy and ksm.policy.  All sizes in KiB; MOM
hands over whole KiB by cutting off what is less.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmlab.management.balloon_manager import GuestSample, HostSample, Targets

INTERVAL = 10  # seconds between two rounds of the policy; vdsm's is 15


@dataclass(frozen=True, slots=True)
class Mom:
    """MOM's balloon policy, with its constants; ``vdsm`` is the variant of oVirt's agent."""

    pressure_threshold: float = 0.20  # of the host free: below it guests shrink
    pressure_critical: float = 0.05  # below it they shrink under what they use
    min_guest_free: float = 0.20
    max_change: float = 0.05
    min_change: float = 0.0025
    vdsm: bool = False

    def __call__(self, host: HostSample, guests: Sequence[GuestSample]) -> Targets:
        """New targets for those guests that are to change."""
        step = self._shrink if host.free_part < self.pressure_threshold else self._grow
        found = {one.name: self._target(one, step(host, one)) for one in guests}
        return {name: target for name, target in found.items() if target is not None}

    def _target(self, guest: GuestSample, size: float | None) -> int | None:
        """The step if it is worth taking; never below the guest's minimum."""
        if guest.current < guest.minimum:
            return guest.minimum
        if size is None or abs(size - guest.current) <= self.min_change * guest.current:
            return None
        return int(size)

    def _guest_free(self, host: HostSample) -> float:
        """The part of its memory that a guest is left free: less and less, below zero at last."""
        free = host.free_part
        if free <= self.pressure_critical:
            return free - self.pressure_critical
        return self.min_guest_free * free / self.pressure_threshold

    def _shrink(self, host: HostSample, guest: GuestSample) -> float | None:
        needs = guest.used + self._guest_free(host) * guest.current
        size = max((1 - self.max_change) * guest.current, guest.minimum, needs)
        return size if size <= guest.current else None

    def _grow(self, host: HostSample, guest: GuestSample) -> float | None:
        if guest.current >= guest.maximum:
            return None
        free = self._guest_free(host) if self.vdsm else self.min_guest_free
        needs = max(guest.minimum, guest.used + free * guest.current)
        return min(max((1 + self.max_change) * guest.current, needs), guest.maximum)


@dataclass(frozen=True, slots=True)
class KsmSettings:
    """What MOM writes to /sys/kernel/mm/ksm."""

    run: bool
    sleep_millisecs: int
    pages_to_scan: int


def ksm(host: HostSample, shareable: int, pages_to_scan: int) -> KsmSettings:
    """MOM's KSM policy: off while memory is plenty, faster as it runs short.

    ``shareable`` is the guests' memory in KiB that might merge; ``pages_to_scan`` what is set now.
    """
    pressure = 0.20 * host.total
    if pressure + shareable < host.total and host.available > pressure:
        return KsmSettings(run=False, sleep_millisecs=0, pages_to_scan=0)
    step = 300 if host.available < pressure else -50
    return KsmSettings(
        run=True,
        sleep_millisecs=10 * 16777216 // host.total,
        pages_to_scan=min(max(pages_to_scan + step, 64), 1250),
    )
