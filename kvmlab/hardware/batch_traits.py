"""What a verdict on a page depends on, as one small number made of the bits of its entries.

There are few such numbers among a million pages, so each is judged once, by the functions of the
scalar path, and a verdict on a page is one gather.
"""

from dataclasses import dataclass

from kvmlab.hardware.formats import Tables

TRAITS = 1 << 11


@dataclass(frozen=True, slots=True)
class Traits:
    """What a number of `Found.traits` says of a page."""

    tables: Tables
    number: int

    @property
    def rights(self) -> int:
        """What all entries together allow, as R, W, X and U (see `walker.entry_rights`)."""
        bits = self.number
        if self.tables.format.mode != "ept":
            return 1 | bits & 2 | (bits & 1) << 2 | (bits & 4) << 1
        return bits & 7 | (bits >> 7 & 8 if self.tables.switches.mode_based else (bits & 4) << 1)

    @property
    def leaf(self) -> int:
        """The leaf entry, as far as its protection key."""
        keyed = self.tables.switches.keys and self.tables.format.long_mode
        return (self.number >> 7 & 15) << 59 if keyed else 0

    @property
    def accessed(self) -> bool:
        """Whether every entry on the way has its A bit set."""
        return bool(self.number & self.tables.format.accessed)

    @property
    def dirty(self) -> bool:
        """Whether the leaf has its D bit set."""
        return bool(self.number & self.tables.format.dirty)
