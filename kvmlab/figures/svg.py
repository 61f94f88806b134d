"""SVG as strings: elements with escaped attributes and text, nothing more.

Looks come from classes and presentation attributes, never from ``style``: a page with a strict
content-security policy shows the same drawing.
"""

from html import escape

XMLNS = "http://www.w3.org/2000/svg"
MARGIN = 2


def element(name: str, *children: str, **attributes: object) -> str:
    """One element.  ``class_`` is ``class``; other underscores become hyphens; None is left out.

    ``children`` are markup already: text goes through `text`, which escapes it.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(children)
    return f"<{name}{given}>{inside}</{name}>" if inside else f"<{name}{given}/>"


def text(words: str, x: float, y: float, **attributes: object) -> str:
    """One line of text with its baseline at ``y``."""
    return element("text", escape(words), x=x, y=y, **attributes)


def group(key: str, name: str, party: str, *children: str) -> str:
    """An element that can be lit and chosen: ``key`` in scenes, ``name`` for who cannot see it.

    ``party`` is the letter of who owns it: G guest, H hypervisor and host, S silicon.
    """
    return element(
        "g",
        *children,
        class_=f"kvm-el kvm-{party.lower()}",
        data_key=key,
        role="button",
        aria_label=name,
        tabindex=-1,
    )


def drawing(width: float, height: float, name: str, *children: str) -> str:
    """The whole picture; a margin keeps strokes whole.

    It may be scaled up, and says how wide it is so that nobody scales it down: its smallest
    letters have 11 pixels.
    """
    return element(
        "svg",
        *children,
        xmlns=XMLNS,
        width=_value(width + 2 * MARGIN),
        viewBox=f"{-MARGIN} {-MARGIN} {_value(width + 2 * MARGIN)} {_value(height + 2 * MARGIN)}",
        role="group",
        aria_label=name,
    )


def arrow_right(x1: float, y: float, x2: float) -> str:
    """A horizontal line from ``x1`` to ``x2`` with its head at ``x2``."""
    return line(f"M{_value(x1)} {_value(y)}H{_value(x2 - 4)}") + head(x2, y, "right")


def line(path: str, class_: str = "kvm-line") -> str:
    """A stroke along ``path``."""
    return element("path", class_=class_, d=path, fill="none")


def head(x: float, y: float, towards: str) -> str:
    """An arrow head whose tip is at ``x``, ``y``."""
    backs = {"right": ((-6, -4), (-6, 4)), "down": ((-4, -6), (4, -6)), "up": ((-4, 6), (4, 6))}
    points = " ".join(f"{_value(x + dx)},{_value(y + dy)}" for dx, dy in ((0, 0), *backs[towards]))
    return element("polygon", class_="kvm-head", points=points)


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
