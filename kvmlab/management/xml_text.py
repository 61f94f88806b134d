"""XML as libvirt prints it: two spaces a level, an empty element closed at once."""

from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

_EMPTY_AS_PAIR = frozenset({"devices"})  # libvirt opens and closes it even when it is empty


def to_text(element: Element, quote: str = "'") -> str:
    """``element`` with all below it; libvirt writes apostrophes, virsh --xpath quotation marks."""
    return "".join(f"{line}\n" for line in _lines(element, "", quote))


def _lines(element: Element, indent: str, quote: str) -> list[str]:
    quoted = {"'": "&apos;"} if quote == "'" else {'"': "&quot;"}
    attributes = "".join(
        f" {name}={quote}{escape(value, quoted)}{quote}" for name, value in element.attrib.items()
    )
    head, text = f"{indent}<{element.tag}{attributes}", (element.text or "").strip()
    if len(element):
        below = [line for one in element for line in _lines(one, indent + "  ", quote)]
        return [f"{head}>", *below, f"{indent}</{element.tag}>"]
    if text:
        return [f"{head}>{escape(text)}</{element.tag}>"]
    if element.tag in _EMPTY_AS_PAIR:
        return [f"{head}>", f"{indent}</{element.tag}>"]
    return [f"{head}/>"]
