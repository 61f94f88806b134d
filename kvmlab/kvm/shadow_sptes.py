"""Leaf entries of shadow tables: what goes into one, and what setting it entails.

Linux, arch/x86/kvm/mmu/mmu.c: mmu_set_spte(), mmu_try_to_unsync_pages(); spte.c: make_spte().
"""

from enum import Enum

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import EXECUTE, USER, WRITE
from kvmlab.kvm.flushes import RemoteFlushes
from kvmlab.kvm.policy import Policy
from kvmlab.kvm.shadow_pages import (
    ADDRESS,
    PRESENT,
    PS,
    USER_BIT,
    WRITABLE,
    ShadowPages,
    Slot,
    covered,
)

ACCESSED, _DIRTY, _XD = 1 << 5, 1 << 6, 1 << 63


class Outcome(Enum):
    """How a fault was served: KVM's RET_PF_ constants."""

    FIXED = "fixed"
    EMULATE = "emulate"
    SPURIOUS = "spurious"


class Why(Enum):
    """For whom an entry is set."""

    FAULT = "fault"
    PREFETCH = "prefetch"  # nobody asked for it: no A bit, and no table goes unsync for it
    SYNC = "sync"  # an old entry is brought in step: no table goes unsync for it


class Sptes:
    """Sets the leaves of ``pages``."""

    def __init__(self, pages: ShadowPages, policy: Policy, flushes: RemoteFlushes) -> None:
        self._pages, self._policy, self._flushes = pages, policy, flushes

    def set(self, slot: Slot, gfn: int, hpa: int, access: int, why: Why) -> Outcome:
        """Make ``slot`` map ``gfn``, which is at ``hpa``, with the rights ``access``.

        EMULATE if the page must stay read-only although ``access`` has WRITE: it is a table.
        """
        old = self._pages.read(slot)
        if self._pages.present(old) and not self._maps(slot, gfn, hpa):
            self._pages.drop(slot)
            self._flushes.request("remapped")
            old = self._pages.read(slot)
        old = old if self._pages.present(old) else 0
        protect = self._must_protect(slot, gfn, access, old, why)
        spte = self._make(slot, hpa, access & ~(WRITE if protect else 0), old, why)
        if spte != old:
            self._pages.set_leaf(slot, gfn, spte)
            if old & ~spte & (WRITABLE | ACCESSED | _DIRTY):  # mmu_spte_update()
                self._flushes.request("narrowed")
        if protect:
            return Outcome.EMULATE
        return Outcome.FIXED if spte != old else Outcome.SPURIOUS

    def _maps(self, slot: Slot, gfn: int, hpa: int) -> bool:
        same_frame = self._pages.read(slot) & ADDRESS == hpa
        return slot.page.maps.get(slot.index) == gfn and same_frame

    def _must_protect(self, slot: Slot, gfn: int, access: int, old: int, why: Why) -> bool:
        """Whether a shadowed table keeps the page read-only; else its shadow pages go unsync."""
        if not access & WRITE or (self._policy.unsync and old & WRITABLE):
            return False
        size = covered(slot.page.role.level)
        if size > 1:
            return self._pages.shadows_any(gfn, size)
        if self._pages.tracked(gfn):
            return True
        in_step = [page for page in self._pages.shadowing(gfn) if not page.unsync]
        if why is Why.SYNC:
            return bool(self._pages.shadowing(gfn))
        if why is Why.PREFETCH:
            return bool(in_step)
        for page in in_step:
            self._pages.begin_unsync(page)
        return False

    def _make(self, slot: Slot, hpa: int, access: int, old: int, why: Why) -> int:
        """The entry itself (make_spte)."""
        spte = hpa | PRESENT | (PS if slot.page.role.level > 1 else 0)
        spte |= ACCESSED if why is Why.FAULT else old & ACCESSED
        spte |= USER_BIT if access & USER else 0
        spte |= 0 if access & EXECUTE else _XD
        if access & WRITE:
            spte |= WRITABLE
            spte |= 0 if self._policy.skips_dirty and old & WRITABLE else _DIRTY
        return spte


def page_of(hpa: int, level: int) -> int:
    """The first byte of the page of a leaf at ``level`` that holds ``hpa``."""
    return hpa & ~((covered(level) << PAGE_SHIFT) - 1)
