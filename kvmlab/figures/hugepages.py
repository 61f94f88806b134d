"""Huge pages drawn: what the guest maps with, beside EPT, QEMU's page table and the host's frames.

Pure functions of `study.hugepages`'s moments; a row is 2 MiB.
"""

from collections.abc import Sequence

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.balloon import Telling, kib
from kvmlab.figures.hugepages_asks import asks, changed_row, leaf_name, row_gpa, why
from kvmlab.figures.modes import number
from kvmlab.figures.scene import Ask, Role, Scene, SceneStep
from kvmlab.figures.svg import drawing, element, group, text
from kvmlab.study.hugepages_beginning import BLOCK, Known
from kvmlab.study.hugepages_moments import BLOCKS, ORDERS, SHOWN, Leaves, Moment
from kvmlab.study.hugepages_served import REQUESTS
from kvmlab.text import say

NUMBERS = (
    *(("touched", "G"), ("rss", "H"), ("hugetlb", "H"), ("thp", "H"), ("host_free", "H")),
    ("references", "S"),
)
COLUMNS = ("step", "touched", "rss", "hugetlb", "thp", "host_free", "leaf", "references")
HOST = (("e", 384, 104), ("h", 492, 128), ("f", 624, 96))
"""EPT, QEMU's page table, host frames: key, left edge, width."""

UNKNOWN = "?"
_LARGE_ORDER = 9
WIDTH, HEIGHT = 720, 436
TOP, ROW, GUEST_ROW, LEFT = 96, 26, 65, 276
BUDDY_TOP = 392


def leaf_text(leaves: Leaves) -> str:
    """Such as ``2M``, ``512 × 4K`` or ``2 × 2M``; a dot for nothing."""
    sizes = sorted({leaf_name(shift): leaves.large.count(shift) for shift in leaves.large}.items())
    found = [name if count == 1 else f"{count} × {name}" for name, count in sizes]
    found += [f"{leaves.small} × 4K"] if leaves.small else []
    return " + ".join(found) or "·"


def hugepages_scene(moments: Sequence[Moment], deed: Sequence[object], beginning: Known) -> Telling:
    """What a deed did: before, after, and, where one would guess wrong, a look at EPT."""
    first, now = moments[0], moments[-1]
    steps, shown = [_step(first, first, first, deed_sentence(deed), None)], [0]
    if len(moments) > 1:
        after, look = asks(first, now, deed, beginning)
        steps.append(_step(first, now, first, result_sentence(first, now, deed), after))
        shown.append(1)
        if look:
            _veil(steps[-1], first, now)
            row = changed_row(first, now)
            reason = say(f"huge.look.{why(now, row, beginning)}", gpa=row_gpa(now, row))
            steps.append(_step(first, now, now, reason, look))
            steps[-1].lit[f"e.{row}"] = "now"
            shown.append(1)
    columns = [say(f"huge.column.{name}") for name in COLUMNS]
    scene = Scene(say("huge.title"), _draw(first), say("huge.caption"), columns, steps)
    return Telling(scene, shown)


def deed_sentence(deed: Sequence[object]) -> str:
    """What is about to be done."""
    verb, *values = deed
    return say(f"huge.deed.{verb}", value=values[0] if values else "")


def result_sentence(before: Moment, now: Moment, deed: Sequence[object]) -> str:
    """What came of it, by the numbers of the engine."""
    verb = str(deed[0])
    if verb in ("log", "snapshot"):
        verb += ".on" if getattr(now, "logging" if verb == "log" else verb) else ".off"
    if verb == "write" and now.logging:
        verb += ".logged"
    served = now.served
    return say(
        f"huge.result.{verb}",
        touched=kib(now.touched),
        backed=kib(now.backed),
        more=kib(now.backed - before.backed),
        thp=kib(now.thp),
        free=f"{now.host_free - before.host_free >> 10:+,}",
        references=now.references,
        spared=now.spared,
        misses=number(served.misses) if served else "",
        accesses=number(sum(served.tally.lookups.values())) if served else "",
        cycles=number(served.cycles) if served else "",
        requests=number(REQUESTS),
        **_latencies(served.latencies if served else ()),
        copied=kib(now.copied),
        written=now.written,
        dirty=now.dirty,
        sent=kib(now.dirty << 12),
    )


def _latencies(found: Sequence[int]) -> dict[str, str]:
    """The percentiles by the names that the sentence has for them."""
    names = ("p50", "p90", "p99")
    return dict(zip(names, map(number, found), strict=True)) if found else dict.fromkeys(names, "")


def _step(
    first: Moment, moment: Moment, before: Moment, sentence: str, ask: Ask | None
) -> SceneStep:
    cells = [kib(getattr(moment, name)) for name in COLUMNS[1:6]]
    number_of = str(moment.references) if moment.references else "–"
    row = [sentence, *cells, leaf_text(moment.ept[moment.at]), number_of]
    return SceneStep(sentence, _lit(moment, before), _changed(moment, first), [row], None, ask)


def _veil(step: SceneStep, before: Moment, now: Moment) -> None:
    """EPT is looked at in the next step: until then nothing says what became of it."""
    for at, (was, is_now) in enumerate(zip(before.ept, now.ept, strict=True)):
        step.lit.pop(f"e.{at}", None)
        step.texts[f"e.{at}"] = leaf_text(was) if was == is_now else UNKNOWN
    step.rows[0][COLUMNS.index("leaf")] = UNKNOWN


def _lit(moment: Moment, before: Moment) -> dict[str, Role]:
    """What is huge, and brighter what changed."""
    sides = (("g", moment.guest), ("e", moment.ept), ("h", moment.host))
    lit: dict[str, Role] = {
        f"{side}.{at}": "used"
        for side, rows in sides
        for at, leaves in enumerate(rows)
        if leaves.huge
    }
    large = range(_LARGE_ORDER, ORDERS)
    found: Role = "used" if any(moment.blocks[_LARGE_ORDER:]) else "fault"
    lit |= {f"o.{order}": found for order in large if moment.blocks[order] or found == "fault"}
    now, was = _texts(moment), _texts(before)
    lit |= {
        _element(key): "now"
        for key, words in now.items()
        if words != was[key] and not key.startswith("b.")  # addresses are no elements
    }
    return lit


def _element(key: str) -> str:
    """The element that a text stands in."""
    side, _, name = key.partition(".")
    return f"{'g' if side == 'p' else side}.{name}"


def _texts(moment: Moment) -> dict[str, str]:
    texts = {f"n.{name}": kib(getattr(moment, name)) for name, _ in NUMBERS[:-1]}
    texts["n.references"] = str(moment.references) if moment.references else "–"
    for at, leaves in enumerate(moment.guest):
        gpa = moment.gpas[at]
        texts[f"g.{at}"] = leaf_text(leaves)
        texts[f"p.{at}"] = say(
            "huge.row", used=moment.used[at], gpa="–" if gpa is None else hex_text(gpa)
        )
    for at in range(SHOWN):
        texts[f"b.{at}"] = hex_text(moment.base + at * BLOCK)
        texts[f"e.{at}"], texts[f"h.{at}"] = map(leaf_text, (moment.ept[at], moment.host[at]))
        texts[f"f.{at}"] = str(moment.runs[at]) if moment.runs[at] else "·"
    texts |= {f"o.{order}": str(count) for order, count in enumerate(moment.blocks)}
    return texts


def _changed(moment: Moment, first: Moment) -> dict[str, str]:
    """What reads otherwise than in the drawing, which is of the first moment."""
    drawn = _texts(first)
    return {key: words for key, words in _texts(moment).items() if words != drawn[key]}


# -- the drawing ----------------------------------------------------------------------------


def _draw(moment: Moment) -> str:
    texts = _texts(moment)
    boxes = [
        _box(f"n.{name}", 122 * at, 110, party, texts) for at, (name, party) in enumerate(NUMBERS)
    ]
    heads = [
        text(say("huge.map.guest"), 0, TOP - 28),
        text(say("huge.map.host"), LEFT, TOP - 28),
        text("GPA", LEFT, TOP - 8),
        *(text(say(f"huge.map.{key}"), left, TOP - 8) for key, left, _ in HOST),
        text(say("huge.map.buddy"), 0, BUDDY_TOP - 12),
    ]
    guest = [_guest_row(at, moment.area, texts) for at in range(BLOCKS)]
    host = [part for at in range(SHOWN) for part in _host_row(at, texts)]
    buddy = [_order(order, texts) for order in range(ORDERS)]
    return drawing(WIDTH, HEIGHT, say("huge.title"), *boxes, *heads, *guest, *host, *buddy)


def _box(key: str, x: float, width: int, party: str, texts: dict[str, str]) -> str:
    """A number with its name, and the letter of who says it."""
    name = say(f"huge.box.{key[2:]}")
    return group(
        key,
        name,
        party,
        _rect(x, 0, width, 44),
        text(name, x + 8, 17),
        text(party, x + width - 6, 17, text_anchor="end", class_="kvm-letter"),
        _value(key, x + 8, 35, texts, "kvm-mono kvm-value"),
    )


def _guest_row(at: int, area: int, texts: dict[str, str]) -> str:
    """2 MiB of the process: where, what maps it, where it begins in guest-physical memory."""
    y, gva = TOP + at * GUEST_ROW, hex_text(area + at * BLOCK)
    return group(
        f"g.{at}",
        say("huge.cell.g", gva=gva),
        "G",
        _rect(0, y, LEFT - 20, GUEST_ROW - 4),
        text(f"GVA {gva}", 8, y + 20, class_="kvm-mono"),
        element(
            "text",
            texts[f"g.{at}"],
            x=LEFT - 28,
            y=y + 20,
            text_anchor="end",
            data_text=f"g.{at}",
            class_="kvm-mono kvm-value",
        ),
        _value(f"p.{at}", 8, y + 46, texts, "kvm-mono"),
    )


def _host_row(at: int, texts: dict[str, str]) -> list[str]:
    """2 MiB of guest-physical memory: in EPT, in QEMU's page table, in host frames."""
    y = TOP + at * ROW
    cells = [
        group(
            f"{key}.{at}",
            say(f"huge.cell.{key}", row=at + 1),
            "H",
            _rect(left, y, width, ROW - 2),
            _value(f"{key}.{at}", left + 8, y + 17, texts, "kvm-mono"),
        )
        for key, left, width in HOST
    ]
    return [_value(f"b.{at}", LEFT, y + 17, texts, "kvm-mono"), *cells]


def _order(order: int, texts: dict[str, str]) -> str:
    """How many blocks of 2**order frames are free in the host."""
    x, width = order * 66, 60
    return group(
        f"o.{order}",
        say("huge.cell.o", order=order, size=number(4 << order)),
        "H",
        _rect(x, BUDDY_TOP, width, 44),
        text(str(order), x + 6, BUDDY_TOP + 17),
        _value(f"o.{order}", x + 6, BUDDY_TOP + 35, texts, "kvm-mono kvm-value"),
    )


def _rect(x: float, y: float, width: float, height: float) -> str:
    return element("rect", class_="kvm-cell", x=x, y=y, width=width, height=height, rx=2)


def _value(key: str, x: float, y: float, texts: dict[str, str], class_: str) -> str:
    return element("text", texts[key], x=x, y=y, data_text=key, class_=class_)
