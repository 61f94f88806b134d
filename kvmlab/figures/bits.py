"""One entry bit by bit: each bit a cell that can be chosen, each field by its name below."""

from types import MappingProxyType

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.entry import entry_table
from kvmlab.figures.scene import Role, Scene, SceneStep
from kvmlab.figures.svg import drawing, element, group, text
from kvmlab.hardware.describe import Bits, describe, entry_name
from kvmlab.hardware.formats import Tables
from kvmlab.study.tree import Entry
from kvmlab.text import say

WIDE, TALL, LINE, PER_ROW, SHORT = 22, 24, 80, 32, 3
NARROW = MappingProxyType({"reserved": "rsv", "address-high": "addr", "address": "addr"})


def bits_scene(entry: Entry, tables: Tables, *, fixed: bool = False) -> Scene:
    """The entry as cells to press, unless it is ``fixed``; its fields are the closer look."""
    width = 8 * tables.format.entry_bytes
    known = describe(entry.value, tables.format, entry.level, switches=tables.switches)
    name = f"L{entry.level} {entry_name(tables.format, entry.level)}"
    lines = width // PER_ROW
    parts = [_field(one, row, lines) for one in known for row in _rows_of(one)]
    parts += [_bit(bit, entry.value >> bit & 1, known, lines) for bit in range(width - 1, -1, -1)]
    detail = entry_table(entry.value, entry.level, tables.format.name, tables.switches)
    gva, slot = hex_text(entry.address), hex_text(entry.slot)
    key = "tables.bits.fixed" if fixed else "tables.bits"
    sentence = say(key, name=name, gva=gva, slot=slot, value=hex_text(entry.value))
    step = SceneStep(sentence, _lit(entry, known), detail=detail, rows=detail.rows)
    title = say("tables.bits.title", name=name)
    svg = drawing(PER_ROW * WIDE, lines * LINE - 8, title, *parts)
    return Scene(title, svg, say("tables.bits.caption"), detail.columns, [step])


def bit_of(key: str) -> int | None:
    """Which bit a key names; None if it is none."""
    return int(key[4:]) if key.startswith("bit.") else None


def _lit(entry: Entry, known: tuple[Bits, ...]) -> dict[str, Role]:
    """Bits that are set; those that must not be, as faults, if the entry is present."""
    wrong = {bit for one in known if one.name == "reserved" for bit in range(one.low, one.high + 1)}
    wrong = wrong if entry.value & 1 else set()
    return {
        f"bit.{bit}": "fault" if bit in wrong else "used"
        for bit in range(64)
        if entry.value >> bit & 1
    }


def _place(bit: int, lines: int) -> tuple[float, float]:
    """The left and top of a bit's cell: the highest bit is at the upper left."""
    return (PER_ROW - 1 - bit % PER_ROW) * WIDE, (lines - 1 - bit // PER_ROW) * LINE


def _bit(bit: int, value: int, known: tuple[Bits, ...], lines: int) -> str:
    x, y = _place(bit, lines)
    field = next(one for one in known if one.low <= bit <= one.high)
    name = say("tables.bits.bit", bit=bit, field=field.name, value=value)
    middle = x + WIDE / 2
    return group(
        f"bit.{bit}",
        name,
        "G",
        element("rect", x=x, y=y + 14, width=WIDE, height=TALL, class_="kvm-cell"),
        text(str(value), middle, y + 31, class_="kvm-mono", text_anchor="middle"),
        text(str(bit), middle, y + 10, class_="kvm-small", text_anchor="middle"),
    )


def _rows_of(field: Bits) -> list[tuple[int, int]]:
    """The highest and lowest bit of the field in each row that it reaches into."""
    first, last = field.low // PER_ROW, field.high // PER_ROW
    return [
        (min(field.high, row * PER_ROW + PER_ROW - 1), max(field.low, row * PER_ROW))
        for row in range(first, last + 1)
    ]


def _field(field: Bits, span: tuple[int, int], lines: int) -> str:
    """A bracket below the bits of a field, with its name."""
    high, low = span
    left, y = _place(high, lines)
    right = _place(low, lines)[0] + WIDE
    name = field.name if high - low >= SHORT else NARROW.get(field.name, field.name)
    path = f"M{left + 3:g} {y + 42}H{right - 3:g}"
    below = y + (66 if high == low and high % 2 else 55)  # names of neighbours do not touch
    return element("path", class_="kvm-line", d=path, fill="none") + text(
        name, (left + right) / 2, below, class_="kvm-small", text_anchor="middle"
    )
