"""When agile paging changes its mind about a guest table.

Gandhi, Hill and Swift, ISCA 2016: a table that the guest keeps writing is worth no traps, one
that it leaves alone is worth a short walk.  The paper's mechanism is here; its numbers were not
at hand, so the two defaults are ours, and are there to be turned.
"""

from dataclasses import dataclass

from kvmlab.kvm.policy import Policy


@dataclass(frozen=True, slots=True)
class AgilePolicy:
    """The switches of one agile MMU."""

    write_threshold: int = 2  # trapped writes to one table between two scans: it goes nested
    clean_scans: int = 1  # scans in a row that find it unwritten: it is shadowed again


SHADOW_PART = Policy("agile", "every write to a table of the shadow part traps")
"""How the shadow part is kept true: as KVM of 2007 did; what is written often leaves it."""
