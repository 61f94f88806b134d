"""The lattice of one walk: a row for each guest level and one for the data, each reference a cell.

With EPT the cells of a row are the EPT entries that find the guest's entry at its end; native and
shadow walks have one column.  Positions without a reference are dots.  A PAE walk begins at a
register of the CPU, which has a row above the others and no number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from kvmlab.figures.addresses import hex_text, index_text
from kvmlab.figures.fold import DATA_ROW, Reference, Walk
from kvmlab.figures.svg import arrow_right, element, group, head, line, text
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.text import say

WIDTH, LABELS, CELL, STRIDE, HEADER, BOX = 720, 172, 32, 48, 32, 28
ONE_COLUMN, BETWEEN = 88, 16
PARTY = MappingProxyType({"guest": "G", "ept": "H", "shadow": "H"})


Place = tuple[int, int]
"""Where an arrow begins: the row and the column of a cell."""


@dataclass(frozen=True, slots=True)
class Register:
    """A PDPTE register of PAE paging: loaded with CR3, so it is not read on a walk."""

    index: int
    value: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells are: rows from the top guest level to the data, columns from the left."""

    levels: int  # of the guest's (or the shadow's) tables
    ept: int  # levels of EPT, 0 where there is none
    registers: int = 0  # how many of the top levels are registers of the CPU
    caches: int = 0  # how many boxes of caches stand under the TLB

    @property
    def top(self) -> int:
        """The level of the first entry that a walk reads."""
        return self.levels - self.registers

    @property
    def header(self) -> int:
        """How much stands above the first row: the TLB, other caches, the headings."""
        return HEADER + BOX * self.caches

    @property
    def height(self) -> int:
        """Of the whole drawing."""
        return self.header + STRIDE * (self.levels + 1) - (STRIDE - CELL)

    @property
    def cell(self) -> float:
        """The width of a cell."""
        return ONE_COLUMN if not self.ept else (WIDTH - LABELS) / (self.ept + 1) - BETWEEN

    def left(self, ept_level: int) -> float:
        """The left edge of the column of ``ept_level``; 0 is the last column."""
        return LABELS + BETWEEN + (self.ept - ept_level) * (self.cell + BETWEEN)

    def y(self, row: int) -> int:
        """The top edge of ``row``."""
        return self.header + STRIDE * (self.levels - row)


def column(reference: Reference) -> int:
    """The EPT level of a cell, or 0 for the last column."""
    return reference.step.level if reference.step.table == "ept" else 0


def table_name(table: str, mmu: str) -> str:
    """What a table is called in a walk of ``mmu``: the second dimension of AMD's is NPT."""
    return say("walk.table.npt" if (table, mmu) == ("ept", "npt") else f"walk.table.{table}")


def draw(
    walk: Walk,
    mmu: str,
    grid: Grid,
    where: dict[int, int],
    register: Register | None = None,
    caches: Sequence[str] = (),
) -> str:
    """The lattice of ``mmu``; ``where`` gives the address that each reached row looks for."""
    boxes = [_box(name, BOX * n) for n, name in enumerate(("tlb", *caches))]
    parts = [*boxes, _headings(grid, mmu)]
    for row in range(grid.levels, -1, -1):
        space = "GPA" if row in walk.nested else "HPA"
        parts.append(_row_label(row, grid, where, space, mmu))
    parts += _dots(grid)
    before: Place | None = None
    if register and not walk.begun and not walk.hit:
        parts.append(_register(register, grid))
        before = grid.levels, 0
    elif walk.begun:
        parts.append(_cached(walk.begun, grid))
        before = walk.begun, 0
    for reference in walk.references:
        if reference.row in walk.known and (before is None or before[0] != reference.row):
            before = _known_place(reference.row, grid, parts, before)
        parts.append(_cell(reference, before, grid, mmu))
        before = reference.row, column(reference)
    if DATA_ROW in walk.known:
        before = _known_place(DATA_ROW, grid, parts, before)
    if walk.arrived:
        parts.append(_data(grid, before))
    return "".join(parts)


def _box(name: str, y: int) -> str:
    """The TLB, or a cache that is asked besides it."""
    return group(
        name,
        say(f"walk.{name}.name"),
        "S",
        element("rect", x=0, y=y, width=LABELS - BETWEEN, height=22, class_="kvm-cell"),
        text("S", 8, y + 15, class_="kvm-letter"),
        text(say(f"walk.{name}.empty"), 20, y + 15, class_="kvm-label", data_text=name),
    )


def _cached(level: int, grid: Grid) -> str:
    """The upper entry that a paging-structure cache had, where its reference would stand."""
    x, y = grid.left(0), grid.y(level)
    return group(
        "cached",
        say("walk.cached.name", level=level),
        "S",
        element("rect", x=x, y=y, width=grid.cell, height=CELL, class_="kvm-cell kvm-open"),
        text("S", x + 6, y + 20, class_="kvm-letter"),
        text(say("walk.cached.cell"), x + 18, y + 20, class_="kvm-label"),
    )


def _known_place(row: int, grid: Grid, parts: list[str], before: Place | None) -> Place:
    """Draw what the nested TLB knew, where the EPT entries of ``row`` would stand."""
    x, y = grid.left(grid.ept), grid.y(row)
    width = grid.left(1) + grid.cell - x
    parts.append(
        group(
            f"known.{row}",
            say("walk.known.name", row=f"L{row}" if row else say("walk.row.data")),
            "S",
            _way_to(row, x, before, grid),
            element("rect", x=x, y=y, width=width, height=CELL, class_="kvm-cell kvm-open"),
            text("S", x + 6, y + 20, class_="kvm-letter"),
            text(say("walk.known.cell"), x + 18, y + 20, class_="kvm-label"),
        )
    )
    return row, 1


def _headings(grid: Grid, mmu: str) -> str:
    second = table_name("ept", mmu)
    names = {level: f"{second} L{level}" for level in range(grid.ept, 0, -1)}
    names[0] = say(f"walk.column.{mmu}")
    return "".join(
        text(
            name,
            grid.left(level) + grid.cell / 2,
            grid.header - 12,
            class_="kvm-label",
            text_anchor="middle",
        )
        for level, name in names.items()
    )


def _row_label(row: int, grid: Grid, where: dict[int, int], space: str, mmu: str) -> str:
    y = grid.y(row)
    title = f"L{row} {LEVEL_NAMES[row]}" if row else say("walk.row.data")
    address = f"{space} {hex_text(where[row])}" if row in where else ""
    below = text(address, 0, y + 28, class_="kvm-mono kvm-minor")
    loading = "entry" if mmu == "shadow" else "cr3"  # KVM's own PDPTEs, or the guest's
    loaded = text(say(f"walk.register.row.{loading}"), 0, y + 28, class_="kvm-small")
    root = text("CR3", LABELS - 4, y + 13, class_="kvm-small", text_anchor="end")
    return element(
        "g",
        text(title, 0, y + 13, class_="kvm-label"),
        loaded if row > grid.top else below,
        root if row == grid.levels == grid.top else "",
        class_="kvm-part",
        data_key=f"row.L{row}" if row else "row.data",
    )


def _dots(grid: Grid) -> list[str]:
    """Every place of the lattice; a cell covers its dot."""
    places = [
        (grid.left(level) + grid.cell / 2, grid.y(row) + CELL / 2)
        for row in range(grid.top, -1, -1)
        for level in range(grid.ept, -1, -1)
    ]
    return [element("circle", cx=x, cy=y, r=2, class_="kvm-dot") for x, y in places]


def _register(register: Register, grid: Grid) -> str:
    x, y = grid.left(0), grid.y(grid.levels)
    index = str(register.index)
    return group(
        "register",
        say("walk.register.name", index=index, value=hex_text(register.value)),
        "S",
        element("rect", x=x, y=y, width=grid.cell, height=CELL, class_="kvm-cell kvm-open"),
        text("S", x + 6, y + 20, class_="kvm-letter"),
        text(say("walk.register.cell"), x + 18, y + 20, class_="kvm-label"),
        text(index, x + grid.cell - 6, y + 20, class_="kvm-index", text_anchor="end"),
        "" if grid.ept else _beside(register.value, say("walk.register.beside"), x, y, grid),
    )


def _cell(reference: Reference, before: Place | None, grid: Grid, mmu: str) -> str:
    step = reference.step
    x, y, party = grid.left(column(reference)), grid.y(reference.row), PARTY[step.table]
    verdict = say(f"walk.short.{step.verdict.value}")
    name = say(
        "walk.cell.name",
        number=reference.number,
        table=table_name(step.table, mmu),
        level=step.level,
        index=index_text(step.index),
    )
    return group(
        reference.key,
        name,
        party,
        _way_to(reference.row, x, before, grid),
        element("rect", x=x, y=y, width=grid.cell, height=CELL, class_="kvm-cell"),
        text(party, x + 6, y + 20, class_="kvm-letter"),
        text(str(reference.number), x + 18, y + 21, class_="kvm-number"),
        text(
            index_text(step.index), x + grid.cell - 6, y + 20, class_="kvm-index", text_anchor="end"
        ),
        "" if grid.ept else _beside(step.entry, verdict, x, y, grid),
    )


def _beside(entry: int, words: str, x: float, y: float, grid: Grid) -> str:
    """In a lattice of one column there is room for what was read, and what it means."""
    x += grid.cell + BETWEEN
    return text(hex_text(entry), x, y + 20, class_="kvm-mono kvm-beside") + text(
        words, x + 184, y + 20, class_="kvm-label kvm-beside"
    )


def _data(grid: Grid, before: Place | None) -> str:
    x, y = grid.left(0), grid.y(DATA_ROW)
    return group(
        "data",
        say("walk.data.name"),
        "G",
        _way_to(DATA_ROW, x, before, grid),
        element("rect", x=x, y=y, width=grid.cell, height=CELL, class_="kvm-cell kvm-open"),
        text(
            say("walk.data.cell"),
            x + grid.cell / 2,
            y + 20,
            class_="kvm-label",
            text_anchor="middle",
        ),
    )


def _way_to(row: int, x: float, before: Place | None, grid: Grid) -> str:
    """The arrow into the cell at ``row`` and ``x``, from the cell at ``before``."""
    y = grid.y(row)
    middle = y + CELL / 2
    if before is None:
        return arrow_right(LABELS, middle, x - 2)
    from_row, from_column = before
    right = grid.left(from_column) + grid.cell
    if from_row == row:
        return arrow_right(right + 2, middle, x - 2)
    start, target = right - grid.cell / 2, x + grid.cell / 2
    bottom = grid.y(from_row) + CELL
    return line(f"M{start:g} {bottom + 1}V{y - 8}H{target:g}V{y - 5}") + head(target, y - 1, "down")
