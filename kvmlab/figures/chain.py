"""The four address spaces side by side, and who leads from one to the next.

Solid arrows are walked by the CPU on every miss.  Dashed ones are not part of the walk: the
hypervisor and the host's kernel follow them once, when they fill the table that is walked.
"""

from types import MappingProxyType

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.svg import arrow_right, element, group, head, line, text
from kvmlab.machine import Chain
from kvmlab.text import say

WIDTH, NODE, TOP, TALL, BELOW = 720, 150, 18, 40, 34
PARTY = MappingProxyType({"gva": "G", "gpa": "G", "hva": "H", "hpa": "H"})
_TWO_DIMENSIONAL = ("ept", "npt", "l2-ept")  # the CPU walks from GVA to GPA, then to HPA


def height(mmu: str) -> int:
    """How tall the chain of ``mmu`` is."""
    return TOP + TALL + (0 if mmu == "native" else BELOW)


def draw(mmu: str, chain: Chain) -> str:
    """The chain of ``mmu``, a design of `machine.DESIGNS`."""
    if mmu == "native":
        ends = _node("gva", "virtual", chain.gva, 0) + _node("hpa", "physical", chain.hpa, 3)
        return ends + _arrow("tables", "G", 0, 3, solid=True)
    nodes = "".join(
        _node(name, name, getattr(chain, name), place) for place, name in enumerate(PARTY)
    )
    arrows = (
        _arrow("guest", "G", 0, 1, solid=mmu in _TWO_DIMENSIONAL),
        _arrow("slot", "H", 1, 2, solid=False),
        _arrow("host", "H", 2, 3, solid=False),
    )
    walked = _below(mmu, 1 if mmu in _TWO_DIMENSIONAL else 0)
    return nodes + "".join(arrows) + walked


def _left(place: int) -> float:
    return place * (WIDTH - NODE) / 3


def _node(name: str, title_key: str, address: int | None, place: int) -> str:
    x, party = _left(place), PARTY[name]
    title = say(f"chain.{title_key}")
    return group(
        f"chain.{name}",
        f"{title}: {hex_text(address)}",
        party,
        element("rect", x=x, y=TOP, width=NODE, height=TALL, class_="kvm-cell"),
        text(party, x + 8, TOP + 16, class_="kvm-letter"),
        text(title, x + 20, TOP + 16, class_="kvm-label"),
        text(hex_text(address), x + 8, TOP + 33, class_="kvm-mono"),
    )


def _arrow(name: str, party: str, start: int, end: int, *, solid: bool) -> str:
    x1, x2 = _left(start) + NODE, _left(end)
    title = say(f"chain.by.{name}")
    return group(
        f"by.{name}",
        title,
        party,
        element("rect", x=x1, y=TOP - 14, width=x2 - x1, height=TALL, class_="kvm-hit"),
        element(
            "g", arrow_right(x1 + 2, TOP + TALL / 2, x2 - 2), class_=None if solid else "kvm-dash"
        ),
        text(title, (x1 + x2) / 2, 11, class_="kvm-small", text_anchor="middle"),
    )


def _below(mmu: str, start: int) -> str:
    x1, x2 = _left(start) + NODE / 2, _left(3) + NODE / 2
    bottom = TOP + TALL
    title = say(f"chain.by.{mmu}")
    return group(
        f"by.{mmu}",
        title,
        "H",
        element("rect", x=x1, y=bottom + 4, width=x2 - x1, height=30, class_="kvm-hit"),
        line(f"M{x1:g} {bottom + 2}V{bottom + 14}H{x2:g}V{bottom + 6}"),
        head(x2, bottom + 2, "up"),
        text(title, (x1 + x2) / 2, bottom + 28, class_="kvm-small", text_anchor="middle"),
    )
