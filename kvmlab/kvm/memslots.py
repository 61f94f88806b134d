"""Memslots: which guest-physical ranges exist, and where they lie in the VMM's address space.

KVM API, KVM_SET_USER_MEMORY_REGION; Linux, virt/kvm/kvm_main.c.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmlab.base.errors import BadAddress, BadSize, Overlap

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Memslot:
    """One range of guest-physical memory and its host-virtual address."""

    slot: int
    gpa: int
    size: int
    hva: int

    def hva_of(self, gpa: int) -> int:
        """HVA = userspace_addr + (GPA - guest_phys_addr)."""
        return self.hva + (gpa - self.gpa)

    def allows_large(self, gpa: int, shift: int) -> bool:
        """Whether a leaf of 2**shift bytes may map the range around ``gpa``.

        The range must lie wholly in the slot, and guest frame and HVA must be congruent.
        """
        size = 1 << shift
        start = gpa & ~(size - 1)
        inside = self.gpa <= start and start + size <= self.gpa + self.size
        return inside and not (self.gpa ^ self.hva) & size - 1


class Memslots:
    """The memslots of one VM."""

    def __init__(self) -> None:
        self._slots: dict[int, Memslot] = {}

    def set_region(self, slot: int, gpa: int, size: int, hva: int) -> Memslot:
        """Create a slot; raises `BadAddress`, `BadSize` or `Overlap` and changes nothing then."""
        if gpa % _PAGE or hva % _PAGE:
            raise BadAddress(f"memslot {slot}: GPA {gpa:#x} and HVA {hva:#x} must be 4 KiB aligned")
        if size <= 0 or size % _PAGE:
            raise BadSize(f"memslot {slot}: size {size:#x} must be a positive multiple of 4 KiB")
        for other in self._slots.values():
            if gpa < other.gpa + other.size and other.gpa < gpa + size:
                raise Overlap(
                    f"memslot {slot} at GPA {gpa:#x} to {gpa + size - 1:#x} overlaps slot "
                    f"{other.slot} at {other.gpa:#x} to {other.gpa + other.size - 1:#x}"
                )
        self._slots[slot] = Memslot(slot, gpa, size, hva)
        return self._slots[slot]

    def find(self, gpa: int) -> Memslot | None:
        """The slot that holds ``gpa``, if any."""
        for one in self._slots.values():
            if one.gpa <= gpa < one.gpa + one.size:
                return one
        return None

    def __iter__(self) -> Iterator[Memslot]:
        """The slots in the order of their numbers."""
        return iter(sorted(self._slots.values(), key=lambda one: one.slot))
