"""Every bit of an entry by name, value and meaning, from the same rows that the walker uses."""

from dataclasses import dataclass

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.fields import LEVEL_NAMES, Field, Switches
from kvmlab.hardware.formats import PS, Format, can_be_leaf, fields, format_named
from kvmlab.hardware.processor import Processor


@dataclass(frozen=True, slots=True)
class Bits:
    """One field of one entry: bits ``high`` to ``low`` and what their ``value`` means."""

    name: str
    high: int
    low: int
    value: int
    meaning: str
    section: str


def describe(
    entry: int,
    fmt: Format | str,
    level: int,
    cpu: Processor | None = None,
    switches: Switches | None = None,
) -> tuple[Bits, ...]:
    """The fields of ``entry``, from bit 63 (or 31) down to bit 0; reserved bits have that name.

    ``fmt`` is a row of `formats` or its name ("4-level", "EPT-4", ...), ``level`` 1 for a PTE.
    Raises `BadChoice` for a level that the format does not have.
    """
    row = format_named(fmt) if isinstance(fmt, str) else fmt
    if not 1 <= level <= row.levels:
        raise BadChoice(f"{row.name} tables have levels 1 to {row.levels}, not {level}")
    cpu, switches = cpu or Processor(), switches or Switches()
    leaf = level == 1 or bool(entry & PS and can_be_leaf(row, level, cpu, switches))
    known = fields(row, level, leaf=leaf, cpu=cpu, switches=switches)
    found = [
        Bits(one.name, one.high, one.low, one.value(entry), one.meaning, one.section)
        for one in (*known, *_reserved(known, 8 * row.entry_bytes))
    ]
    return tuple(sorted(found, key=lambda one: -one.low))


def entry_name(fmt: Format, level: int) -> str:
    """What an entry is called: ``PML4E``, or ``EPT PML4E``."""
    return f"EPT {LEVEL_NAMES[level]}" if fmt.table == "ept" else LEVEL_NAMES[level]


def _reserved(known: tuple[Field, ...], width: int) -> list[Field]:
    """The gaps between the known fields."""
    gaps, start = [], 0
    for one in (*known, Field("", width, width, "", "")):
        if one.low > start:
            gaps.append(Field("reserved", one.low - 1, start, "must be 0", known[0].section))
        start = one.high + 1
    return gaps
