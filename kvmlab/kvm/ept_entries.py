"""What stands in an entry of the direct MMU's tables: EPT's bits, or those of AMD's nested tables.

Linux, arch/x86/kvm/mmu/spte.c: make_spte(), mark_spte_for_access_track(), make_huge_spte().
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ADDRESS, PS, XD = 0x000F_FFFF_FFFF_F000, 1 << 7, 1 << 63
WRITABLE = 1 << 1  # W of EPT, R/W of NPT
_R, _W, _X = 1, 2, 4
_SAVED_SHIFT = 54  # SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
_SAVED = (_R | _X) << _SAVED_SHIFT


@dataclass(frozen=True, slots=True)
class Bits:
    """The bits of one kind of entry; KVM makes leaves with A, and writable ones with D, set.

    Where hardware keeps no A bit, a leaf is aged by taking R, W and X away; what R and X were is
    kept in bits that hardware ignores.
    """

    present: int
    table: int
    leaf: int  # all rights
    accessed: int
    dirty: int
    mmio: int  # all of these: an entry that remembers that nobody answers there
    mmio_mask: int

    def live(self, spte: int) -> bool:
        """Whether KVM has a mapping there, accessible or aged (is_shadow_present_pte)."""
        return not self.is_mmio(spte) and bool(spte & (self.present | _SAVED))

    def which_live(self, sptes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`live` for a row of entries."""
        mmio = sptes & self.mmio_mask == self.mmio
        found: NDArray[np.bool_] = ~mmio & (sptes & (self.present | _SAVED) != 0)
        return found

    def is_mmio(self, spte: int) -> bool:
        """Whether the entry says that no memory answers (is_mmio_spte)."""
        return spte & self.mmio_mask == self.mmio

    def make(self, hpa: int, *, large: bool, write: bool, execute: bool) -> int:
        """A leaf that maps ``hpa``."""
        spte = hpa | self.leaf | (PS if large else 0)
        spte = spte | self.dirty if write else spte & ~WRITABLE
        return spte if execute else self.without_execute(spte)

    def without_execute(self, spte: int) -> int:
        """``spte`` without the right to fetch."""
        return spte & ~_X if self.present & _X else spte | XD

    def with_execute(self, spte: int) -> int:
        """``spte`` with the right to fetch."""
        return spte | _X if self.present & _X else spte & ~XD

    def executable(self, spte: int) -> bool:
        """Whether the guest may fetch there."""
        return bool(spte & _X) if self.present & _X else not spte & XD

    def young(self, spte: int) -> bool:
        """Whether the guest used the page since it was last aged."""
        return bool(spte & self.accessed) if self.accessed else bool(spte & self.present)

    def aged(self, spte: int) -> int:
        """``spte`` as if the guest had not used it yet."""
        if self.accessed:
            return spte & ~self.accessed
        kept = (spte & (_R | _X)) << _SAVED_SHIFT
        return spte & ~(_R | _W | _X) | kept if kept else spte

    def restored(self, spte: int) -> int:
        """``spte`` with the rights that ageing took; W comes back with a write."""
        return spte & ~_SAVED | (spte & _SAVED) >> _SAVED_SHIFT


_EPT_LEAF = _R | _W | _X | 6 << 3 | 1 << 6  # WB, ignoring the guest's PAT
EPT = Bits(7, 7 | 1 << 8, _EPT_LEAF | 1 << 8, 1 << 8, 1 << 9, mmio=_W | _X, mmio_mask=7)
EPT_WITHOUT_AD = replace(EPT, table=7, leaf=_EPT_LEAF, accessed=0, dirty=0)
_RESERVED_BIT = 1 << 51
NPT = Bits(
    1,
    0x67,
    0x27,
    1 << 5,
    1 << 6,
    mmio=_RESERVED_BIT | 1,
    mmio_mask=_RESERVED_BIT | 1,
)
