"""Addresses as the walk groups them: hex, monospaced, 9-9-9-9-12, the group in use lit."""

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.figures.svg import element, text

INDEX_BITS = 9
SEGMENT, OFFSET_SEGMENT, HEIGHT = 48, 56, 26


def hex_text(value: int | None) -> str:
    """``value`` in hex, digits grouped by four: ``0x7f12_3456_7000``; a dash for None."""
    return "–" if value is None else f"{value:#_x}"


def index_text(index: int) -> str:
    """An index of a table of 512 entries, three hex digits as the address bar shows them."""
    return f"{index:03x}"


def groups(address: int, levels: int) -> list[tuple[str, str, str]]:
    """``address`` as its tables split it: (``L4``, ``0fe``, ``47:39``) ..., last the offset."""
    split = []
    for level in range(levels, 0, -1):
        low = PAGE_SHIFT + INDEX_BITS * (level - 1)
        index = address >> low & (1 << INDEX_BITS) - 1
        split.append((f"L{level}", index_text(index), f"{low + INDEX_BITS - 1}:{low}"))
    offset = address & (1 << PAGE_SHIFT) - 1
    return [*split, ("offset", f"{offset:03x}", f"{PAGE_SHIFT - 1}:0")]


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
