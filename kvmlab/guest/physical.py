"""Guest-physical memory as the guest's kernel reaches it: at its direct map, through its CPU."""

from collections.abc import Iterator

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.guest.kernel import Kernel


class Physical:
    """The driver's view of the memory that it shares with a device (`virtio.ring.Memory`)."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._base = kernel, kernel.direct_map

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes at ``gpa``, one load for each page."""
        loads = [
            self._kernel.cpu.load(gva, count).to_bytes(count, "little")
            for gva, count in self._parts(gpa, size)
        ]
        return b"".join(loads)

    def write(self, gpa: int, data: bytes) -> None:
        """Store ``data`` at ``gpa``, one store for each page."""
        done = 0
        for gva, count in self._parts(gpa, len(data)):
            self._kernel.cpu.store_bytes(gva, data[done : done + count])
            done += count

    def _parts(self, gpa: int, size: int) -> Iterator[tuple[int, int]]:
        end = gpa + size
        while gpa < end:
            count = min(end - gpa, PAGE_SIZE - gpa % PAGE_SIZE)
            yield self._base + gpa, count
            gpa += count
