"""Walk a tree of page tables, one reference at a time.

A walk tells its tap a `Step` for each entry that it reads, and returns `Mapped` or `Fault`.
Guest tables, EPT and shadow tables differ only in their `Tables`; a native and a two-dimensional
walk differ only in ``locate``, which says where in RAM an entry lives.  Without it an address of
the tables is host-physical already; with EPT it is a walk of its own (SDM, "EPT Translation
Mechanism"), so the two-dimensional walk is `walk` calling itself.

The walk only finds.  Whether the access is allowed is judged after the leaf, by `permissions`
or by `nested`; A and D bits are set after that, by `mark`: three functions of one idea each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvmlab.base.tap import Tap
from kvmlab.hardware.formats import ALL_RIGHTS, XD, Row, Tables
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import (
    EXECUTE,
    READ,
    WRITE,
    AccessedDirty,
    Fault,
    Mapped,
    Step,
    Verdict,
    Visit,
)

# One global name each: a member of an enumeration is looked up far more slowly (Python 3.11).
_TABLE, _LEAF, _ABSENT = Verdict.TABLE, Verdict.LEAF, Verdict.ABSENT
_RESERVED, _SWITCH = Verdict.RESERVED, Verdict.SWITCH


@dataclass(slots=True)
class Start:
    """A walk begins below an upper entry: one in a paging-structure cache, or a switching one."""

    level: int  # of that entry
    base: int
    rights: int


@dataclass(slots=True)
class Switched(Mapped):
    """A walk met a switching entry (agile paging): ``address`` is the next table, in the host."""


Walked = Mapped | Fault
Locate = Callable[[int], Walked]


def walk(
    tables: Tables,
    root: int,
    address: int,
    ram: Ram,
    tap: Tap,
    locate: Locate | None = None,
    start: Start | None = None,
) -> Walked:
    """Translate ``address`` through the tree at ``root``; rights are reported, not judged.

    Absent wins over reserved in an entry, and both win over anything below it or about rights
    (SDM, "Page-Fault Exceptions"; "EPT Misconfigurations").
    """
    base, rights, rows = root, ALL_RIGHTS, tables.rows
    table, size, unjudged = tables.format.table, tables.format.entry_bytes, tables.no_rights_level
    if start is not None:
        base, rights = start.base, start.rights
        rows = tuple(row for row in rows if row.level < start.level)
    load = ram.load if size == 8 else ram.load4
    path: list[Visit] = []
    for row in rows:
        level, index = row.level, address >> row.shift & row.index_mask
        slot = hpa = base + index * size
        reach = ALL_RIGHTS
        if locate is not None:
            home = locate(slot)
            if isinstance(home, Fault):
                return home  # the other dimension refused: pass its answer on untouched
            hpa, reach = home.address, home.rights
        entry = load(hpa)
        verdict = judge(tables, row, entry)
        tap(Step(table, level, index, slot, hpa, entry, verdict))
        if verdict is _ABSENT or verdict is _RESERVED:
            return Fault(table, level, verdict.value, address, 0, 0)
        path.append(Visit(level, slot, hpa, entry, reach))
        if level != unjudged:
            rights &= entry_rights(tables, entry)
        if verdict is _LEAF:
            break
        if verdict is _SWITCH:
            base = entry & row.table_address
            return Switched(table, base, row.shift, rights, entry, path)
        if tables.eager and (refused := mark(tables, path[-1:], ram, tap, write=False)):
            return refused
        base = entry & row.table_address
    inside = (1 << row.shift) - 1
    page = entry & row.page_address | (entry & row.page_high) << 19
    return Mapped(table, page | address & inside, row.shift, rights, entry, path)


def steps_of(
    tables: Tables, root: int, address: int, ram: Ram, locate: Locate | None = None
) -> tuple[list[Step], Walked]:
    """The entries that a walk reads, and where it ends."""
    told: list[object] = []
    found = walk(tables, root, address, ram, told.append, locate)
    return [one for one in told if isinstance(one, Step)], found


def judge(tables: Tables, row: Row, entry: int) -> Verdict:
    """What ``entry`` is: hardware ignores the rest of an absent entry."""
    if not entry & row.present:
        return _ABSENT
    leaf = row.always_leaf or entry & row.leaf
    if entry & (row.page_reserved if leaf else row.table_reserved):
        return _RESERVED
    if tables.bad_rights:  # EPT only
        pattern = entry & 7 | (entry >> 7 & 8 if tables.switches.mode_based else 0)
        if tables.bad_rights >> pattern & 1:
            return _RESERVED
        if leaf and tables.bad_types >> (entry >> 3 & 7) & 1:
            return _RESERVED
    if leaf:
        return _LEAF
    return _SWITCH if entry & tables.switch else _TABLE


def entry_rights(tables: Tables, entry: int) -> int:
    """What one entry allows, as R, W, X and U (for EPT with mode-based execute: XU as U)."""
    if tables.format.mode == "ept":
        if tables.switches.mode_based:
            return entry & 7 | entry >> 7 & 8
        return entry & 7 | (entry & EXECUTE) << 1
    rights = READ | entry & WRITE | (entry & 4) << 1  # U is bit 2 of an entry, 8 as a right
    if not (tables.switches.nxe and entry & XD):
        rights |= EXECUTE
    return rights


def mark(
    tables: Tables,
    path: Sequence[Visit],
    ram: Ram,
    tap: Callable[[AccessedDirty], None],
    *,
    write: bool,
) -> Fault | None:
    """Set A in every entry of ``path`` and, for a write, D in the last one (the leaf).

    From the top down, until an entry lies in a page that EPT lets nobody write: that is an EPT
    violation, which is returned.
    """
    fmt = tables.format
    bits, wide, last = fmt.accessed, fmt.entry_bytes == 8, path[-1] if write else None
    for visit in path:
        if visit.level == tables.no_rights_level:
            continue  # a PDPTE has no A bit
        if visit is last:
            bits |= fmt.dirty
        if bits & ~visit.entry:
            old = ram.load(visit.hpa) if wide else ram.load4(visit.hpa)
            visit.entry = old | bits  # a locked read-modify-write
            if visit.entry == old:
                continue  # tables that use one entry twice have set it already
            if not visit.reach & WRITE:
                return Fault("ept", 1, "rights", visit.address, visit.reach, READ | WRITE)
            (ram.store if wide else ram.store4)(visit.hpa, visit.entry)
            tap(AccessedDirty(fmt.table, visit.level, visit.hpa, old, visit.entry))
    return None
