"""Reverse maps: which shadow entries map a guest frame.

Linux, arch/x86/kvm/mmu/mmu.c: rmap_add(), gfn_to_rmap(); struct kvm_rmap_head.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmlab.kvm.shadow_pages import Slot

_ORDERS = (0, 9, 18)  # of leaves at levels 1, 2 and 3: 2**order frames


class Rmap:
    """The leaves of all shadow pages, by the first guest frame that each maps."""

    def __init__(self) -> None:
        self._leaves: dict[int, set[Slot]] = {}

    def add(self, gfn: int, slot: "Slot") -> None:
        """``slot`` maps ``gfn``, or the large page that begins there."""
        self._leaves.setdefault(gfn, set()).add(slot)

    def discard(self, gfn: int, slot: "Slot") -> None:
        """``slot`` does so no more."""
        self._leaves[gfn].discard(slot)
        if not self._leaves[gfn]:
            del self._leaves[gfn]

    def at(self, gfn: int) -> "list[Slot]":
        """The leaves whose page begins at ``gfn``, of any size."""
        return list(self._leaves.get(gfn, ()))

    def near(self, first: int, last: int) -> "list[tuple[int, Slot]]":
        """The leaves that may map a frame from ``first`` to ``last``, with their own first."""
        if last - first > len(self._leaves):
            gfns = list(self._leaves)
        else:
            around = sorted({first >> order << order for order in _ORDERS})
            gfns = [*around, *range(first + 1, last + 1)]
        return [(gfn, slot) for gfn in gfns for slot in self.at(gfn)]
