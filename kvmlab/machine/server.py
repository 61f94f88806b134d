"""One host for many VMs: what they share, and nothing that knows how many there are."""

from kvmlab.base.addresses import parse_size, size_text
from kvmlab.base.clock import Clock
from kvmlab.base.errors import BadSize
from kvmlab.base.tap import Tap, silent
from kvmlab.hardware.ram import PAGE_SIZE, Ram
from kvmlab.host.kernel import Host


class Server:
    """A host with ``memory`` and a swap device of ``swap`` bytes, its daemons running.

    VMs are put on it with `Machine(server=...)`, or through libvirt (`connect`).  Together they
    may promise more than it has.  Raises `BadSize`.
    """

    def __init__(
        self, memory: int | str = "1G", *, swap: int | str | None = None, tap: Tap = silent
    ) -> None:
        size = parse_size(memory)
        if size % PAGE_SIZE:
            raise BadSize(f"host memory {size_text(size)} is no multiple of 4K")
        self.clock, self.ram, self.tap = Clock(), Ram(size), tap
        self.host = Host(self.ram, tap, swap=parse_size(swap) if swap else 0)
        self.host.start_daemons(self.clock)
