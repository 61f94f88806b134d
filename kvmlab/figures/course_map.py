"""What depends on what: the lessons as boxes from left to right, each after those that it needs.

A line is drawn for a need that no other need brings along; the table names all of them.
"""

from collections.abc import Sequence
from textwrap import wrap

from kvmlab.figures.scene import Scene, SceneStep, Table
from kvmlab.figures.svg import drawing, element, head, line, text
from kvmlab.text import say
from kvmlab.text.lessons import Lesson

WIDE, TALL, ACROSS, DOWN = 112, 72, 24, 16
_NARROW, _WIDE = 14, 8  # characters of a line, of English and of Chinese


def course_map(lessons: Sequence[Lesson], language: str = "en") -> Scene:
    """A scene with a step for each lesson, which lights it and what it needs.

    ``lessons`` stand in the order of the course; each needs only such as come before it.
    """
    layers, rows = _layers(lessons), _rows(lessons)
    places = {
        one.number: (layers[one.number] * (WIDE + ACROSS), rows[one.number] * (TALL + DOWN))
        for one in lessons
    }
    edges = [(need, one.number) for one in lessons for need in _direct(one, lessons)]
    lines = "".join(_edge(places, layers, *edge) for edge in edges)
    boxes = "".join(_box(one, *places[one.number], language) for one in lessons)
    width, height = (max(values) for values in zip(*places.values(), strict=True))
    title = say("map.title")
    return Scene(
        title,
        drawing(width + WIDE, height + TALL, title, lines, boxes),
        say("map.caption"),
        course_table(lessons, language).columns,
        [_step(one, lessons, language) for one in lessons],
    )


def course_table(lessons: Sequence[Lesson], language: str = "en") -> Table:
    """The same as a table: number, title, minutes, and what each lesson needs."""
    columns = [say(f"map.column.{name}") for name in ("number", "title", "minutes", "needs")]
    return Table(say("map.title"), columns, [_row(one, language) for one in lessons])


def whole_time(lessons: Sequence[Lesson]) -> int:
    """Minutes of all ``lessons`` together."""
    return sum(one.minutes for one in lessons)


def needed(lesson: Lesson, lessons: Sequence[Lesson]) -> set[str]:
    """The numbers of all lessons that come before ``lesson``, over any number of steps."""
    known = {one.number: one for one in lessons}
    found: set[str] = set()
    waiting = list(lesson.needs)
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += known[number].needs
    return found


def _row(one: Lesson, language: str) -> list[str]:
    return [one.number, one.called(language), str(one.minutes), ", ".join(one.needs) or "–"]


def _step(one: Lesson, lessons: Sequence[Lesson], language: str) -> SceneStep:
    before = needed(one, lessons)
    minutes = whole_time([each for each in lessons if each.number in before])
    sentence = say(
        "map.step.needs" if before else "map.step.first",
        number=one.number,
        title=one.called(language),
        minutes=one.minutes,
        needs=", ".join(one.needs),
        before=minutes,
    )
    lit: dict[str, str] = {f"lesson.{number}": "done" for number in before - set(one.needs)}
    lit |= {f"lesson.{number}": "used" for number in one.needs}
    lit |= {f"lesson.{one.number}": "now"}
    return SceneStep(sentence, lit, rows=[_row(one, language)])  # type: ignore[arg-type]


# -- where the boxes stand ---------------------------------------------------------------------


def _direct(one: Lesson, lessons: Sequence[Lesson]) -> list[str]:
    """Those needs that no other need of the same lesson brings along."""
    known = {each.number: each for each in lessons}
    brought = {far for need in one.needs for far in needed(known[need], lessons)}
    return [need for need in one.needs if need not in brought]


def _layers(lessons: Sequence[Lesson]) -> dict[str, int]:
    """How many lessons, one after the other, come before each at least: its column."""
    found: dict[str, int] = {}
    for one in lessons:
        found[one.number] = max((found[need] + 1 for need in one.needs), default=0)
    return found


def _rows(lessons: Sequence[Lesson]) -> dict[str, int]:
    """A row for each lesson: that of the first lesson that it leads to, or a new one.

    Each hangs below the first of its direct needs, so the lessons form a tree whose leaves are
    counted from the top.
    """
    leads: dict[str, list[str]] = {one.number: [] for one in lessons}
    roots: list[str] = []
    for one in lessons:
        direct = _direct(one, lessons)
        (leads[direct[0]] if direct else roots).append(one.number)
    found: dict[str, int] = {}
    free = 0

    def place(number: str) -> None:
        nonlocal free
        found[number] = free
        for child in leads[number]:
            place(child)
        free += not leads[number]

    for root in roots:
        place(root)
    return found


# -- how they are drawn ------------------------------------------------------------------------


def _box(one: Lesson, x: float, y: float, language: str) -> str:
    title = one.called(language)
    words = wrap(title, _NARROW if title.isascii() else _WIDE)[:3]
    above = say("map.box", number=one.number, minutes=one.minutes)
    name = say("map.name", number=one.number, title=title, minutes=one.minutes)
    return element(
        "g",
        element("rect", x=x, y=y, width=WIDE, height=TALL, class_="kvm-cell"),
        text(above, x + 8, y + 18),
        *(text(words[n], x + 8, y + 34 + 15 * n) for n in range(len(words))),
        class_="kvm-el kvm-lesson",
        data_key=f"lesson.{one.number}",
        role="button",
        aria_label=name,
        tabindex=-1,
    )


def _edge(places: dict[str, tuple[int, int]], layers: dict[str, int], start: str, end: str) -> str:
    """From the right side of one box to the left side of another, around all others.

    Lines that part or meet share a way; each lesson's way down the gap is its own.
    """
    (x1, y1), (x2, y2) = places[start], places[end]
    out = x1 + WIDE + 4 + 4 * (y1 // (TALL + DOWN) % 4)
    path = f"M{x1 + WIDE} {y1 + TALL / 2:g}H{out}"
    if layers[end] == layers[start] + 1:
        path += f"V{y2 + TALL / 2:g}"
    else:  # along the gap between two rows, on the side where it comes from
        along = y2 - DOWN / 2 if y1 < y2 else y2 + TALL + DOWN / 2
        path += f"V{along:g}H{x2 - 8}V{y2 + TALL / 2:g}"
    return line(f"{path}H{x2 - 4}") + head(x2, y2 + TALL / 2, "right")
