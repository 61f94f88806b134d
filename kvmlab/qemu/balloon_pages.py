"""What becomes of the page frame numbers that a guest sends, none of which is trusted.

QEMU, hw/virtio/virtio-balloon.c: balloon_inflate_page(), balloon_deflate_page(),
virtio_balloon_handle_output().
"""

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.tap import Tap
from kvmlab.hardware.records import WRITE
from kvmlab.host.address_space import AddressSpace
from kvmlab.qemu.guest_memory import GuestMemory
from kvmlab.qemu.records import BalloonServed, FreeBlock, PfnRefused, Warned
from kvmlab.virtio import balloon
from kvmlab.virtio.ring import Segment

_PARTIAL = "Balloon used with backing page size > 4kiB, this may not be reliable"


class BalloonPages:
    """Gives pages of the guest back to the host; while ``inhibited``, none.

    All of the guest's RAM is one block of one page size.  Where the host backs it with larger
    pages, the pieces of ONE of them are remembered, within one buffer (PartiallyBalloonedPage): it
    is given back when the last piece comes, and forgotten when a piece of another comes, or the
    buffer ends.
    """

    def __init__(self, memory: GuestMemory, process: AddressSpace, tap: Tap) -> None:
        self._memory, self._process, self.tap = memory, process, tap
        self.inhibited = False  # ram_block_discard_disable(): a VFIO device, incoming postcopy
        self._warned = False

    def inflate(self, pfns: NDArray[np.int64]) -> None:
        """Give pages back to the host, as far as they are the guest's RAM."""
        hvas = self._trusted(balloon.INFLATE, pfns)
        freed = 0 if self.inhibited else self._discard(hvas)
        refused = len(pfns) - len(hvas)
        self.tap(BalloonServed(balloon.INFLATE, len(pfns), refused, freed))

    def deflate(self, pfns: NDArray[np.int64]) -> None:
        """Nothing comes back but a hint; the guest's next touch brings the memory."""
        hvas = self._trusted(balloon.DEFLATE, pfns)
        for hva in [] if self.inhibited else hvas.tolist():
            size = 1 << self._process.page_shift(hva)
            self._process.madvise_willneed(hva & ~(size - 1), size)
        self.tap(BalloonServed(balloon.DEFLATE, len(pfns), len(pfns) - len(hvas), 0))

    def report(self, blocks: list[Segment]) -> None:
        """Give free blocks back, those of them that are whole pages of the host's.

        QEMU, virtio_balloon_handle_report(): others are ignored.
        """
        for block in blocks:
            slot = self._memory.slot(block.gpa)
            freed = 0
            if slot and slot.rights & WRITE and block.gpa + block.length <= slot.gpa + slot.size:
                hva = slot.hva_of(block.gpa)
                if (hva | block.length) % (1 << self._process.page_shift(hva)) == 0:
                    freed = self._process.madvise_dontneed(hva, block.length)
            self.tap(FreeBlock(balloon.REPORT, block.gpa, block.length, freed))

    def _trusted(self, queue: str, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The HVAs of those that are RAM."""
        hvas = self._memory.hvas(pfns << PAGE_SHIFT)
        for pfn in pfns[hvas < 0].tolist():
            why = "ROM" if self._memory.slot(pfn << PAGE_SHIFT) else "hole"
            self.tap(PfnRefused(queue, pfn, why))
        return hvas[hvas >= 0]

    def _discard(self, hvas: NDArray[np.int64]) -> int:
        if hvas.size and self._process.page_shift(int(hvas[0])) == PAGE_SHIFT:
            return self._process.madvise_dontneed_each(hvas)
        return self._discard_pieces(hvas.tolist())

    def _discard_pieces(self, hvas: list[int]) -> int:
        """Give back the large pages of which one piece after the other came."""
        freed, partial, pieces = 0, 0, 0
        for hva in hvas:
            self._warn()
            size = 1 << self._process.page_shift(hva)
            base = hva & ~(size - 1)
            pieces = 1 << (hva - base >> PAGE_SHIFT) | (pieces if base == partial else 0)
            partial = base
            if pieces == (1 << (size >> PAGE_SHIFT)) - 1:
                freed += self._process.madvise_dontneed(base, size)
                partial = pieces = 0
        return freed

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            self.tap(Warned(_PARTIAL))
