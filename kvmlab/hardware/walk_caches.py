"""Paging-structure caches and the nested TLB: what makes 24 references the worst case only.

SDM, "Paging-Structure Caches": an entry of the PDE, PDPTE or PML4 cache gives the next table and
the rights so far, so a walk begins below it.  A nested TLB keeps guest-physical mappings, so that
locating a guest table costs no EPT walk (Bhargava et al., ASPLOS 2008).  Neither exists in the
smallest machine: a geometry without them switches them off.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kvmlab.hardware.formats import ALL_RIGHTS, Tables
from kvmlab.hardware.records import WRITE, Mapped
from kvmlab.hardware.tlb import Array, ArrayShape, Tag, TlbEntry
from kvmlab.hardware.walker import Start, entry_rights


@dataclass(slots=True)
class Upper:
    """One cached upper entry: the table below it and the rights of all entries down to it."""

    base: int
    rights: int
    tag: Tag


class WalkCaches:
    """One fully associative LRU cache for each level of upper entries."""

    def __init__(self, sizes: tuple[tuple[int, int], ...]) -> None:
        self._sizes = dict(sorted(sizes))  # level -> entries, deepest level first
        self.held: dict[int, dict[tuple[int, Tag], Upper]] = {one: {} for one in self._sizes}

    def longest(self, tables: Tables, gva: int, tag: Tag) -> Start | None:
        """Where a walk may begin: below the deepest cached entry for ``gva``."""
        shifts = {row.level: row.shift for row in tables.rows}
        for level, held in self.held.items():
            key = (gva >> shifts.get(level, 64), tag)
            if level in shifts and key in held:
                one = held.pop(key)
                held[key] = one  # most recent
                return Start(level, one.base, one.rights)
        return None

    def fill(self, tables: Tables, gva: int, tag: Tag, mapped: Mapped, start: Start | None) -> None:
        """Keep the upper entries of a finished walk; leaves are never kept here."""
        rows = {row.level: row for row in tables.rows}
        rights = start.rights if start else ALL_RIGHTS
        for visit in mapped.path[:-1]:
            row = rows[visit.level]
            if visit.level != tables.no_rights_level:
                rights &= entry_rights(tables, visit.entry)
            held = self.held.get(visit.level)
            if held is not None:
                if len(held) == self._sizes[visit.level]:
                    del held[next(iter(held))]
                base = visit.entry & row.table_address
                held[gva >> row.shift, tag] = Upper(base, rights, tag)

    def drop_address(self, tables: Tables, gva: int, tag: Tag) -> None:
        """Drop what a walk for ``gva`` would use."""
        for row in tables.rows:
            self.held.get(row.level, {}).pop((gva >> row.shift, tag), None)

    def drop(self, tags: Callable[[Tag], object]) -> None:
        """Drop every entry whose tag passes ``tags``."""
        for held in self.held.values():
            for key in [key for key, one in held.items() if tags(one.tag)]:
                del held[key]


class NestedTlb:
    """Guest-physical mappings: GPA to HPA, tagged by the EPT root alone."""

    def __init__(self, shape: ArrayShape) -> None:
        self.array = Array(shape)

    def find(self, gpa: int, wants: int, root: int) -> Mapped | None:
        """The cached translation of ``gpa``, if it grants ``wants``."""
        entry = self.array.find(gpa, (Tag(0, 0, root),))
        if entry is None or wants & ~entry.allows:
            return None
        inside = gpa & (1 << entry.shift) - 1
        return Mapped("ept", entry.page | inside, entry.shift, entry.rights, entry.leaf, [])

    def fill(self, gpa: int, found: Mapped, root: int, dirty: int) -> None:
        """Keep a finished EPT walk; ``dirty`` is its D bit, 0 where EPT keeps none.

        A write through a clean mapping must walk again, so that D is set.
        """
        self.array.insert(nested_entry(gpa, found, root, dirty))

    def forget(self, gpa: int, root: int) -> None:
        """Drop the mapping of ``gpa``: an EPT violation does."""
        self.array.remove(gpa, (Tag(0, 0, root),))

    def drop(self, root: int | None = None) -> int:
        """Drop the mappings of one EPT root, or of all of them."""
        return self.array.drop(lambda one: root is None or one.tag.ept_root == root)


def nested_entry(gpa: int, found: Mapped, root: int, dirty: int) -> TlbEntry:
    """What the nested TLB keeps of a finished EPT walk (see `NestedTlb.fill`)."""
    leaf, shift = found.path[-1].entry, found.shift
    clean = dirty and not leaf & dirty
    allows = found.rights & ~WRITE if clean else found.rights
    page = found.address & ~((1 << shift) - 1)
    tag = Tag(0, 0, root)
    return TlbEntry(gpa >> shift, page, shift, found.rights, allows, leaf, tag, span=shift)
