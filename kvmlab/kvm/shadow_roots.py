"""The roots that a virtual CPU has at hand: the current one and those before it.

Linux, arch/x86/kvm/mmu/mmu.c: fast_pgd_switch(), KVM_MMU_NUM_PREV_ROOTS.
"""

from dataclasses import dataclass
from typing import NamedTuple

from kvmlab.hardware.context import PCID
from kvmlab.kvm.shadow_pages import ShadowPage
from kvmlab.kvm.shadow_role import Role


class RootKey(NamedTuple):
    """What a root was made for; a CPU state with another one needs another root."""

    cr3: int
    role: Role
    pdptes: tuple[int, ...] | None  # of a PAE guest


@dataclass(eq=False, slots=True)
class Root:
    """What the hardware's CR3 points to."""

    key: RootKey
    pages: tuple[ShadowPage | None, ...]  # one, or one for each gigabyte that has a table
    hpa: int

    def page(self, gva: int) -> ShadowPage | None:
        """The shadow page in which a walk of ``gva`` begins."""
        return self.pages[gva >> 30 & 3] if self.in_quarters else self.pages[0]

    @property
    def in_quarters(self) -> bool:
        """Whether there is one shadow page for each gigabyte."""
        return len(self.pages) > 1


class Roots:
    """The current root and up to ``capacity`` previous ones, if they are single pages."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._roots: list[Root] = []  # the current one first
        self.current: Root | None = None

    def switch(self, key: RootKey) -> Root | None:
        """Make the root of ``key`` current; None if it must be made, then `load` it."""
        found = next((one for one in self._roots if one.key == key), None)
        if found:
            self._roots.remove(found)
            self._roots.insert(0, found)
        self.current = found
        return found

    def load(self, root: Root) -> None:
        """Make ``root`` current; the oldest of too many is let go, its pages stay.

        Roots in quarters share the one table of KVM's own: none is kept beside another.
        """
        previous = [] if root.in_quarters else [one for one in self._roots if not one.in_quarters]
        self._roots = [root, *previous[: self._capacity]]
        self.current = root

    def pages(self) -> list[ShadowPage]:
        """The pages in use as roots, those of the current root first."""
        return [page for root in self._roots for page in root.pages if page]

    def at(self, gva: int) -> list[ShadowPage]:
        """Those of them in which a walk of ``gva`` begins."""
        return [page for root in self._roots if (page := root.page(gva))]

    def forget(self, page: ShadowPage) -> None:
        """A root was thrown away."""
        self._roots = [one for one in self._roots if page not in one.pages]
        self.current = self.current if self.current in self._roots else None

    def flush_pcid(self, cr3: int) -> None:
        """Let the previous roots of the PCID of ``cr3`` go rather than sync them."""
        self._roots = [
            one for one in self._roots if one is self.current or (one.key.cr3 ^ cr3) & PCID
        ]

    def clear(self) -> None:
        """The paging mode changed: every root is of another role now (kvm_mmu_unload)."""
        self._roots, self.current = [], None
