"""The roots that a virtual CPU has at hand: the current one and those before it.

Linux, arch/x86/kvm/mmu/mmu.c: fast_pgd_switch(), KVM_MMU_NUM_PREV_ROOTS.
"""

from kvmlab.hardware.context import PCID
from kvmlab.kvm.shadow_pages import ShadowPage


class Roots:
    """The current root and up to ``capacity`` previous ones, by the CR3 that loaded them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._roots: list[tuple[int, ShadowPage]] = []  # the current one first
        self.current: ShadowPage | None = None

    def switch(self, cr3: int) -> ShadowPage | None:
        """Make the root of ``cr3`` current; None if it must be looked up, then `load` it."""
        found = next((one for one in self._roots if one[0] == cr3), None)
        if found:
            self._roots.remove(found)
            self._roots.insert(0, found)
        self.current = found[1] if found else None
        return self.current

    def load(self, cr3: int, page: ShadowPage) -> None:
        """Make ``page`` current; the oldest of too many is let go, its pages stay."""
        self._roots.insert(0, (cr3, page))
        del self._roots[self._capacity + 1 :]
        self.current = page

    def pages(self) -> list[ShadowPage]:
        """The pages in use as roots, the current one first."""
        return [page for _, page in self._roots]

    def forget(self, page: ShadowPage) -> None:
        """A root was thrown away."""
        self._roots = [one for one in self._roots if one[1] is not page]
        self.current = None if self.current is page else self.current

    def flush_pcid(self, cr3: int) -> None:
        """Let the previous roots of the PCID of ``cr3`` go rather than sync them."""
        self._roots = [
            one for one in self._roots if one[1] is self.current or (one[0] ^ cr3) & PCID
        ]

    def clear(self) -> None:
        """The paging mode changed: every root is of another role now (kvm_mmu_unload)."""
        self._roots, self.current = [], None
