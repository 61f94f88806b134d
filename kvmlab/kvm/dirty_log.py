"""Which pages of a memslot the guest has written since one last asked.

KVM API, KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG; Linux, virt/kvm/kvm_main.c: kvm_vm_ioctl_
get_dirty_log(), mark_page_dirty_in_slot().  How a write is noticed is the MMUs' affair: they
listen.  A page counts as written as soon as an entry lets the guest write it (make_spte()), so a
read that maps a page writable reports it too.
"""

from collections.abc import Iterable
from typing import Protocol

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, Memslot, Memslots
from kvmlab.kvm.records import DirtyLogged, MarkedDirty

_LONG = 64  # bitmaps are arrays of longs


class LogListener(Protocol):
    """An MMU, as far as it has to do with dirty logs."""

    def log_started(self, slot: Memslot) -> None:
        """Notice writes to ``slot`` from now on."""

    def log_stopped(self, slot: Memslot) -> None:
        """Writes to ``slot`` concern nobody any more."""

    def log_cleared(self, gfns: Iterable[int]) -> None:
        """The next write to each of these frames is to be noticed again."""

    def drain(self) -> None:
        """Hand over what the processor has logged by itself."""


class DirtyLogs:
    """The dirty bitmaps of a VM, one for each slot with LOG_DIRTY_PAGES.

    With ``manual_protect`` (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) reading a log changes nothing;
    ranges of it are cleared by `clear`.
    """

    def __init__(self, slots: Memslots, tap: Tap) -> None:
        self._slots, self._tap = slots, tap
        self._bitmaps: dict[int, bytearray] = {}
        self.listeners: list[LogListener] = []
        self.manual_protect = False

    def follow(self, old: Memslot | None, new: Memslot | None) -> None:
        """A slot was created, changed or deleted: its log begins, goes on or ends."""
        before = old is not None and bool(old.flags & LOG_DIRTY_PAGES)
        after = new is not None and bool(new.flags & LOG_DIRTY_PAGES)
        if new and after and not before:
            longs = -(-(new.size >> PAGE_SHIFT) // _LONG)
            self._bitmaps[new.slot] = bytearray(longs * _LONG // 8)
            for one in self.listeners:
                one.log_started(new)
        elif old and before and not after:
            del self._bitmaps[old.slot]
            for one in self.listeners:
                one.log_stopped(new or old)

    def mark(self, gpa: int) -> None:
        """The page of ``gpa`` was written, or may be from now on (mark_page_dirty_in_slot)."""
        slot = self._slots.find(gpa) if self._bitmaps else None
        if slot is None or slot.slot not in self._bitmaps:
            return
        bitmap, page = self._bitmaps[slot.slot], gpa - slot.gpa >> PAGE_SHIFT
        if not bitmap[page >> 3] >> (page & 7) & 1:
            bitmap[page >> 3] |= 1 << (page & 7)
            self._tap(MarkedDirty(gpa >> PAGE_SHIFT))

    def get(self, slot: int) -> bytes:
        """KVM_GET_DIRTY_LOG: bit n is page n of the slot; then all is clean, unless by hand.

        Raises `BadChoice` for a slot without a log.
        """
        bitmap = self._bitmap(slot)
        for one in self.listeners:
            one.drain()
        found = bytes(bitmap)
        self._tap(DirtyLogged(slot, len(pages_in(found))))
        if not self.manual_protect:
            self._clean(slot, pages_in(found))
        return found

    def clear(self, slot: int, first: int, count: int, pages: bytes) -> None:
        """KVM_CLEAR_DIRTY_LOG: clean those of ``count`` pages from ``first`` set in ``pages``.

        Bit n of ``pages`` is page ``first`` + n.  Raises `BadChoice` for a slot without a log or
        without `manual_protect`, `BadSize` for a range that is not whole longs of the bitmap.
        """
        bitmap = self._bitmap(slot)
        if not self.manual_protect:
            raise BadChoice(
                f"memslot {slot}: reading its log cleans it; set manual_protect to clean ranges"
            )
        size = self._region(slot).size >> PAGE_SHIFT
        whole = not first % _LONG and (not count % _LONG or first + count == size)
        if not whole or not 0 <= first <= first + count <= size or 8 * len(pages) < count:
            raise BadSize(
                f"memslot {slot}: pages {first:#x} to {first + count:#x} of {size:#x} cannot be "
                "cleared: begin and end at multiples of 64 or at the slot's end, a bit for each"
            )
        asked = [first + page for page in pages_in(pages) if page < count]
        self._clean(slot, [page for page in asked if bitmap[page >> 3] >> (page & 7) & 1])

    def _clean(self, slot: int, pages: list[int]) -> None:
        bitmap = self._bitmaps[slot]
        for page in pages:
            bitmap[page >> 3] &= ~(1 << (page & 7))
        base = self._region(slot).gpa >> PAGE_SHIFT
        for one in self.listeners if pages else ():
            one.log_cleared([base + page for page in pages])

    def _region(self, slot: int) -> Memslot:
        region = self._slots.get(slot)
        assert region is not None  # noqa: S101  its bitmap exists
        return region

    def _bitmap(self, slot: int) -> bytearray:
        if slot not in self._bitmaps:
            raise BadChoice(f"memslot {slot} has no dirty log: set LOG_DIRTY_PAGES (1)")
        return self._bitmaps[slot]


def pages_in(bitmap: bytes) -> list[int]:
    """The numbers of the bits that are set, lowest first."""
    full = ((number, byte) for number, byte in enumerate(bitmap) if byte)
    return [8 * number + bit for number, byte in full for bit in range(8) if byte >> bit & 1]
