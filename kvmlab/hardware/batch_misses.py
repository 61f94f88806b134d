"""What serves the TLB misses of a quiet stretch: paging-structure caches, nested TLB, tables.

Each cache sees only what those before it could not answer, in the order of the program, so each
is one cascade (`batch_lru`): the deepest paging-structure cache is asked for every miss, the one
above it for what that had not, and so on.  The nested TLB is asked for the page of each guest
entry that is then read, and at last for the page itself; that is one row of lookups for each
miss, and the rows one behind the other are its series.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_pages import Bools, Bytes, Ints, occurrences
from kvmlab.hardware.batch_plan import Plan
from kvmlab.hardware.batch_tlb import page_tags
from kvmlab.hardware.batch_tree import Found, References
from kvmlab.hardware.formats import Tables


class Uppers:
    """Paging-structure caches, as `walk_caches.WalkCaches` has them: (level, entries) of each."""

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.arrays = {level: LruArray(1, entries) for level, entries in sorted(sizes)}

    def longest(self, tables: Tables, pages: Ints, leaf: Bytes) -> Bytes:
        """Ask for linear ``pages`` in order, and fill: the level below which each walk begins.

        0 is the root.  ``leaf`` are the levels of the leaves, which no such cache keeps.
        """
        start = np.zeros(len(pages), np.uint8)
        shifts = {row.level: row.shift - 12 for row in tables.rows}
        for level, array in self.arrays.items():
            if level in shifts:
                some = np.flatnonzero((start == 0) & (leaf < level))
                distance = array.feed(pages.take(some) >> shifts[level])
                start[some.take(np.flatnonzero(distance < array.ways))] = level
        return start


@dataclass(slots=True)
class Column:
    """What each walk looks for in the second dimension: its tables of one level, or its page."""

    level: int  # of the guest's entries that are read there; 0: the page itself
    row: Ints  # for each page of the plan, which row of what follows
    gpa: Ints  # guest-physical page numbers
    found: Found | None  # where those are; None without a second dimension

    def numbers(self) -> Ints:
        """What the nested TLB is asked for: page number and size in one."""
        assert self.found is not None  # noqa: S101  asked with a second dimension only
        return page_tags(self.gpa, self.found.shifts())


def columns(plan: Plan) -> list[Column]:
    """In the order of a walk: the guest's levels from the top down, and the page at the end."""
    row, made = np.arange(len(plan.pages)), []
    if plan.final:
        gpa = plan.guest.frame >> 12 if plan.guest else plan.pages
        made.append(Column(0, row, gpa, plan.final))
    if plan.guest:
        tables = [one.found for one in plan.locator.tables] if plan.locator else [None]
        tables = tables if plan.locator else tables * len(plan.guest.levels)
        for level, found in zip(reversed(plan.guest.levels), reversed(tables), strict=True):
            row = level.parent.take(row)
            made.append(Column(level.row.level, row, level.tables >> 12, found))
    return made[::-1]


@dataclass(slots=True)
class Served:
    """What came of each miss, and what all of them read."""

    start: Bytes  # the level below which the walk began; 0: the root
    asked: Bytes  # how often the nested TLB was asked ...
    hits: Bytes  # ... and had it
    references: References
    page: Ints  # the row of the plan
    made: list[Column]  # what there is to look for ...
    walked: Bools  # ... which of it each miss looked for, a column each ...
    missed: Bools  # ... and did not find in the nested TLB

    def reads(self, table: str) -> dict[tuple[str, int], Ints]:
        """How many entries each miss read, by table and level; ``table`` is that of the guest."""
        each: dict[tuple[str, int], Ints] = {}

        def add(table: str, level: int, read: Bools) -> None:
            each[table, level] = each.get((table, level), 0) + read.astype(np.int64)

        for number, column in enumerate(self.made):
            if column.level:
                add(table, column.level, self.walked[:, number])
            if column.found is None:
                continue
            row = column.row.take(self.page)
            for level in reversed(column.found.levels):
                read = level.read.take(row) & self.missed[:, number]
                add(column.found.tables.format.table, level.row.level, read)
                row = level.parent.take(row)
        return each


def serve(plan: Plan, page: Ints, uppers: Uppers | None, nested: LruArray | None) -> Served:
    """Walk for the misses of these rows of the plan, in order, through what is cached."""
    guest, references = plan.guest, References()
    start = np.zeros(len(page), np.uint8)
    leaf = guest.state.level.take(page) if guest else start
    if uppers and guest:
        start = uppers.longest(guest.tables, plan.pages.take(page), leaf)
    made = columns(plan)
    walked = np.ones((len(page), len(made)), np.bool_)
    for number, column in enumerate(made):
        if guest and column.level:
            read = (leaf <= column.level) & ((start == 0) | (start > column.level))
            references[guest.tables.format.table, column.level] += int(np.count_nonzero(read))
            walked[:, number] = read
    missed, none = walked, np.zeros(len(page), np.uint8)
    if nested and plan.final:
        missed = _nested(plan, page, walked, nested)
    if plan.final:
        _count(page, missed, made, references)
    asked, unknown = none, none
    if nested and plan.final:
        asked = walked.sum(axis=1, dtype=np.uint8)
        unknown = missed.sum(axis=1, dtype=np.uint8)
    return Served(start, asked, asked - unknown, +references, page, made, walked, missed)


def _nested(plan: Plan, page: Ints, walked: Bools, nested: LruArray) -> Bools:
    """Which of the lookups that are ``walked`` the nested TLB does not answer."""
    numbers = np.empty(walked.shape, np.int64)
    for number, column in enumerate(columns(plan)):
        numbers[:, number] = column.numbers().take(column.row.take(page))
    missed = np.zeros(walked.shape, np.bool_)
    missed[walked] = nested.feed(numbers[walked]) == nested.ways
    return missed


def _count(page: Ints, missed: Bools, made: list[Column], references: References) -> None:
    """Count the walks of the second dimension."""
    for number, column in enumerate(made):
        if column.found:
            some = np.flatnonzero(missed[:, number])
            rows = occurrences(column.row.take(page.take(some)), len(column.found.state.why))
            column.found.count(rows, references)
