"""Memslots: which guest-physical ranges exist, and where they lie in the VMM's address space.

KVM API, KVM_SET_USER_MEMORY_REGION; Linux, virt/kvm/kvm_main.c: __kvm_set_memory_region().
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, KvmlabError, Overlap
from kvmlab.hardware.formats import ALL_RIGHTS
from kvmlab.hardware.records import WRITE

LOG_DIRTY_PAGES, READONLY = 1, 2
USER_SLOTS, ADDRESS_SPACES = 32764, 2  # KVM_CAP_NR_MEMSLOTS; the second space is SMM's
_PAGE = 4096
_GPA_END = 1 << 52
_HVA_END = 1 << 47  # of user space
_MOST_PAGES = (1 << 31) - 1  # KVM_MEM_MAX_NR_PAGES


@dataclass(frozen=True, slots=True)
class Memslot:
    """One range of guest-physical memory and its host-virtual address."""

    slot: int
    gpa: int
    size: int
    hva: int
    flags: int = 0

    @property
    def rights(self) -> int:
        """What the guest may do there: a READONLY slot has no writes."""
        return ALL_RIGHTS & ~(WRITE if self.flags & READONLY else 0)

    def hva_of(self, gpa: int) -> int:
        """HVA = userspace_addr + (GPA - guest_phys_addr)."""
        return self.hva + (gpa - self.gpa)

    def gpas(self, start: int, end: int) -> range:
        """The guest-physical addresses that HVAs ``[start, end)`` back here; may be empty."""
        first, last = max(start, self.hva), min(end, self.hva + self.size)
        return range(self.gpa + first - self.hva, self.gpa + last - self.hva)

    def allows_large(self, gpa: int, shift: int) -> bool:
        """Whether a leaf of 2**shift bytes may map the range around ``gpa``.

        The range must lie wholly in the slot, guest frame and HVA must be congruent, and no
        dirty log may want to hear of 4 KiB pages.
        """
        size = 1 << shift
        start = gpa & ~(size - 1)
        inside = self.gpa <= start and start + size <= self.gpa + self.size
        congruent = not (self.gpa ^ self.hva) & size - 1
        return inside and congruent and not self.flags & LOG_DIRTY_PAGES


class Memslots:
    """The memslots of one VM; bits 31:16 of a slot's number are its address space."""

    def __init__(self) -> None:
        self._slots: dict[int, Memslot] = {}
        self.generation = 0  # changes with every change of the slots

    def set_region(
        self, slot: int, gpa: int, size: int, hva: int, flags: int = 0
    ) -> Memslot | None:
        """Create a slot, move it, change its log flag, or with size 0 delete it.

        Returns the slot that is gone from where it was (moved or deleted), if any.  Raises
        `BadAddress`, `BadSize`, `BadChoice` or `Overlap` and changes nothing then.
        """
        new = Memslot(slot, gpa, size, hva, flags)
        _check_request(new)
        old = self._slots.get(slot)
        if size == 0:
            if old is None:
                raise BadChoice(f"memslot {slot}: there is no such slot to delete")
            self.generation += 1
            return self._slots.pop(slot)
        _check_range(new)
        if old is not None:
            _check_change(old, new)
        self._check_overlap(new)
        self.generation += new != old
        self._slots[slot] = new
        return old if old is not None and old.gpa != new.gpa else None

    def _check_overlap(self, new: Memslot) -> None:
        for other in self._slots.values():
            if other.slot == new.slot or other.slot >> 16 != new.slot >> 16:
                continue
            if new.gpa < other.gpa + other.size and other.gpa < new.gpa + new.size:
                raise Overlap(
                    f"memslot {new.slot} at GPA {new.gpa:#x} to {new.gpa + new.size - 1:#x} "
                    f"overlaps slot {other.slot} at {other.gpa:#x} to "
                    f"{other.gpa + other.size - 1:#x}"
                )

    def get(self, slot: int) -> Memslot | None:
        """The slot of this number, if it exists."""
        return self._slots.get(slot)

    def find(self, gpa: int, space: int = 0) -> Memslot | None:
        """The slot of an address space that holds ``gpa``, if any."""
        for one in self._slots.values():
            if one.gpa <= gpa < one.gpa + one.size and one.slot >> 16 == space:
                return one
        return None

    def writable(self, gpa: int) -> bool:
        """Whether ``gpa`` is in a slot that takes writes."""
        slot = self.find(gpa)
        return slot is not None and bool(slot.rights & WRITE)

    def __iter__(self) -> Iterator[Memslot]:
        """The slots in the order of their numbers."""
        return iter(sorted(self._slots.values(), key=lambda one: one.slot))


def errno(error: KvmlabError) -> str:
    """What the ioctl returns where `Memslots.set_region` raises ``error``."""
    return "EEXIST" if isinstance(error, Overlap) else "EINVAL"


def _check_request(new: Memslot) -> None:
    """What is wrong whatever slots there are: number, flags, alignment."""
    if new.flags & ~(LOG_DIRTY_PAGES | READONLY):
        raise BadChoice(
            f"memslot {new.slot}: flags {new.flags:#x}; there are 1 (LOG_DIRTY_PAGES) and 2 "
            "(READONLY)"
        )
    if not 0 <= new.slot >> 16 < ADDRESS_SPACES or new.slot & 0xFFFF >= USER_SLOTS:
        raise BadChoice(f"memslot {new.slot:#x}: slots are 0 to {USER_SLOTS - 1} of each space")
    if new.gpa % _PAGE or new.hva % _PAGE:
        raise BadAddress(
            f"memslot {new.slot}: GPA {new.gpa:#x} and HVA {new.hva:#x} must be 4 KiB aligned"
        )
    if new.size < 0 or new.size % _PAGE:
        raise BadSize(
            f"memslot {new.slot}: size {new.size:#x} must be a multiple of 4 KiB, 0 to delete"
        )


def _check_range(new: Memslot) -> None:
    """What no slot can be: beyond the address spaces, or too large."""
    if not 0 <= new.gpa <= new.gpa + new.size <= _GPA_END:
        raise BadAddress(f"memslot {new.slot}: GPA {new.gpa:#x} with size {new.size:#x} ends late")
    if not 0 <= new.hva <= new.hva + new.size <= _HVA_END:
        raise BadAddress(f"memslot {new.slot}: HVA {new.hva:#x} is not in user space")
    if new.size // _PAGE > _MOST_PAGES:
        raise BadSize(f"memslot {new.slot}: size {new.size:#x} is over {_MOST_PAGES} pages")


def _check_change(old: Memslot, new: Memslot) -> None:
    """A slot may move, or its dirty log be switched; nothing else changes while it lives."""
    if (old.size, old.hva) != (new.size, new.hva) or (old.flags ^ new.flags) & READONLY:
        raise BadChoice(
            f"memslot {new.slot}: size, HVA and READONLY of a slot stay; delete it first"
        )
