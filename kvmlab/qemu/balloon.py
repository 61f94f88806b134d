"""The balloon device: configuration space, queues, and what the monitor asks of it.

QEMU, hw/virtio/virtio-balloon.c.  It keeps two numbers, the target and what the guest says it
reached; what the host really got back is said buffer by buffer (`BalloonServed`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Protocol

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.checks import expect
from kvmlab.base.clock import Clock
from kvmlab.base.errors import BadChoice
from kvmlab.base.tap import Tap
from kvmlab.host.address_space import AddressSpace
from kvmlab.qemu.balloon_hints import FreePageHints
from kvmlab.qemu.balloon_pages import BalloonPages
from kvmlab.qemu.balloon_stats import GuestStats
from kvmlab.qemu.guest_memory import GuestMemory
from kvmlab.qemu.records import BalloonActual, BalloonTarget
from kvmlab.virtio import balloon
from kvmlab.virtio.balloon import Feature, Field
from kvmlab.virtio.device_queue import Chain, DeviceQueue

_SIZES = MappingProxyType(
    {
        balloon.INFLATE: 128,
        balloon.DEFLATE: 128,
        balloon.STATS: 128,
        balloon.HINT: 1024,
        balloon.REPORT: 32,
    }
)


@dataclass(frozen=True, slots=True)
class BalloonOptions:
    """The device's properties, with QEMU's defaults; MUST_TELL_HOST is never offered.

    Raises `BadChoice` for what is neither on nor off, and hinting without a thread to serve it.
    """

    deflate_on_oom: bool = False
    free_page_hint: bool = False
    page_poison: bool = True
    free_page_reporting: bool = False
    iothread: bool = False

    def __post_init__(self) -> None:
        for one in fields(self):
            expect(f"a balloon's {one.name}", getattr(self, one.name), bool, "True or False")
        if self.free_page_hint and not self.iothread:
            raise BadChoice("'free-page-hint' requires 'iothread' to be set")

    @property
    def features(self) -> frozenset[int]:
        """The feature bits that the device offers."""
        chosen = {
            Feature.STATS_VQ: True,
            Feature.DEFLATE_ON_OOM: self.deflate_on_oom,
            Feature.FREE_PAGE_HINT: self.free_page_hint,
            Feature.PAGE_POISON: self.page_poison,
            Feature.REPORTING: self.free_page_reporting,
        }
        return frozenset(bit for bit, on in chosen.items() if on)


class Bus(Protocol):
    """What a transport does for the device behind it."""

    def give_back(self, name: str, chain: Chain, written: int = 0) -> None:
        """Return a buffer to the driver."""

    def config_changed(self) -> None:
        """Tell the driver that the configuration space changed."""


class Balloon:
    """One balloon device of a VM with ``ram`` bytes; its transport sets ``bus``."""

    device_id = balloon.DEVICE_ID

    def __init__(
        self,
        options: BalloonOptions,
        ram: int,
        memory: GuestMemory,
        process: AddressSpace,
        clock: Clock,
        tap: Tap,
    ) -> None:
        self.features = options.features
        self.ram, self._memory, self._tap = ram, memory, tap
        self.pages = BalloonPages(memory, process, tap)
        self.stats = GuestStats(clock, lambda chain: self._give_back(balloon.STATS, chain), tap)
        self.hints = FreePageHints(self._config_changed, tap)
        self.bus: Bus | None = None
        self.on_change: Callable[[int], None] | None = None  # told the bytes left to the guest
        self.num_pages = self.actual = self.poison = 0

    def listen(self, tap: Tap) -> Tap:
        """Say to ``tap`` alone what it does from now on; returns who has heard of it so far."""
        before, self._tap = self._tap, tap
        self.pages.tap = self.stats.tap = tap
        return before

    @property
    def queue_sizes(self) -> Mapping[str, int]:
        """Its queues, numbered in this order."""
        return {name: _SIZES[name] for name in balloon.queues(self.features)}

    # -- the monitor's side -------------------------------------------------------------

    def set_target(self, left: int) -> None:
        """Ask the guest to shrink or grow to ``left`` bytes, at most all of its RAM.

        Bytes that are no whole page stay with the guest (virtio_balloon_to_target()).
        """
        self.num_pages = self.ram - min(left, self.ram) >> PAGE_SHIFT
        self._tap(BalloonTarget(self.num_pages))
        self._config_changed()

    @property
    def left(self) -> int:
        """Bytes left to the guest, by what the guest says (virtio_balloon_stat())."""
        return self.ram - (self.actual << PAGE_SHIFT)

    # -- the driver's side --------------------------------------------------------------

    def config(self) -> bytes:
        """The configuration space, as long as the features need."""
        fields = (self.num_pages, self.actual, self.hints.config_id, self.poison)
        space = b"".join(field.to_bytes(4, "little") for field in fields)
        return space[: balloon.config_size(self.features)]

    def configure(self, offset: int, data: bytes) -> None:
        """The driver wrote: ``actual`` and ``poison_val`` are its own, the rest is ignored."""
        space = bytearray(self.config())
        if offset + len(data) > len(space):
            return
        space[offset : offset + len(data)] = data
        actual = int.from_bytes(space[Field.ACTUAL : Field.ACTUAL + 4], "little")
        self.poison = int.from_bytes(space[Field.POISON_VAL : Field.POISON_VAL + 4], "little")
        if actual != self.actual:
            self.actual = actual
            self._tap(BalloonActual(actual))
            if self.on_change:
                self.on_change(self.left)

    def serve(self, name: str, queue: DeviceQueue) -> None:
        """Serve every buffer that a queue has, as its notification asks."""
        action = {
            balloon.INFLATE: self._inflate,
            balloon.DEFLATE: self._deflate,
            balloon.STATS: self._stats,
            balloon.HINT: self._hint,
            balloon.REPORT: self._report,
        }[name]
        for chain in _buffers(queue):
            action(chain)

    def reset(self) -> None:
        """The driver begins anew; target and actual stay as they are."""
        self.stats.reset()
        self.hints.stop()
        self.poison = 0

    def _inflate(self, chain: Chain) -> None:
        self.pages.inflate(balloon.unpack_pfns(self._payload(chain)))
        self._give_back(balloon.INFLATE, chain)

    def _deflate(self, chain: Chain) -> None:
        self.pages.deflate(balloon.unpack_pfns(self._payload(chain)))
        self._give_back(balloon.DEFLATE, chain)

    def _stats(self, chain: Chain) -> None:
        self.stats.receive(chain, self._payload(chain))

    def _hint(self, chain: Chain) -> None:
        if chain.out:
            self.hints.command(int.from_bytes(self._payload(chain)[:4], "little"))
        self.hints.blocks(chain.into)
        self._give_back(balloon.HINT, chain)

    def _report(self, chain: Chain) -> None:
        if not self.poison and not self.pages.inhibited:
            self.pages.report(chain.into)
        self._give_back(balloon.REPORT, chain)

    def _payload(self, chain: Chain) -> bytes:
        """What the driver sent: at most a PFN for each page of RAM, which no honest one exceeds.

        QEMU reads on as far as the buffer goes; its time is the guest's own.
        """
        left, parts = self.ram >> PAGE_SHIFT - 2, []
        for part in chain.out:
            parts.append(self._memory.read(part.gpa, min(part.length, left)))
            left -= len(parts[-1])
        return b"".join(parts)

    def _give_back(self, name: str, chain: Chain) -> None:
        if self.bus:
            self.bus.give_back(name, chain)

    def _config_changed(self) -> None:
        if self.bus:
            self.bus.config_changed()


def _buffers(queue: DeviceQueue) -> Iterator[Chain]:
    while chain := queue.pop():
        yield chain
