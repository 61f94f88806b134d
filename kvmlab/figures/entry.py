"""A closer look at one entry: each field by name, its bits, its value and what that means."""

import re

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.scene import Table
from kvmlab.hardware.describe import describe, entry_name
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import format_named
from kvmlab.hardware.records import AccessedDirty
from kvmlab.text import say

UNUSED = ("ign", "reserved")


def entry_table(
    entry: int, level: int, format_name: str, switches: Switches | None = None
) -> Table:
    """The fields of ``entry``, from bit 63 or 31 down; unused bits only if set."""
    fields = describe(entry, format_name, level, switches=switches)
    rows = [
        [_bits(one.high, one.low), one.name, _digits(one.value), meaning_of(one.meaning)]
        for one in fields
        if one.value or one.name not in UNUSED
    ]
    name = f"L{level} {entry_name(format_named(format_name), level)}"
    caption = say("walk.entry.caption", name=name, entry=hex_text(entry))
    columns = ["bits", "field", "value", "meaning"]
    return Table(caption, [say(f"walk.entry.{one}") for one in columns], rows)


def meaning_of(words: str) -> str:
    """What a field means, in the language spoken; ``words`` are those of the hardware's table.

    The hardware speaks English only, as its manual does; the catalogue has a key for each meaning.
    """
    return say(f"field.{re.sub('[^a-z0-9]+', '_', words.lower()).strip('_')}")


def set_flags(mark: AccessedDirty, format_name: str) -> list[str]:
    """The names of the fields that ``mark`` changed: A, D or both."""
    old = {(one.name, one.low): one.value for one in describe(mark.old, format_name, mark.level)}
    new = describe(mark.new, format_name, mark.level)
    return [one.name for one in new if old.get((one.name, one.low)) != one.value]


def _bits(high: int, low: int) -> str:
    return str(low) if high == low else f"{high}:{low}"


def _digits(value: int) -> str:
    return str(value) if value in (0, 1) else hex_text(value)
