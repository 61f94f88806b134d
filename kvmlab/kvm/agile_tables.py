"""Which guest tables are walked nested, how they become so, and what brings them back."""

from collections import Counter
from collections.abc import Iterator

from kvmlab.hardware.agile import SWITCH
from kvmlab.hardware.formats import ALL_RIGHTS
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import EXECUTE, USER, WRITE, Mapped
from kvmlab.kvm.agile_policy import AgilePolicy
from kvmlab.kvm.records import ModeSwitched, SpteSet
from kvmlab.kvm.shadow_fetch import Fetch
from kvmlab.kvm.shadow_pages import (
    ENTRIES,
    PRESENT,
    WRITABLE,
    ShadowPage,
    ShadowPages,
    Slot,
    shift_of,
)
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_sptes import Outcome
from kvmlab.kvm.shadow_sync import Sync
from kvmlab.kvm.shadow_writes import Writes
from kvmlab.kvm.tracked_ept import TrackedEpt
from kvmlab.kvm.vm import Backing, Vm

_USER, _ACCESSED, _DIRTY, _XD = 1 << 2, 1 << 5, 1 << 6, 1 << 63


class NestedTables:
    """The guest tables that are tops of nested parts, by gfn; what is below them is nested too."""

    def __init__(self, vm: Vm, pages: ShadowPages, ept: TrackedEpt, policy: AgilePolicy) -> None:
        self._vm, self._pages, self._ept, self._policy = vm, pages, ept, policy
        self._levels: dict[int, int] = {}
        self._clean: Counter[int] = Counter()  # scans in a row that found the table unwritten
        self._writes: Counter[int] = Counter()  # trapped since the last scan

    def __len__(self) -> int:
        """How many tables are tops of nested parts."""
        return len(self._levels)

    def holds(self, gfn: int) -> bool:
        """Whether the walk goes on nested at the table in ``gfn``."""
        return gfn in self._levels

    def written(self, gfn: int) -> None:
        """A write to a shadowed table trapped; one too many makes it nested."""
        self._writes[gfn] += 1
        if self._writes[gfn] >= self._policy.write_threshold:
            self.switch(gfn)

    def switch(self, gfn: int) -> None:
        """Walk the table in ``gfn`` nested from now on; its shadow pages go, and those below."""
        shadows = list(self._pages.shadowing(gfn))
        if not shadows:
            return
        self._levels[gfn] = shadows[0].role.level
        self._clean[gfn] = 0
        with self._vm.flushes.together():
            for page in shadows:
                self._drop(page)
        self._vm.tap(ModeSwitched(gfn, self._levels[gfn], "nested"))

    def scan(self) -> None:
        """Shadow again what was written by nobody since the last scan, or the last few."""
        self._writes.clear()
        changed = False
        for gfn in list(self._levels):
            dirty = self._take_dirty(gfn)
            self._clean[gfn] = 0 if dirty else self._clean[gfn] + 1
            rested = self._clean[gfn] >= self._policy.clean_scans
            if rested:
                self._back(gfn)
            changed |= dirty or rested
        if changed:
            self._vm.flushes.request("scan")

    def unmap(self, first: int, last: int) -> None:
        """The host takes frames: a nested table in one of them is shadowed again.

        A switching bit in the root holds where the table is in the host, which is about to end.
        """
        for gfn in [one for one in self._levels if first <= one <= last]:
            self._back(gfn)
            self._vm.flushes.request("unmap")  # every virtual CPU takes up its root anew

    def clear(self) -> None:
        """Nothing is known of the guest's memory any more."""
        self._levels.clear()
        self._writes.clear()
        self._clean.clear()

    def _back(self, gfn: int) -> None:
        """Let the next fault shadow the table in ``gfn``."""
        level = self._levels.pop(gfn)
        for slot in self._pages.leaves_of(gfn):
            if self._pages.read(slot) & SWITCH:
                self._pages.drop(slot)
        self._vm.tap(ModeSwitched(gfn, level, "shadow"))

    def _drop(self, page: ShadowPage) -> None:
        """Throw a shadow page away with all below it that nothing else leads to."""
        if self._pages.find(page.gfn, page.role) is not page:
            return  # it went before: two entries led to it, or it is a table of itself
        below = list(_children(self._pages, page))
        self._pages.zap(page, "switched")
        for child in below:
            if not child.parents:
                self._drop(child)

    def _take_dirty(self, gfn: int) -> bool:
        """Whether a leaf through which ``gfn`` can be written is dirty; all are clean then."""
        dirty = self._ept.take_dirty(gfn)
        for slot in self._pages.leaves_of(gfn):
            spte = self._pages.read(slot)
            if spte & _DIRTY and not spte & SWITCH:
                dirty = True
                self._vm.ram.store(slot.hpa, spte & ~_DIRTY)
                level = slot.page.role.level
                self._vm.tap(SpteSet("shadow", level, gfn, slot.hpa, spte & ~_DIRTY))
        return dirty


def _children(pages: ShadowPages, page: ShadowPage) -> Iterator[ShadowPage]:
    if page.role.level > 1:
        for index in range(ENTRIES):
            if child := pages.child(Slot(page, index)):
                yield child


class AgileFetch(Fetch):
    """Filling that ends at a switching entry where the next table is nested."""

    def __init__(self, parts: Parts, sync: Sync, nested: NestedTables) -> None:
        super().__init__(parts, sync)
        self._nested = nested

    def fill(
        self, root: ShadowPage, gva: int, mapped: Mapped, backing: Backing, *, write: bool
    ) -> Outcome:
        """Build the shadow path as far as ``gva`` is shadowed, then its leaf or the switch."""
        for depth, visit in enumerate(mapped.path[1:], 1):
            gfn = visit.address >> PAGE_SHIFT
            if self._nested.holds(gfn):
                upper = Mapped(mapped.table, 0, 0, 0, 0, mapped.path[:depth])
                return self._switch(root, gva, upper, gfn)
        return super().fill(root, gva, mapped, backing, write=write)

    def _switch(self, root: ShadowPage, gva: int, upper: Mapped, gfn: int) -> Outcome:
        """Make the last entry of ``upper`` a switching one: the table in ``gfn``, in the host.

        It carries what the guest's entries down to it allow together, since the walk, which
        goes on in the guest's own tables, has seen none of them.
        """
        backing = self._vm.back(gfn << PAGE_SHIFT)
        if backing is None:
            return Outcome.SPURIOUS
        page = self._through_tables(root, gva, upper)
        slot = Slot(page, gva >> shift_of(page.role.level) & ENTRIES - 1)
        rights = ALL_RIGHTS
        for visit in upper.path:
            rights &= self._guest.rights(visit.entry)
        spte = backing.host.address | PRESENT | _ACCESSED | SWITCH
        spte |= (WRITABLE if rights & WRITE else 0) | (_USER if rights & USER else 0)
        spte |= 0 if rights & EXECUTE else _XD
        if self._pages.drop(slot):
            self._flushes.request("switched")
        self._pages.set_leaf(slot, gfn, spte)
        return Outcome.FIXED


class AgileWrites(Writes):
    """Emulated stores that remember which tables they went to."""

    def __init__(self, parts: Parts, fetch: Fetch, nested: NestedTables) -> None:
        super().__init__(parts, fetch)
        self._nested = nested

    def emulate(self, gpa: int, hpa: int, data: bytes) -> None:
        """Do the guest's store; a table that it writes once too often is nested from now on."""
        super().emulate(gpa, hpa, data)
        self._nested.written(gpa >> PAGE_SHIFT)
