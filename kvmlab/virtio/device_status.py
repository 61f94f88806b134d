"""How driver and device agree: the device status field and the feature bits.

VIRTIO 1.2, sections 2.1, 2.2 and 3.1: RESET, ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues,
DRIVER_OK.
"""

from collections.abc import Iterable

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
VERSION_1 = 32  # feature bit of every device that is not a legacy one


def mask(bits: Iterable[int]) -> int:
    """The 64-bit feature word with these bits set."""
    return sum(1 << bit for bit in set(bits))


def bits(word: int) -> frozenset[int]:
    """The numbers of the bits that are set in a feature word."""
    return frozenset(bit for bit in range(64) if word >> bit & 1)


class Negotiation:
    """The device's account of it: what is offered, what the driver took, how far it is."""

    def __init__(self, offered: frozenset[int], demanded: frozenset[int]) -> None:
        self.offered, self._demanded = offered, demanded
        self.status = self._taken = 0

    def reset(self) -> None:
        """As at power-on."""
        self.status = self._taken = 0

    def take(self, shift: int, word: int) -> None:
        """The driver wrote 32 bits of features, from bit ``shift`` on; too late has no effect."""
        if not self.status & FEATURES_OK:
            self._taken = self._taken & ~(0xFFFF_FFFF << shift) | word << shift

    def advance(self, value: int) -> None:
        """The driver wrote the status: bits are added, never cleared but by a reset.

        FEATURES_OK stays off unless the driver took only what is offered, and all that is
        demanded; without it DRIVER_OK stays off too.
        """
        if value & FEATURES_OK and not (
            bits(self._taken) <= self.offered and self._demanded <= bits(self._taken)
        ):
            value &= ~FEATURES_OK
        if not (self.status | value) & FEATURES_OK:
            value &= ~DRIVER_OK
        self.status |= value & ~NEEDS_RESET & 0xFF

    def broken(self) -> None:
        """The device cannot go on: it says so and waits for a reset."""
        self.status |= NEEDS_RESET

    @property
    def live(self) -> bool:
        """Whether queues are served: after DRIVER_OK, unless something broke."""
        return self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK

    @property
    def features(self) -> frozenset[int]:
        """The bits in force; none before FEATURES_OK."""
        return bits(self._taken) if self.status & FEATURES_OK else frozenset()

    def has(self, bit: int) -> bool:
        """Whether a feature is in force."""
        return bool(self.status & FEATURES_OK and self._taken >> bit & 1)
