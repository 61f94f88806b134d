"""The shadow tree beside the guest's: what each of the first traps changed in either.

Folded from `study.traps`: the records between a VM exit and the entry after it, and both trees as
they then stood.  A box is one table; its number is how many entries it holds.
"""

from collections.abc import Iterator, Sequence

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.asking import ask
from kvmlab.figures.modes import number, reason_name
from kvmlab.figures.scene import Ask, Role, Scene, SceneStep
from kvmlab.figures.svg import drawing, element, group, line, text
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.kvm.records import Reflected, ShadowPageMade, SpteSet, WriteTrapped
from kvmlab.study.traps import Held, Node, Trap, Trees
from kvmlab.text import count, say

WIDTH, HALF, BETWEEN, BOX, ROW, TOP, LEVELS = 720, 344, 32, 30, 42, 44, 4
COLUMNS = ("number", "reason", "gva", "deed", "guest", "shadow")
SIDES = (("guest", "G", 0), ("shadow", "H", HALF + BETWEEN))
DEEDS = ("reflected", "trapped", "filled")


def traps_scene(traps: Sequence[Trap], sentence: str, first: Ask | None) -> Scene:
    """The traps one by one; before them ``sentence`` of the whole run, asked for by ``first``."""
    trees = {side: _union([getattr(one, side) for one in traps]) for side, _, _ in SIDES}
    steps = [SceneStep(sentence, ask=first), *_Telling(traps).steps()]
    return Scene(
        title=say("traps.title"),
        svg=_draw(trees),
        caption=say("traps.caption"),
        columns=[say(f"traps.column.{name}") for name in COLUMNS],
        steps=steps,
    )


def most_exits(names: Sequence[str], exits: Sequence[int]) -> Ask | None:
    """Which of the designs that were run has the most exits; no question where several have."""
    most = max(exits, default=0)
    if list(exits).count(most) != 1:
        return None
    numbers = dict(zip(names, exits, strict=True))
    right = next(name for name, value in numbers.items() if value == most)
    told = {
        name: say("traps.most.told", design=name, number=number(n)) for name, n in numbers.items()
    }
    wrong = [(name, told[name]) for name in names if name != right]
    return ask(say("traps.most"), right, told[right], wrong, most)


def deed_of(trap: Trap) -> str:
    """What KVM did about an exit: ``reflected``, ``trapped``, ``filled`` or ``other``."""
    for kind, deed in ((Reflected, "reflected"), (WriteTrapped, "trapped"), (SpteSet, "filled")):
        if any(isinstance(record, kind) for record in trap.records):
            return deed
    return "other"


class _Telling:
    """Tells one trap after the other, remembering the trees before it."""

    def __init__(self, traps: Sequence[Trap]) -> None:
        self.traps = traps
        self.before: dict[str, Trees] = {"guest": {}, "shadow": {}}

    def steps(self) -> Iterator[SceneStep]:
        """A step for each trap."""
        for place, trap in enumerate(self.traps, 1):
            deed = deed_of(trap)
            lit: dict[str, Role] = {}
            texts: dict[str, str] = {}
            for side, _, _ in SIDES:
                self._compare(side, getattr(trap, side), lit, texts)
            rows, question = [_row(place, trap, deed)], _ask(place, trap, deed)
            yield SceneStep(_sentence(place, trap, deed), lit, texts, rows, ask=question)

    def _compare(self, side: str, now: Trees, lit: dict[str, Role], texts: dict[str, str]) -> None:
        before = self.before[side]
        for node, held in now.items():
            changed = node not in before or before[node].entries != held.entries
            lit[_key(side, node)] = "now" if changed else "done"
            texts[_key(side, node)] = count("traps.entries", held.entries)
        self.before[side] = now


def _sentence(place: int, trap: Trap, deed: str) -> str:
    made = sum(isinstance(record, ShadowPageMade) for record in trap.records)
    filled = sum(isinstance(record, SpteSet) for record in trap.records)
    gpa = next((one.gpa for one in trap.records if isinstance(one, WriteTrapped)), None)
    reason, gva = reason_name(trap.exit.reason.name), hex_text(trap.exit.gva)
    parts = [say("traps.exit", number=place, reason=reason, gva=gva)]
    parts.append(say(f"traps.{deed}", gpa=hex_text(gpa), number=filled))
    parts += [count("traps.made", made)] if made else []
    return " ".join(parts)


def _row(place: int, trap: Trap, deed: str) -> list[str]:
    entries = [str(sum(one.entries for one in tree.values())) for tree in (trap.guest, trap.shadow)]
    reason = reason_name(trap.exit.reason.name)
    return [str(place), reason, hex_text(trap.exit.gva), say(f"traps.deed.{deed}"), *entries]


def _ask(place: int, trap: Trap, deed: str) -> Ask | None:
    """What KVM does about the exit, before it is told."""
    if deed not in DEEDS:
        return None
    reason, gva = reason_name(trap.exit.reason.name), hex_text(trap.exit.gva)
    wrong = [(say(f"traps.deed.{one}"), say(f"traps.no.{one}")) for one in DEEDS if one != deed]
    question = say("traps.ask", number=place, reason=reason, gva=gva)
    return ask(question, say(f"traps.deed.{deed}"), say("traps.yes"), wrong, place)


def _union(trees: Sequence[Trees]) -> dict[Node, Held]:
    """Every table that any of ``trees`` has, in the order in which they came."""
    found: dict[Node, Held] = {}
    for tree in trees:
        for node, held in tree.items():
            found.setdefault(node, held)
    return found


def _key(side: str, node: Node) -> str:
    return f"{side}.{node[1]:#x}"


def _draw(trees: dict[str, dict[Node, Held]]) -> str:
    parts, deepest = [], 1
    for side, party, left in SIDES:
        places = _places(trees[side], left)
        deepest = max([deepest, *(row + 1 for _, row in places.values())])
        title = say(f"traps.side.{side}")
        parts.append(text(title, left, 14, class_="kvm-label"))
        parts += [
            text(f"L{level} {LEVEL_NAMES[level]}", _left(left, level), 34, class_="kvm-small")
            for level in range(LEVELS, 0, -1)
        ]
        parts += [_box(side, party, node, held, places) for node, held in trees[side].items()]
    return drawing(WIDTH, TOP + ROW * deepest, say("traps.title"), *parts)


def _left(left: int, level: int) -> float:
    return left + (LEVELS - level) * (HALF + 8) / LEVELS


def _places(tree: dict[Node, Held], left: int) -> dict[Node, tuple[float, int]]:
    """Where each table stands: its column is its level, its row the next that is free there."""
    rows: dict[int, int] = {}
    places = {}
    for node in tree:
        row = rows.get(node[0], 0)
        rows[node[0]] = row + 1
        places[node] = (_left(left, node[0]), row)
    return places


def _box(
    side: str, party: str, node: Node, held: Held, places: dict[Node, tuple[float, int]]
) -> str:
    (x, row), wide = places[node], (HALF + 8) / LEVELS - 16
    y = TOP + ROW * row
    way = ""
    if held.parent in places:
        from_x, from_row = places[held.parent]
        start = TOP + ROW * from_row + BOX / 2
        way = line(f"M{from_x + wide:g} {start:g}L{x:g} {y + BOX / 2:g}")
    return group(
        _key(side, node),
        say("traps.table", side=say(f"traps.side.{side}"), level=node[0], base=hex_text(node[1])),
        party,
        way,
        element("rect", x=x, y=y, width=wide, height=BOX, class_="kvm-cell"),
        text(party, x + 5, y + 19, class_="kvm-letter"),
        text("", x + 18, y + 19, class_="kvm-label", data_text=_key(side, node)),
    )
