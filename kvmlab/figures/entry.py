"""A closer look at one entry: each field by name, its bits, its value and what that means."""

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.scene import Table
from kvmlab.hardware.describe import describe, entry_name
from kvmlab.hardware.formats import format_named
from kvmlab.hardware.records import AccessedDirty, Step
from kvmlab.text import say

UNUSED = ("ign", "reserved")


def entry_table(step: Step, format_name: str) -> Table:
    """The fields of the entry that ``step`` read, from bit 63 down; unused bits only if set."""
    fields = describe(step.entry, format_name, step.level)
    rows = [
        [_bits(one.high, one.low), one.name, _digits(one.value), one.meaning]
        for one in fields
        if one.value or one.name not in UNUSED
    ]
    name = f"L{step.level} {entry_name(format_named(format_name), step.level)}"
    caption = say("walk.entry.caption", name=name, entry=hex_text(step.entry))
    columns = ["bits", "field", "value", "meaning"]
    return Table(caption, [say(f"walk.entry.{one}") for one in columns], rows)


def set_flags(mark: AccessedDirty, format_name: str) -> list[str]:
    """The names of the fields that ``mark`` changed: A, D or both."""
    old = {(one.name, one.low): one.value for one in describe(mark.old, format_name, mark.level)}
    new = describe(mark.new, format_name, mark.level)
    return [one.name for one in new if old.get((one.name, one.low)) != one.value]


def _bits(high: int, low: int) -> str:
    return str(low) if high == low else f"{high}:{low}"


def _digits(value: int) -> str:
    return str(value) if value in (0, 1) else hex_text(value)
