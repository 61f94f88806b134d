"""Leaves that remember that nobody answers: what an access there costs is then known at once.

Linux, arch/x86/kvm/mmu/spte.c: make_mmio_spte(); mmu.c: check_mmio_spte().
An EPT entry is misconfigured on purpose (110b); tables of the guest's format have a reserved bit.
Each entry carries 19 bits of the memslots' generation: after any change of the slots it is stale.
"""

from kvmlab.kvm.ept_entries import ADDRESS

GENERATIONS = 1 << 19  # MMIO_SPTE_GEN_MASK: bits 10:3 and 62:52 of an entry
_LOW_SHIFT, _LOW_BITS, _HIGH_SHIFT = 3, 8, 52
_LOW = (1 << _LOW_BITS) - 1
_HIGH = GENERATIONS - 1 >> _LOW_BITS
RESERVED_BIT = 51
PAGING = 1 << RESERVED_BIT | 1
"""What tells such an entry in tables of the guest's format: present, and a reserved bit."""


def make(pattern: int, gpa: int, generation: int) -> int:
    """The entry for the page of ``gpa``: ``pattern`` makes the hardware refuse it."""
    low, high = generation & _LOW, generation >> _LOW_BITS & _HIGH
    return pattern | gpa & ADDRESS & ~PAGING | low << _LOW_SHIFT | high << _HIGH_SHIFT


def is_paging(spte: int) -> bool:
    """Whether an entry in the guest's format is such a note; a trap entry has bit 63 too."""
    return spte & (PAGING | 1 << 63) == PAGING


def generation_of(spte: int) -> int:
    """The memslots' generation when the entry was made, modulo 2**19."""
    return spte >> _LOW_SHIFT & _LOW | (spte >> _HIGH_SHIFT & _HIGH) << _LOW_BITS


def gpa_of(spte: int) -> int:
    """The page that nobody answers for."""
    return spte & ADDRESS & ~PAGING


def reserved_bit_exists(maxphyaddr: int) -> bool:
    """Whether bit 51 is reserved; else nothing can be cached in the guest's formats."""
    return maxphyaddr <= RESERVED_BIT
