"""A tree of page tables as it stands: a column for each level, and one for the pages.

Each entry is a row that can be chosen; what it leads to begins at its right, at the same height.
Neighbours that map neighbouring pages alike are one row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kvmlab.base.addresses import size_text
from kvmlab.figures.addresses import hex_text, index_text
from kvmlab.figures.svg import arrow_right, element, group, text
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.formats import Tables
from kvmlab.hardware.records import EXECUTE, USER, WRITE, Verdict
from kvmlab.hardware.walker import entry_rights
from kvmlab.study.tree import Entry, Table, entries
from kvmlab.text import say

WIDTH, ROW, CELL, GAP, HEADER, WIDEST, LETTER = 720, 26, 22, 16, 22, 168, 6.7
MOST_ROWS = 120
RUN = 4  # so many neighbours are drawn as one row
COLUMNS = ("level", "first", "slot", "value", "rights", "verdict", "target")


@dataclass(slots=True)
class Drawn:
    """The tree as markup, how tall it is, and which key each entry has."""

    parts: list[str] = field(default_factory=list)
    height: float = 0
    keys: dict[tuple[int, int], str] = field(default_factory=dict)
    left_out: int = 0


def entry_key(level: int, address: int) -> str:
    """The key of an entry in a scene: its level and the first address that it translates."""
    return f"L{level}.{address:#x}"


def read_key(key: str) -> tuple[int, int] | None:
    """The level and address in an entry's key; None if it is no such key."""
    level, _, address = key.partition(".")
    if not address.startswith("0x") or not level.startswith("L"):
        return None
    return int(level[1:]), int(address, 16)


def rights_text(tables: Tables, entry: Entry) -> str:
    """What an entry allows, in the letters of the form: ``wux``, with dashes for the rest."""
    rights = entry_rights(tables, entry.value)
    if tables.format.mode == "ept":
        return "".join(
            letter if rights & bit else "-" for letter, bit in zip("rwx", (1, 2, 4), strict=True)
        )
    letters = zip("wux", (WRITE, USER, EXECUTE), strict=True)
    return "".join(letter if rights & bit else "-" for letter, bit in letters)


def used_text(tables: Tables, entry: Entry) -> str:
    """The A and D bits of an entry, as letters or dashes; a PDPTE of PAE has neither."""
    if entry.verdict not in (Verdict.LEAF, Verdict.TABLE) or entry.level == tables.no_rights_level:
        return ""
    accessed = "A" if entry.value & tables.format.accessed else "-"
    if entry.verdict is Verdict.TABLE:
        return accessed
    return accessed + ("D" if entry.value & tables.format.dirty else "-")


def runs(found: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries of a table, those together that map neighbouring pages alike."""
    run: list[Entry] = []
    for one in found:
        if run and not _follows(run[-1], one):
            yield from _split(run)
            run = []
        run.append(one)
    yield from _split(run)


def _split(run: list[Entry]) -> Iterator[list[Entry]]:
    if len(run) >= RUN:
        yield run
    else:
        yield from ([one] for one in run)


def _follows(last: Entry, one: Entry) -> bool:
    leaves = last.verdict is one.verdict is Verdict.LEAF
    near = one.index == last.index + 1 and one.target - last.target == 1 << one.shift
    return leaves and near and one.value - one.target == last.value - last.target


def draw(tree: Table, tables: Tables, root: str = "CR3") -> Drawn:
    """The tree below ``tree``, at most `MOST_ROWS` rows of it."""
    drawing = _Drawing(tables)
    drawn = drawing.drawn
    for depth, row in enumerate(tables.rows):
        name = f"L{row.level} {LEVEL_NAMES[row.level]}"
        drawn.parts.append(text(name, drawing.left(depth), 12, class_="kvm-label"))
    last = drawing.left(len(tables.rows))
    drawn.parts.append(text(say("tables.column.page"), last, 12, class_="kvm-label"))
    drawn.height = drawing.table(tree, 0, HEADER, root)
    total = sum(1 for _ in entries(tree))
    drawn.left_out = total - len(drawn.keys)
    return drawn


class _Drawing:
    """Places tables from left to right, their entries from the top down."""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.drawn, self._rows = tables, Drawn(), 0
        columns = len(tables.rows) + 1
        self._wide = min(WIDEST, (WIDTH - GAP * (columns - 1)) / columns)

    def left(self, depth: int) -> float:
        return depth * (self._wide + GAP)

    def table(self, table: Table, depth: int, top: float, name: str = "") -> float:
        """Draw a table with its heading at ``top``; returns where it ends."""
        x, y = self.left(depth), top + HEADER
        heading = f"{name} {hex_text(table.base)}".strip()
        self.drawn.parts.append(text(heading, x, top + 15, class_="kvm-mono kvm-minor"))
        if not table.entries:
            words = say("tables.nothing" if table.entries is None else "tables.empty")
            self.drawn.parts.append(text(words, x, y + 15, class_="kvm-small"))
            return y + ROW
        for run in runs(table.entries):
            if self._rows >= MOST_ROWS:
                break
            if run[0].below and y > top + HEADER:
                y += HEADER  # the next table has its heading there
            y = self._entry(run, depth, y)
        return y

    def _entry(self, run: list[Entry], depth: int, y: float) -> float:
        entry, x = run[0], self.left(depth)
        self._rows += 1
        key = entry_key(entry.level, entry.address)
        self.drawn.keys |= {(one.level, one.address): key for one in run}
        self.drawn.parts.append(
            group(
                key,
                self._name(run),
                "G",
                element("rect", x=x, y=y, width=self._wide, height=CELL, class_="kvm-cell"),
                *self._words(entry, x, y),
                self._way(entry, depth, y),
            )
        )
        if entry.verdict is Verdict.LEAF:
            self._page(run, y)
        if entry.below:
            return max(self.table(entry.below, depth + 1, y - HEADER), y + CELL) + ROW - CELL
        return y + ROW

    def _name(self, run: list[Entry]) -> str:
        entry, many = run[0], len(run) > 1
        bits = self.tables.rows[len(self.tables.rows) - entry.level].index_mask.bit_length()
        return say(
            "tables.entry.many" if many else "tables.entry.one",
            level=entry.level,
            index=index_text(entry.index, bits),
            number=len(run),
            gva=hex_text(entry.address),
            value=hex_text(entry.value),
        )

    def _words(self, entry: Entry, x: float, y: float) -> list[str]:
        bits = self.tables.rows[len(self.tables.rows) - entry.level].index_mask.bit_length()
        words = {
            Verdict.ABSENT: "P=0",
            Verdict.RESERVED: "RSVD!",
        }.get(entry.verdict, rights_text(self.tables, entry))
        right = x + self._wide - 6
        bare = entry.level == self.tables.no_rights_level and entry.verdict is Verdict.TABLE
        used = used_text(self.tables, entry)
        return [
            text(index_text(entry.index, bits), x + 6, y + 15, class_="kvm-mono"),
            text("" if bare else words, x + 38, y + 15, class_="kvm-mono"),
            text(
                used,
                right,
                y + 15,
                class_="kvm-mono",
                text_anchor="end",
                data_text=f"used.{entry_key(entry.level, entry.address)}",
            ),
        ]

    def _way(self, entry: Entry, depth: int, y: float) -> str:
        """The arrow to the next table, or across all columns to the page."""
        start = self.left(depth) + self._wide
        if entry.verdict is Verdict.LEAF:
            return arrow_right(start + 1, y + CELL / 2, self.left(len(self.tables.rows)) - 1)
        return arrow_right(start + 1, y + CELL / 2, start + GAP - 1) if entry.below else ""

    def _page(self, run: list[Entry], y: float) -> None:
        entry, wide = run[0], self._wide
        x, size = self.left(len(self.tables.rows)), size_text(1 << entry.shift)
        words = f"{entry.target:#x} {size}" + (f" ×{len(run)}" if len(run) > 1 else "")
        if len(words) * LETTER > wide - 8:
            words = f"{entry.target:#x}"
        self.drawn.parts.append(
            element(
                "g",
                element(
                    "rect", x=x, y=y, width=self._wide, height=CELL, class_="kvm-cell kvm-open"
                ),
                text(words, x + 6, y + 15, class_="kvm-mono kvm-minor"),
                class_="kvm-part kvm-g",
                data_key=f"page.{entry_key(entry.level, entry.address)}",
            )
        )


def rows(tree: Table, tables: Tables) -> list[list[str]]:
    """The same as a table: one row for each entry or run of entries."""
    return [_row(run, tables) for run in _all_runs(tree)][:MOST_ROWS]


def _all_runs(table: Table) -> Iterator[list[Entry]]:
    for run in runs(table.entries or []):
        yield run
        if run[0].below:
            yield from _all_runs(run[0].below)


def _row(run: list[Entry], tables: Tables) -> list[str]:
    entry, many = run[0], f" ×{len(run)}" if len(run) > 1 else ""
    usable = entry.verdict in (Verdict.LEAF, Verdict.TABLE)
    target = hex_text(entry.target) if usable else "–"
    if entry.verdict is Verdict.LEAF:
        target += f" {size_text(1 << entry.shift)}"
    return [
        f"L{entry.level}",
        hex_text(entry.address) + many,
        hex_text(entry.slot),
        hex_text(entry.value),
        f"{rights_text(tables, entry)} {used_text(tables, entry)}" if usable else "",
        say(f"walk.short.{entry.verdict.value}"),
        target,
    ]
