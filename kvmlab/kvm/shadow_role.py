"""The role of a shadow page: what it stands for beside the gfn of the guest's table.

Linux, Documentation/virt/kvm/x86/mmu.rst; union kvm_mmu_page_role.
"""

from typing import NamedTuple

from kvmlab.hardware.formats import ALL_RIGHTS
from kvmlab.hardware.processor import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, Controls


class Role(NamedTuple):
    """What makes two shadow pages of one gfn different."""

    level: int
    access: int  # rights of the guest's entries above this table, all together
    direct: bool  # maps a stretch of guest-physical memory: part of a large page, or no paging
    quadrant: int = 0  # which part of a 32-bit guest's table: it has twice as many entries
    has_4_byte_gpte: bool = False  # a table of 32-bit paging
    efer_nx: bool = False  # bit 63 of the guest's entries means XD
    cr0_wp: bool = False
    smep_andnot_wp: bool = False
    smap_andnot_wp: bool = False

    @classmethod
    def of_root(cls, guest: Controls) -> "Role":
        """The role of roots while the guest's registers are so (kvm_calc_cpu_role)."""
        if not guest.paging:
            return cls(2, ALL_RIGHTS, direct=True)
        wp = bool(guest.cr0 & CR0_WP)
        return cls(
            level={"4-level": 4, "5-level": 5}.get(guest.mode, 2),
            access=ALL_RIGHTS,
            direct=False,
            has_4_byte_gpte=guest.mode == "32-bit",
            efer_nx=bool(guest.efer & EFER_NXE),
            cr0_wp=wp,
            smep_andnot_wp=bool(guest.cr4 & CR4_SMEP) and not wp,
            smap_andnot_wp=bool(guest.cr4 & CR4_SMAP) and not wp,
        )

    def child(self, index: int, access: int, *, direct: bool) -> "Role":
        """The role of a page below entry ``index`` of this one (kvm_mmu_child_role)."""
        quadrant = index & 1 if self.has_4_byte_gpte else 0
        return self._replace(level=self.level - 1, access=access, direct=direct, quadrant=quadrant)

    def same_mode(self, other: "Role") -> bool:
        """Whether both belong to one state of the guest's control registers."""
        return self[4:] == other[4:]
