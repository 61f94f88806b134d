"""Kinds of page tables as rows of facts, and their masks for one processor.

Guest tables, EPT, NPT and shadow tables differ only in these rows: one walker serves all.
The masks of a level are derived from the fields in `fields`, so what is reserved, what is an
address and what a picture shows cannot disagree.
"""

from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.fields import Field, Switches, ept_fields, guest_fields
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.records import EXECUTE, READ, USER, WRITE

XD = 1 << 63
PS = 1 << 7
ALL_RIGHTS = READ | WRITE | EXECUTE | USER


@dataclass(frozen=True, slots=True)
class Format:
    """The facts by which one kind of table differs from another."""

    name: str  # as shown: "4-level", "EPT-4", ...
    table: str  # who must answer a fault in it: "guest", "ept" or "shadow"
    mode: str  # a guest's paging mode, or "ept"
    index_bits: tuple[int, ...]  # from the top level down to the PTE
    entry_bytes: int = 8
    accessed: int = 1 << 5
    dirty: int = 1 << 6

    @property
    def levels(self) -> int:
        """How many levels the tree has."""
        return len(self.index_bits)

    @property
    def long_mode(self) -> bool:
        """Whether this is IA-32e paging: 64-bit linear addresses."""
        return self.mode in ("4-level", "5-level")

    @property
    def page_shifts(self) -> tuple[int, ...]:
        """The page sizes this kind of table can map, as shifts, smallest first."""
        if self.mode == "32-bit":
            return (12, 22)
        return (12, 21) if self.mode == "PAE" else (12, 21, 30)


_NINES = (9, 9, 9, 9, 9)
FORMATS = MappingProxyType(
    {
        "32-bit": Format("32-bit", "guest", "32-bit", (10, 10), entry_bytes=4),
        "PAE": Format("PAE", "guest", "PAE", (2, 9, 9)),
        "4-level": Format("4-level", "guest", "4-level", _NINES[:4]),
        "5-level": Format("5-level", "guest", "5-level", _NINES),
        "EPT-4": Format("EPT-4", "ept", "ept", _NINES[:4], accessed=1 << 8, dirty=1 << 9),
        "EPT-5": Format("EPT-5", "ept", "ept", _NINES, accessed=1 << 8, dirty=1 << 9),
        # AMD's nested tables are guest-format tables that translate guest-physical addresses.
        "NPT-4": Format("NPT-4", "ept", "4-level", _NINES[:4]),
        "NPT-5": Format("NPT-5", "ept", "5-level", _NINES),
        # A shadow table is a guest-format table that the hypervisor built.
        "shadow-4": Format("shadow-4", "shadow", "4-level", _NINES[:4]),
        "shadow-5": Format("shadow-5", "shadow", "5-level", _NINES),
    }
)


def format_named(name: str) -> Format:
    """The row called ``name``; raises `BadChoice` that lists the names there are."""
    if name not in FORMATS:
        raise BadChoice(f"there is no table format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


@dataclass(frozen=True, slots=True)
class Row:
    """One level of a format, ready for the walker: shifts and masks for one processor."""

    level: int
    shift: int
    index_mask: int
    present: int  # an entry with none of these bits set is absent
    leaf: int  # an entry with this bit set maps a page; at level 1 every entry does
    always_leaf: bool
    table_reserved: int
    table_address: int
    page_reserved: int
    page_address: int
    page_high: int  # PSE-36: these bits are bits 39:32 of the page


@dataclass(frozen=True, slots=True)
class Tables:
    """A `Format` compiled for a processor and its switches: what `walk` is given."""

    format: Format
    switches: Switches
    rows: tuple[Row, ...]  # from the top level down
    bad_rights: int  # bit n set: the pattern n of R, W, X (and XU as bit 3) is illegal
    bad_types: int  # bit n set: the memory type n is illegal in a leaf
    no_rights_level: int  # the level whose entries carry no rights (PAE's PDPTE), or 0
    eager: bool  # set A while descending, as QEMU does
    switch: int = 0  # agile paging: an upper entry with this bit makes the walk go on nested


@cache
def compile_tables(fmt: Format, cpu: Processor, switches: Switches | None = None) -> Tables:
    """The masks of ``fmt`` on ``cpu`` with ``switches``."""
    switches = switches or Switches()
    ept = fmt.mode == "ept"
    rows = []
    shift = 12 + sum(fmt.index_bits)
    for level, bits in zip(range(fmt.levels, 0, -1), fmt.index_bits, strict=True):
        shift -= bits
        rows.append(_row(fmt, cpu, switches, level, shift, bits))
    return Tables(
        format=fmt,
        switches=switches,
        rows=tuple(rows),
        bad_rights=_illegal_rights(cpu, switches) if ept else 0,
        bad_types=1 << 2 | 1 << 3 | 1 << 7 if ept else 0,
        no_rights_level=3 if fmt.mode == "PAE" else 0,
        eager=cpu.accessed_while_walking and not ept,
    )


def _illegal_rights(cpu: Processor, switches: Switches) -> int:
    """Patterns of XU-X-W-R that are a misconfiguration (SDM, "EPT Misconfigurations")."""
    patterns = 0
    for pattern in range(16 if switches.mode_based else 8):
        readable, writable, executable = pattern & READ, pattern & WRITE, pattern & ~3
        if not readable and (writable or (executable and not cpu.ept_execute_only)):
            patterns |= 1 << pattern
    return patterns


def fields(
    fmt: Format, level: int, *, leaf: bool, cpu: Processor, switches: Switches
) -> tuple[Field, ...]:
    """The fields of an entry of ``fmt`` at ``level``, from bit 0 up; the rest is reserved."""
    if fmt.mode == "ept":
        found = ept_fields(level, leaf=leaf, cpu=cpu, switches=switches)
    else:
        found = guest_fields(fmt.mode, level, leaf=leaf, cpu=cpu, switches=switches)
    return tuple(sorted(found, key=lambda one: one.low))


def reserved_bits(fmt: Format, known: tuple[Field, ...]) -> int:
    """The bits of an entry that none of its ``known`` fields names."""
    return ((1 << 8 * fmt.entry_bytes) - 1) & ~_bits(known)


def can_be_leaf(fmt: Format, level: int, cpu: Processor, switches: Switches) -> bool:
    """Whether an entry at ``level`` can map a page on this processor."""
    if level == 1:
        return True
    if fmt.mode == "ept":
        return (level == 2 and cpu.ept_2m) or (level == 3 and cpu.ept_1g)
    if fmt.mode == "32-bit":
        return level == 2 and switches.pse
    return level == 2 or (level == 3 and fmt.mode != "PAE" and cpu.gigabyte_pages)


def _row(fmt: Format, cpu: Processor, switches: Switches, level: int, shift: int, bits: int) -> Row:
    table = fields(fmt, level, leaf=False, cpu=cpu, switches=switches)
    page = fields(fmt, level, leaf=True, cpu=cpu, switches=switches)
    present = 1
    if fmt.mode == "ept":
        present = READ | WRITE | EXECUTE | (1 << 10 if switches.mode_based else 0)
    return Row(
        level=level,
        shift=shift,
        index_mask=(1 << bits) - 1,
        present=present,
        leaf=PS if can_be_leaf(fmt, level, cpu, switches) else 0,
        always_leaf=level == 1,
        table_reserved=reserved_bits(fmt, table),
        table_address=_bits(table, "address"),
        page_reserved=reserved_bits(fmt, page),
        page_address=_bits(page, "address"),
        page_high=_bits(page, "address-high"),
    )


def _bits(some: tuple[Field, ...], name: str = "") -> int:
    mask = 0
    for one in some:
        if not name or one.name == name:
            mask |= one.mask
    return mask


def without_pointers(tables: Tables) -> Tables:
    """PAE as Intel walks it: the four PDPTEs are registers, so the walk begins at the PDE."""
    return replace(tables, rows=tables.rows[1:])
