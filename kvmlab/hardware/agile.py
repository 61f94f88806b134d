"""Agile paging: a walk that begins in a shadow tree and may go on nested.

Gandhi, Hill and Swift, ISCA 2016.  A third root names the shadow tree.  An upper entry of it with
the switching bit holds the host address of the guest's next table: from there on the walk is
two-dimensional, and never goes back.  The root itself can carry the bit.  Of G guest levels, k
read in the shadow and r = G - k nested over an EPT of H levels, a complete miss reads
k + r + r*H entries: 4, 8, 12, 16 or 20 of 4-level tables; 24 where EPT must find the guest's root
too.  No processor on sale does this.
"""

from dataclasses import dataclass, replace

from kvmlab.base.tap import Tap
from kvmlab.hardware.formats import ALL_RIGHTS, Tables
from kvmlab.hardware.ram import PAGE_SHIFT, Ram
from kvmlab.hardware.records import Mapped
from kvmlab.hardware.walker import Locate, Start, Switched, Walked, walk

SWITCH = 1 << 9
"""The switching bit, one of the bits that 64-bit paging ignores; in the root as in an entry."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """The third root: a shadow tree, or with `SWITCH` the guest's own root table in the host."""

    tables: Tables
    root: int


def shadow_of(guest: Tables, root: int) -> Shadow:
    """The shadow tree at ``root`` for a guest with the tables ``guest``: the same format."""
    fmt = replace(guest.format, name=f"shadow-{guest.format.levels}", table="shadow")
    return Shadow(replace(guest, format=fmt, switch=SWITCH), root)


def agile_walk(
    shadow: Shadow, guest: Tables, gva: int, ram: Ram, tap: Tap, locate: Locate
) -> Walked:
    """Translate ``gva``: host-physical if the shadow tree has its leaf, else guest-physical.

    The table of the `Mapped` says which.  A fault belongs to the part of the walk that met it.
    Upper shadow entries are made with A set, so only the nested part is left to be marked.
    """
    start = Start(guest.format.levels + 1, shadow.root & ~SWITCH, ALL_RIGHTS)
    if not shadow.root & SWITCH:
        found = walk(shadow.tables, shadow.root, gva, ram, tap)
        if not isinstance(found, Switched):
            return found
        start = Start(found.path[-1].level, found.address, found.rights)
    return walk(guest, start.base, gva, ram, tap, _beyond(locate), start)


def _beyond(locate: Locate) -> Locate:
    """As ``locate``, but the first table is where the switching entry says: in the host."""
    first = True

    def place(slot: int) -> Walked:
        nonlocal first
        if first:
            first = False
            return Mapped("shadow", slot, PAGE_SHIFT, ALL_RIGHTS, 0, [])
        return locate(slot)

    return place
