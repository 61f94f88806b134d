"""Addresses as the walk groups them: hex, monospaced, 9-9-9-9-12, the group in use lit."""

from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.figures.svg import element, text
from kvmlab.hardware.formats import FORMATS

SPLITS = MappingProxyType({one.levels: one.index_bits for one in FORMATS.values()})
"""Bits of each index, from the top level down, by how many levels the tables have.

Tables of equally many levels split an address alike, whosever they are.
"""

SEGMENT, OFFSET_SEGMENT, HEIGHT = 48, 56, 26


def hex_text(value: int | None) -> str:
    """``value`` in hex, digits grouped by four: ``0x7f12_3456_7000``; a dash for None."""
    return "–" if value is None else f"{value:#_x}"


def index_text(index: int, bits: int = 9) -> str:
    """An index of ``bits`` bits in hex, with all its digits: three in a table of 512 entries."""
    return f"{index:0{len(f'{(1 << bits) - 1:x}')}x}"


def index_of(address: int, levels: int, level: int) -> int:
    """Which entry of its table at ``level`` translates ``address``."""
    bits, low = _place(levels, level)
    return address >> low & (1 << bits) - 1


def groups(address: int, levels: int) -> list[tuple[str, str, str]]:
    """``address`` as its tables split it: (``L4``, ``0fe``, ``47:39``) ..., last the offset."""
    split = []
    for level in range(levels, 0, -1):
        bits, low = _place(levels, level)
        digits = index_text(index_of(address, levels, level), bits)
        split.append((f"L{level}", digits, f"{low + bits - 1}:{low}"))
    offset = address & (1 << PAGE_SHIFT) - 1
    return [*split, ("offset", f"{offset:03x}", f"{PAGE_SHIFT - 1}:0")]


def _place(levels: int, level: int) -> tuple[int, int]:
    """How many bits the index of ``level`` has, and where in the address they begin."""
    split = SPLITS[levels]
    below = split[levels - level + 1 :]
    return split[levels - level], PAGE_SHIFT + sum(below)


def bar(name: str, party: str, heading: str, x: float, address: int | None, levels: int) -> str:
    """The address bar ``name`` at ``x``: each group is the part ``name.L4`` ... ``name.offset``.

    The texts carry the same keys, so that a step can put another address in; an ``address`` of
    None leaves them empty for that.
    """
    parts = [text(heading, x, 12, class_="kvm-label", data_text=f"{name}.heading")]
    for part, digits, bits in groups(address or 0, levels):
        width = OFFSET_SEGMENT if part == "offset" else SEGMENT
        middle = x + width / 2
        parts.append(
            element(
                "g",
                text(part, middle, 28, class_="kvm-small", text_anchor="middle"),
                element("rect", x=x, y=33, width=width, height=HEIGHT, class_="kvm-cell"),
                text(
                    digits if address is not None else "",
                    middle,
                    50.5,
                    class_="kvm-mono",
                    text_anchor="middle",
                    data_text=f"{name}.{part}",
                ),
                text(bits, middle, 71, class_="kvm-small", text_anchor="middle"),
                class_=f"kvm-part kvm-{party.lower()}",
                data_key=f"{name}.{part}",
            )
        )
        x += width
    return "".join(parts)


def bar_texts(name: str, heading: str, address: int, levels: int) -> dict[str, str]:
    """What the texts of the bar ``name`` read while it shows ``address``."""
    texts = {f"{name}.{part}": digits for part, digits, _ in groups(address, levels)}
    return {f"{name}.heading": heading, **texts}
