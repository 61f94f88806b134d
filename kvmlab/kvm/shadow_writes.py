"""Writes to shadowed guest tables: emulated, then the shadow pages follow.

Linux, arch/x86/kvm/mmu/mmu.c: kvm_mmu_pte_write(), detect_write_misaligned(),
detect_write_flooding().
"""

from kvmlab.kvm.records import EntryWritten, WriteTrapped
from kvmlab.kvm.shadow_fetch import Fetch
from kvmlab.kvm.shadow_pages import PRESENT, ShadowPage, Slot
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_sptes import ACCESSED

FLOOD = 3  # trapped writes without a walk in between, after which a shadow page is thrown away


class Writes:
    """Emulates stores to guest tables and brings their shadow pages in step."""

    def __init__(self, parts: Parts, fetch: Fetch) -> None:
        self._vm, self._policy, self._flushes = parts.vm, parts.policy, parts.flushes
        self._guest, self._pages = parts.guest, parts.pages
        self._fetch = fetch

    def emulate(self, gpa: int, hpa: int, data: bytes) -> None:
        """Do the guest's store for it; throw away or bring in step what was built from there."""
        self._vm.tap(WriteTrapped(gpa, data))
        self._vm.ram.write(hpa, data)
        self._vm.mark_dirty(gpa)
        with self._flushes.together():
            self._follow(gpa, len(data))

    def _follow(self, gpa: int, size: int) -> None:
        gfn = gpa >> 12
        for page in list(self._pages.shadowing(gfn)):
            if page.hpa not in {one.hpa for one in self._pages.shadowing(gfn)}:
                continue  # an unsync page that went with one above it
            if why := self._lost(page, gpa, size):
                self._pages.zap(page, why)
            else:
                for index in page.made_from(gpa):
                    self._entry_written(Slot(page, index))

    def _lost(self, page: ShadowPage, gpa: int, size: int) -> str:
        """Why ``page`` is worth no further care; empty if it is."""
        if _misaligned(gpa, size, page.entry_bytes):
            return "misaligned"
        if self._policy.unsync and page.role.level == 1:
            return ""
        if page.rebuilt is not None and self._pages.read(Slot(page, page.rebuilt)) & ACCESSED:
            page.writes = 0  # what the last write built was used (last_updated_pte_accessed)
        page.writes += 1
        return "flooded" if page.writes >= FLOOD else ""

    def _entry_written(self, slot: Slot) -> None:
        """Drop the entry built from the old value; by policy, build the new one."""
        page = slot.page
        entry = self._guest.entry(page.source(slot.index), page.entry_bytes)
        self._vm.tap(EntryWritten(page.gfn, page.role.level, entry))
        if self._pages.drop(slot):
            self._flushes.request("table write")
        if self._policy.rebuild and page.role.level == 1 and self._in_force(page):
            self._fetch.build(slot, entry)
        if self._policy.bypass and not entry & PRESENT:
            self._pages.show_absent(slot)

    def _in_force(self, page: ShadowPage) -> bool:
        """Whether the guest's registers still say what they said when ``page`` was made."""
        role = self._guest.role
        return not role.direct and page.role.same_mode(role)


def _misaligned(gpa: int, size: int, entry_bytes: int) -> bool:
    """Whether a store changes anything but one entry; a byte at an entry's start is fine."""
    if size == 1 and not gpa & entry_bytes - 1:
        return False
    return bool((gpa ^ gpa + size - 1) & -entry_bytes) or size < 4
