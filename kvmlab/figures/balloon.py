"""A balloon at work: guest frames beside EPT, the ring between them, and the numbers kept apart.

Pure functions of `study.inflation`'s moments.  Each map has 64 cells of guest-physical memory: on
the guest's side a letter says who has most of it, on EPT's a number how much of it is mapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.balloon_asks import (
    ept_ask,
    grow_ask,
    leaf_kind,
    lines_of,
    returned_ask,
    stats_ask,
)
from kvmlab.figures.curves import Curve, Curves
from kvmlab.figures.modes import number
from kvmlab.figures.scene import Ask, Role, Scene, SceneStep, Table
from kvmlab.figures.svg import arrow_right, drawing, element, group, text
from kvmlab.study.inflation_beginning import Known
from kvmlab.study.inflation_moments import CELLS, OWNERS, Buffer, Moment
from kvmlab.text import say

LETTERS = ("F", "K", "P", "C", "B")  # free, kernel, process, cache, balloon: as `OWNERS`
NUMBERS = (("target", "H"), ("actual", "G"), ("returned", "H"), ("rss", "H"))
PARTS = (
    *(("total", "G"), ("free", "G"), ("cache", "G"), ("process", "G"), ("swapped", "G")),
    ("host_free", "H"),
)
RING = (("avail", "G"), ("address", "G"), ("length", "G"), ("used", "H"))
COLUMNS = ("step", "target", "actual", "returned", "ept", "free", "cache", "process", "swapped")
WIDTH, HEIGHT = 720, 384
SIDE, CELL_WIDTH, CELL_HEIGHT = 8, 36, 28
MAP_TOP, RIGHT, MIDDLE = 88, 432, 308
BALLOON = OWNERS.index("balloon")
_MOST_COUNTED = 999  # pages: three digits fit into a cell


def kib(size: int) -> str:
    """``size`` bytes in KiB, as virsh counts."""
    return number(size >> 10)


@dataclass(slots=True)
class Telling:
    """A scene, and which of the moments each of its steps shows."""

    scene: Scene
    shown: list[int]


def balloon_scene(moments: Sequence[Moment], deed: Sequence[object], beginning: Known) -> Telling:
    """What a deed did, step by step."""
    first, steps, shown = moments[0], [], []
    for place, moment in enumerate(moments):
        steps.append(_step(moments, place, deed, beginning))
        shown.append(place)
        if moment.buffer and not any(one.buffer for one in moments[:place]):
            steps.append(_look(moments, place))
            shown.append(place)
    columns = [say(f"balloon.column.{name}") for name in COLUMNS]
    svg = _draw(first)
    caption = say("balloon.caption", size=number(first.pages << 2))
    return Telling(Scene(say("balloon.title"), svg, caption, columns, steps), shown)


# -- steps ----------------------------------------------------------------------------------


def _step(
    moments: Sequence[Moment], place: int, deed: Sequence[object], beginning: Known
) -> SceneStep:
    moment, before = moments[place], moments[max(place - 1, 0)]
    sentence = step_sentence(moments, place, deed)
    row = [f"{place}", *(kib(getattr(moment, name)) for name in COLUMNS[1:])]
    detail = buffer_table(moment.buffer) if moment.buffer else None
    if moment.stats:
        detail = stats_table(moment.stats)
    ask = _ask(moments, place, deed, beginning)
    texts = _texts(moment, moments[0])
    return SceneStep(sentence, _lit(moment, before), texts, [row], detail, ask)


def _look(moments: Sequence[Moment], place: int) -> SceneStep:
    """The first buffer is done: a look at EPT, where its first page was or is."""
    moment = moments[place]
    assert moment.buffer is not None  # noqa: S101  the caller looked
    cell = moment.buffer.pfns[0] // moment.pages
    kind = leaf_kind(moment.buffer)
    gpa = hex_text(moment.buffer.pfns[0] << 12)
    sentence = say(f"balloon.look.{moment.event}.{kind}", gpa=gpa)
    lit: dict[str, Role] = {**_tinted(moment), f"e.{cell}": "now"}
    texts = _texts(moment, moments[0])
    ask = ept_ask(moment.buffer)
    return SceneStep(sentence, lit, texts, [], buffer_table(moment.buffer), ask)


def step_sentence(moments: Sequence[Moment], place: int, deed: Sequence[object]) -> str:
    """What happened from the moment before to this one."""
    moment = moments[place]
    values: dict[str, object] = {
        "target": kib(moment.target),
        "actual": kib(moment.actual),
        "returned": kib(moment.returned),
        "freed": kib(moment.freed),
        "free": kib(moment.free),
        "times": moment.times,
        "note": moment.note,
        "pages": len(moment.buffer.pfns) if moment.buffer else 0,
    }
    if not place:
        return deed_sentence(deed)
    if moment.event != "after":
        return say(f"balloon.step.{moment.event}", **values)
    parts = [say("balloon.step.after", **values)]
    parts += [say(f"balloon.count.{name}", count=number(n)) for name, n in moment.counts]
    return " ".join(parts)


def deed_sentence(deed: Sequence[object]) -> str:
    """What is about to be done."""
    verb, *values = deed
    return say(f"balloon.deed.{verb}", value=values[0] if values else "")


def _ask(
    moments: Sequence[Moment], place: int, deed: Sequence[object], beginning: Known
) -> Ask | None:
    moment = moments[place]
    first = moment.buffer and not any(one.buffer for one in moments[:place])
    if first and moment.event == "inflate":
        change = abs(moments[-1].actual - moments[0].actual)
        return returned_ask(moment, change, beginning)
    if moment.event != "after" or len(moments) == 1:
        return None
    if deed[0] == "setmem":
        return stats_ask(moments[0], moment)
    return grow_ask(moments) if deed[0] == "grow" else None


def _tinted(moment: Moment) -> dict[str, Role]:
    """Cells of which the balloon has the most, and those that EPT maps."""
    held = moment.owners.argmax(axis=1) == BALLOON
    lit: dict[str, Role] = {f"g.{at}": "used" for at in held.nonzero()[0].tolist()}
    lit |= {f"e.{at}": "used" for at in moment.mapped.nonzero()[0].tolist()}
    return lit


def _lit(moment: Moment, before: Moment) -> dict[str, Role]:
    """What is, and brighter what changed."""
    lit = _tinted(moment)
    moved = moment.owners[:, BALLOON] != before.owners[:, BALLOON]
    lit |= {f"g.{at}": "now" for at in moved.nonzero()[0].tolist()}
    changed = moment.mapped != before.mapped
    lit |= {f"e.{at}": "now" for at in changed.nonzero()[0].tolist()}
    for name, _ in (*NUMBERS, *PARTS):
        if getattr(moment, name) != getattr(before, name):
            lit[f"n.{name}"] = "now"
    if moment.buffer:
        lit |= {f"r.{name}": "used" for name, _ in RING}
    if moment.event in ("kill", "puff"):
        lit["n.free"] = "fault"
    return lit


def _all_texts(moment: Moment) -> dict[str, str]:
    texts = {f"n.{name}": kib(getattr(moment, name)) for name, _ in (*NUMBERS, *PARTS)}
    for at, owner in enumerate(moment.owners.argmax(axis=1).tolist()):
        texts[f"g.{at}"] = LETTERS[owner]
    texts |= {f"e.{at}": _mapped(n, moment) for at, n in enumerate(moment.mapped.tolist())}
    buffer = moment.buffer
    texts["r.avail"] = str(buffer.avail) if buffer else "–"
    texts["r.address"] = hex_text(buffer.descriptor.gpa) if buffer else "–"
    texts["r.length"] = f"{buffer.descriptor.length} B" if buffer else "–"
    texts["r.used"] = str(buffer.used) if buffer else "–"
    queue = buffer.queue if buffer else "none"
    texts["r.queue"] = say(f"balloon.ring.{queue}")
    return texts


def _map_head(moment: Moment) -> str:
    """What the numbers of EPT's map are."""
    if moment.pages > _MOST_COUNTED:
        return say("balloon.map.ept.share")
    return say("balloon.map.ept", pages=moment.pages)


def _mapped(pages: int, moment: Moment) -> str:
    """How much of a cell EPT maps: pages, or where they are too many for a cell, a share."""
    if not pages:
        return "·"
    return f"{100 * pages // moment.pages}%" if moment.pages > _MOST_COUNTED else f"{pages}"


def _texts(moment: Moment, first: Moment) -> dict[str, str]:
    """What reads otherwise than in the drawing, which is of the first moment."""
    drawn = _all_texts(first)
    return {key: words for key, words in _all_texts(moment).items() if words != drawn[key]}


def buffer_table(buffer: Buffer) -> Table:
    """A descriptor and the indexes of its ring, as they are in guest memory."""
    entry = buffer.descriptor
    pfns = f"{buffer.pfns[0]:#x}, …, {buffer.pfns[-1]:#x}"
    rows = [
        (f"desc[{buffer.head}].addr", hex_text(entry.gpa), "addr"),
        (f"desc[{buffer.head}].len", str(entry.length), "len"),
        (f"desc[{buffer.head}].flags", str(entry.flags), "flags"),
        ("avail.idx", str(buffer.avail), "avail"),
        ("used.idx", str(buffer.used), "used"),
        (f"PFN[{len(buffer.pfns)}]", pfns, "pfns"),
    ]
    told = [
        [field, value, "H" if key == "used" else "G", say(f"balloon.buffer.{key}")]
        for field, value, key in rows
    ]
    return Table(say(f"balloon.buffer.{buffer.queue}"), _detail_columns(), told)


def stats_table(stats: str) -> Table:
    """What virsh dommemstat printed, with who says each number and what it means."""
    hosts = ("actual", "last_update", "rss")
    rows = [
        [name, str(value), "H" if name in hosts else "G", say(f"balloon.stat.{name}")]
        for name, value in lines_of(stats).items()
    ]
    return Table(say("balloon.stat.caption"), _detail_columns(), rows)


def _detail_columns() -> list[str]:
    names = ("field", "value", "who", "meaning")
    return [say(f"balloon.buffer.column.{name}") for name in names]


# -- the drawing ----------------------------------------------------------------------------


def _draw(moment: Moment) -> str:
    texts = _all_texts(moment)
    boxes = [_box(f"n.{name}", 184 * at, 0, 168, p, texts) for at, (name, p) in enumerate(NUMBERS)]
    boxes += [_box(f"n.{name}", 122 * at, 336, 110, p, texts) for at, (name, p) in enumerate(PARTS)]
    ring = [
        _box(f"r.{name}", MIDDLE, MAP_TOP + 56 * at, 104, party, texts)
        for at, (name, party) in enumerate(RING)
    ]
    heads = [
        text(say("balloon.map.guest"), 0, 76),
        text(_map_head(moment), RIGHT, 76),
        element("text", texts["r.queue"], x=MIDDLE, y=76, data_text="r.queue"),
        arrow_right(290, MAP_TOP + 22, MIDDLE - 2),
        arrow_right(MIDDLE + 106, MAP_TOP + 22, RIGHT - 2),
    ]
    cells = [
        _cell(side, at, left, party, texts, moment.pages)
        for side, left, party in (("g", 0, "G"), ("e", RIGHT, "H"))
        for at in range(CELLS)
    ]
    return drawing(WIDTH, HEIGHT, say("balloon.title"), *boxes, *heads, *ring, *cells)


def _box(key: str, x: float, y: float, width: int, party: str, texts: dict[str, str]) -> str:
    """A number with its name, and the letter of who says it."""
    name = say(f"balloon.box.{key[2:]}")
    return group(
        key,
        name,
        party,
        element("rect", class_="kvm-cell", x=x, y=y, width=width, height=44, rx=2),
        text(name, x + 8, y + 17),
        text(party, x + width - 8, y + 17, text_anchor="end", class_="kvm-letter"),
        element("text", texts[key], x=x + 8, y=y + 35, data_text=key, class_="kvm-mono kvm-value"),
    )


def _cell(side: str, at: int, left: int, party: str, texts: dict[str, str], pages: int) -> str:
    """``pages`` pages of guest-physical memory."""
    x, y = left + at % SIDE * CELL_WIDTH, MAP_TOP + at // SIDE * CELL_HEIGHT
    first, key = at * pages << 12, f"{side}.{at}"
    last = first + (pages << 12) - 1
    name = say(f"balloon.cell.{side}", first=hex_text(first), last=hex_text(last))
    return group(
        key,
        name,
        party,
        element(
            "rect", class_="kvm-cell", x=x, y=y, width=CELL_WIDTH - 2, height=CELL_HEIGHT - 2, rx=2
        ),
        element(
            "text",
            texts[key],
            x=x + (CELL_WIDTH - 2) / 2,
            y=y + 17,
            text_anchor="middle",
            data_text=key,
            class_="kvm-mono",
        ),
    )


# -- tables, the chart ----------------------------------------------------------------------


def numbers_table(first: Moment, now: Moment) -> Table:
    """The numbers kept apart: before, now, and by how much they changed; KiB."""
    rows = []
    for name, party in (*NUMBERS, ("ept", "H"), *PARTS):
        was, is_now = getattr(first, name), getattr(now, name)
        change = (is_now >> 10) - (was >> 10)
        label = f"{say(f'balloon.box.{name}')} ({party})"
        rows.append([label, kib(was), kib(is_now), f"{change:+,}" if change else "0"])
    columns = [say(f"balloon.numbers.{name}") for name in ("name", "before", "now", "change")]
    return Table(say("balloon.numbers.caption"), columns, rows)


def buddy_table(first: Moment, now: Moment) -> Table:
    """The guest's free list by order, as in /proc/buddyinfo."""
    orders = [n for n, (a, b) in enumerate(zip(first.blocks, now.blocks, strict=True)) if a or b]
    rows = [
        [str(order), number(4 << order), str(first.blocks[order]), str(now.blocks[order])]
        for order in orders
    ]
    columns = [say(f"balloon.buddy.{name}") for name in ("order", "size", "before", "now")]
    return Table(say("balloon.buddy.caption"), columns, rows)


def balloon_curves(history: Sequence[Moment]) -> Curves:
    """Target, actual, returned and RSS over simulated time, in MiB."""
    lines = (("target", "quiet"), ("actual", "guest"), ("returned", "shadow"), ("rss", "host"))
    letters = dict(NUMBERS)
    curves = [
        Curve(
            f"{say(f'balloon.box.{name}')} ({letters[name]})",
            party,  # type: ignore[arg-type]
            [getattr(one, name) / (1 << 20) for one in history],
        )
        for name, party in lines
    ]
    xs = [one.seconds for one in history]
    title, across, up = (say(f"balloon.chart.{name}") for name in ("title", "x", "y"))
    return Curves(title, across, up, xs, curves, say("balloon.chart.caption"))
