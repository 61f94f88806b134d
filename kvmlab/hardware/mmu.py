"""The memory-management unit: TLB, paging-structure caches, and the walker that serves a miss.

`Mmu.translate` is one translation: it walks the guest's tables, judges, sets A and D, walks EPT
for the page itself and fills the TLB.  What it returns is where the access goes, or a `Stop` that
says whose tables refused and why; `faults` makes a #PF or a VM exit of that.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kvmlab.base.tap import Tap
from kvmlab.hardware import permissions
from kvmlab.hardware.agile import agile_walk
from kvmlab.hardware.context import Context, context
from kvmlab.hardware.ept import Ept, nested
from kvmlab.hardware.formats import Tables
from kvmlab.hardware.processor import CR4_PGE, Controls, Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import (
    USER,
    WRITE,
    Fault,
    Kind,
    Mapped,
    NestedTlbLookup,
    TlbFill,
    TlbFlush,
    TlbLookup,
    WalkCacheLookup,
)
from kvmlab.hardware.tlb import GLOBAL, Geometry, Tag, Tlb, TlbEntry
from kvmlab.hardware.walk_caches import NestedTlb, WalkCaches
from kvmlab.hardware.walker import Start, Walked, mark, walk


@dataclass(slots=True)
class Access:
    """What is asked of the MMU; ``user`` counts the privilege, not the page."""

    gva: int
    kind: Kind
    user: bool
    implicit: bool = False  # a descriptor table or the TSS: a supervisor access at any CPL


@dataclass(slots=True)
class Stop:
    """A translation that did not arrive: the fault, and what was being accessed."""

    fault: Fault
    mapped: Mapped | None = None  # what the guest's tables said, if they were walked to the end
    final: bool = False  # the EPT translation of the access itself, not of a guest table


class Mmu:
    """The part of a CPU that translates, over ``ram``."""

    def __init__(self, ram: Ram, processor: Processor, geometry: Geometry, tap: Tap) -> None:
        self.ram, self.processor, self.tap = ram, processor, tap
        self.tlb = Tlb(geometry)
        self.walk_caches = WalkCaches(geometry.walk_caches) if geometry.walk_caches else None
        self.nested_tlb = NestedTlb(geometry.nested) if geometry.nested else None
        self.context: Context = context(Controls(), None, processor)

    # -- what is cached -----------------------------------------------------------------

    def flush_tlb(self) -> None:
        """Empty the TLB and the walk caches: the next access is a complete miss."""
        if self.nested_tlb:
            self.nested_tlb.drop()
        self.drop("cold start", lambda _tag: True)

    def forget(self, gva: int, why: str) -> None:
        """Drop what is cached for one page: of this PCID, and the global translation.

        INVLPG drops all paging-structure caches of the PCID, a #PF those of the address.
        """
        ctx = self.context
        dropped = self.tlb.drop_page(gva, ctx.tag)
        if self.walk_caches and why == "INVLPG":
            own = (ctx.tag.vpid, ctx.tag.pcid)  # for all EPT roots
            self.walk_caches.drop(lambda tag: (tag.vpid, tag.pcid) == own)
        elif self.walk_caches and ctx.tables:
            self.walk_caches.drop_address(ctx.tables, gva, ctx.tag)
        if dropped or why == "INVLPG":
            self.tap(TlbFlush(why, dropped))

    def drop(self, why: str, tags: Callable[[Tag], object], gva: int | None = None) -> None:
        """Drop the translations whose tag passes ``tags``, all or those of the page of ``gva``.

        Paging-structure caches of such tags go altogether, as the SDM allows and demands.
        """
        dropped = self.tlb.drop(lambda one: tags(one.tag) and (gva is None or one.belongs_to(gva)))
        if self.walk_caches:
            self.walk_caches.drop(tags)
        self.tap(TlbFlush(why, dropped))

    def cached(self, access: Access, controls: Controls) -> int | None:
        """The host-physical address that the TLB gives for an access; None calls for a walk."""
        gva, kind, user = access.gva, access.kind, access.user
        entry, where = self.tlb.lookup(gva, self.context.tags, fetch=kind is Kind.FETCH)
        if entry is not None and self._grants(entry, access, controls):
            self.tap(TlbLookup(gva, kind, user, where))
            return entry.page | gva & (1 << entry.shift) - 1
        # A cached entry that does not allow the access is no answer: the tables are.
        self.tap(TlbLookup(gva, kind, user, "miss"))
        if entry is not None:
            self.tlb.drop_page(gva, self.context.tag)
        return None

    def _grants(self, entry: TlbEntry, access: Access, controls: Controls) -> bool:
        """Whether a cached translation allows an access; without paging only EPT can object."""
        kind, user = access.kind, access.user
        if self.context.tables is None or not kind & entry.allows:
            return bool(kind & entry.allows)
        key = permissions.key_denies(controls, entry.leaf, entry.rights, kind, user=user)
        return not key and _allowed(controls, entry.rights, access)

    # -- one translation ----------------------------------------------------------------

    def translate(self, access: Access, controls: Controls) -> int | Stop:
        """Walk the guest's tables, judge, set A and D, then walk EPT for the page itself."""
        mapped: Mapped | None = None
        gpa = access.gva
        if self.context.tables is not None:
            found = self._first_dimension(self.context.tables, access, controls)
            if isinstance(found, Fault):
                return Stop(found)
            mapped, gpa = found, found.address
        final: Mapped | None = None
        if self.context.ept is not None and not self._in_host(mapped):
            reached = self._second_dimension(gpa, self._ept_wants(access.kind, mapped))
            if isinstance(reached, Fault):
                return Stop(reached, mapped, final=True)
            final = reached
        hpa = final.address if final else gpa
        if mapped or final:
            self._fill(access, hpa, mapped, final, controls)
        return hpa

    def _in_host(self, mapped: Mapped | None) -> bool:
        """Whether agile paging found the page in its shadow tree, so without EPT."""
        return self.context.shadow is not None and mapped is not None and mapped.table == "shadow"

    def _first_dimension(self, tables: Tables, access: Access, controls: Controls) -> Walked:
        """The guest's own tables: walk, judge, set A and D."""
        start = self._begin(access.gva)
        found = self._walk_guest(access.gva, start)
        if isinstance(found, Fault):
            return found
        kind, level = access.kind, found.path[-1].level
        table, rights = found.table, found.rights
        if permissions.key_denies(controls, found.leaf, rights, kind, user=access.user):
            return Fault(table, level, "key", access.gva, rights, kind)
        if not _allowed(controls, rights, access):
            return Fault(table, level, "rights", access.gva, rights, kind)
        if self.context.shadow and self._in_host(found):
            tables = self.context.shadow.tables
        refused = mark(tables, found.path, self.ram, self.tap, write=kind is Kind.WRITE)
        if refused:
            return refused
        if self.walk_caches and not self.context.shadow:
            self.walk_caches.fill(tables, access.gva, self.context.tag, found, start)
        return found

    def _begin(self, gva: int) -> Start | None:
        """Where the walk may begin: the deepest upper entry that is cached.

        Agile paging caches none: an entry would have to say which part of the walk it is of.
        """
        if not self.walk_caches or not self.context.tables or self.context.shadow:
            return None
        start = self.walk_caches.longest(self.context.tables, gva, self.context.tag)
        self.tap(WalkCacheLookup(gva, start.level if start else 0))
        return start

    def _walk_guest(self, gva: int, start: Start | None) -> Walked:
        """The guest's own tables, each entry located through EPT where EPT is on."""
        ctx = self.context
        tables, first = ctx.tables, ctx.first_table(gva)
        assert tables is not None  # noqa: S101  the caller looked
        if first is None:
            return Fault(tables.format.table, tables.format.levels, "absent", gva, 0, 0)
        if ctx.shadow:
            return agile_walk(ctx.shadow, tables, gva, self.ram, self.tap, self._table_page)
        locate = self._table_page if ctx.ept else None
        return walk(tables, first, gva, self.ram, self.tap, locate, start)

    def _table_page(self, gpa: int) -> Walked:
        """Where a guest table's entry lives: an EPT translation for a table access."""
        assert self.context.ept is not None  # noqa: S101  asked for only with EPT on
        return self._second_dimension(gpa, self.context.ept.table_access)

    def _second_dimension(self, gpa: int, wants: int) -> Walked:
        """Translate by EPT, through the nested TLB where there is one."""
        ept = self.context.ept
        assert ept is not None  # noqa: S101  asked for only with EPT on
        if self.nested_tlb is None:
            return nested(ept, self.ram, gpa, wants, self.tap)
        return self._nested_lookup(self.nested_tlb, ept, gpa, wants)

    def _nested_lookup(self, cached: NestedTlb, ept: Ept, gpa: int, wants: int) -> Walked:
        hit = cached.find(gpa, wants, ept.root)
        self.tap(NestedTlbLookup(gpa, hit is not None))
        if hit is not None:
            return hit
        found = nested(ept, self.ram, gpa, wants, self.tap)
        if isinstance(found, Mapped):
            dirty = ept.tables.format.dirty if ept.accessed_dirty else 0
            cached.fill(gpa, found, ept.root, dirty)
        return found

    def _ept_wants(self, kind: Kind, mapped: Mapped | None) -> int:
        """The EPT right the final access needs; mode-based execute tells user pages apart."""
        user_page = mapped is None or mapped.rights & USER
        if kind is Kind.FETCH and user_page and self.context.mode_based:
            return USER
        return int(kind)

    def _fill(
        self,
        access: Access,
        hpa: int,
        mapped: Mapped | None,
        final: Mapped | None,
        controls: Controls,
    ) -> None:
        """Cache the finished translation at the smaller of the two page sizes."""
        shift = min(one.shift for one in (mapped, final) if one is not None)
        rights = mapped.rights if mapped else 0xF
        allows = final.rights & 7 if final else 7
        if final and self.context.mode_based and rights & USER:
            allows = allows & ~4 | (final.rights & USER) >> 1  # user pages: XU is the fetch right
        if not (_dirty(self.context.tables, mapped) and self._ept_dirty(final)):
            allows &= ~WRITE  # the first write must walk again and set D
        leaf = mapped.leaf if mapped else 0
        tag = self.context.tag
        if leaf & 1 << 8 and controls.cr4 & CR4_PGE:
            tag = tag._replace(pcid=GLOBAL)
        page = hpa & ~((1 << shift) - 1)
        span = mapped.shift if mapped else shift
        entry = TlbEntry(access.gva >> shift, page, shift, rights, allows, leaf, tag, span)
        self.tlb.fill(entry, fetch=access.kind is Kind.FETCH)
        self.tap(TlbFill(access.gva, hpa, shift, rights))

    def _ept_dirty(self, final: Mapped | None) -> bool:
        ept = self.context.ept
        return ept is None or not ept.accessed_dirty or _dirty(ept.tables, final)


def _allowed(controls: Controls, rights: int, access: Access) -> bool:
    return permissions.allowed(
        controls, rights, access.kind, user=access.user, implicit=access.implicit
    )


def _dirty(tables: Tables | None, mapped: Mapped | None) -> bool:
    """Whether the leaf of a finished walk has its D bit set (or there was no walk)."""
    if mapped is None or tables is None:
        return True
    leaf = mapped.path[-1].entry if mapped.path else mapped.leaf
    return bool(leaf & tables.format.dirty)
