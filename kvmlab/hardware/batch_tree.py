"""The walk of `walker`, for many pages at once: each entry of the tree is read once.

A page of the tree's input is a row of arrays.  Going up, the pages of one table share an entry of
the level above, so from level to level there are fewer rows.  Going down, each level is one
gather: the base of the table, plus the index, gives the entry.  What an entry means is decided by
the masks of its `Row`, as the scalar walk does; what is allowed is decided by others, later.

The counts are those of a walk of every single access, because each row knows how many accesses
stand behind it (`Found.count`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvmlab.hardware.batch_judge import FOREIGN, LEAF, TABLE, State, judge_all, traits, turned
from kvmlab.hardware.batch_pages import (
    Bools,
    Bytes,
    Ints,
    distinct,
    holds,
    holds_all,
    occurrences,
    signed,
)
from kvmlab.hardware.batch_traits import TRAITS, Traits
from kvmlab.hardware.formats import Row, Tables
from kvmlab.hardware.ram import Ram

References = Counter[tuple[str, int]]
"""How many entries were read, by whose table it is and its level."""


@dataclass(slots=True)
class Home:
    """Where tables lie in RAM: host-physical addresses, and which of them nobody may read."""

    hpa: Ints
    refused: Bools | None = None
    count: Callable[[Ints, References], None] | None = None  # the reads that finding them took


Locate = Callable[[Ints, Bools], Home]
"""Finds tables at these addresses, as far as they are wanted (second argument)."""


@dataclass(slots=True)
class Level:
    """One level of the tree, kept for counting and for setting A and D."""

    row: Row
    prefix: Ints  # what an address has down to here; rising, but at the last level
    parent: Ints  # which row of the level above
    tables: Ints  # where those have their tables, in the tables' own address space
    open: Bools  # of the level above: there is a table
    readable: Bools  # of the level above: it may be read
    read: Bools  # whether the entry was read at all
    word: Ints  # where in the pool of RAM
    here: Bools  # whether the walk arrived at this level
    home: Home
    state: State

    @property
    def frames(self) -> Ints:
        """Of RAM, which hold the tables read."""
        return self.home.hpa[self.readable] >> 12


@dataclass(slots=True)
class Found:
    """The pages' translations: `State` of the last level, and the way there."""

    tables: Tables
    levels: list[Level]  # from the top down
    state: State
    frame: Ints  # the 4 KiB page that each page is translated to

    @property
    def arrived(self) -> Bools:
        """Whether there is a translation."""
        found: Bools = self.state.why == LEAF
        return found

    def traits(self) -> Ints:
        """All that a verdict on each page depends on."""
        return traits(self.tables, self.state.merged, self.state.entry)

    def rights(self) -> Ints:
        """What all entries together allow, as R, W, X and U."""
        return self.judged(lambda one: one.rights)

    def judged(self, judge: Callable[[Traits], int]) -> Ints:
        """What ``judge`` says of each page; it is asked once for all pages of the same traits."""
        traits = self.traits()
        if holds_all(traits == traits[0]):
            return np.full(len(traits), judge(Traits(self.tables, int(traits[0]))))
        said = np.zeros(TRAITS, np.int64)
        for number in np.flatnonzero(occurrences(traits, TRAITS)).tolist():
            said[number] = judge(Traits(self.tables, number))
        return said.take(traits)

    def shifts(self) -> Ints:
        """The size of each page here, as a shift."""
        return _shifts(self.tables, self.state)

    def lacks_accessed(self) -> Bools:
        """Whether an entry on the way has its A bit clear."""
        clear: Bools = self.state.merged & self.tables.format.accessed == 0
        return clear

    def lacks_dirty(self) -> Bools:
        """Whether the leaf has its D bit clear."""
        clear: Bools = self.state.entry & self.tables.format.dirty == 0
        return clear

    def count(self, weights: Ints, references: References) -> None:
        """Add the reads of ``weights`` accesses to each page."""
        for level in reversed(self.levels):
            read = int(weights.sum() if holds_all(level.read) else weights[level.read].sum())
            if read:
                references[self.tables.format.table, level.row.level] += read
            weights = occurrences(level.parent, len(level.open), weights)
            if level.home.count:
                level.home.count(weights * level.open, references)

    def mark(self, ram: Ram, used: Bools, written: Bools) -> None:
        """Set A on the way to each page that is ``used``, and D in the leaf of each ``written``."""
        fmt, words = self.tables.format, ram.words
        wide = fmt.entry_bytes == 8
        for level in reversed(self.levels):
            if level.row.level != self.tables.no_rights_level:
                for rows, bit in (
                    (used & level.read, fmt.accessed),
                    (written & level.here, fmt.dirty),
                ):
                    word = level.word[np.flatnonzero(rows)]
                    # A word that occurs twice is written twice, with the same value.
                    if wide:
                        words[word] |= bit
                    else:  # the two entries of one word, one after the other
                        words[word[word & 1 == 0] >> 1] |= bit
                        words[word[word & 1 == 1] >> 1] |= bit << 32
            used = _any(level.parent, used, len(level.open))
            written = _any(level.parent, written & ~level.here, len(level.open))


def walk_pages(
    tables: Tables,
    roots: Callable[[Ints], tuple[Ints, Bytes]],
    pages: Ints,
    ram: Ram,
    locate: Locate | None = None,
) -> Found:
    """Translate page numbers, which need not be distinct.

    ``roots`` gives the top table for the bits of an address above those that the tables
    translate (one root, or PAE's four), and `TABLE` or why there is none.
    """
    prefixes, parents = [pages], []
    for row in reversed(tables.rows):
        above, parent = distinct(prefixes[-1] >> row.index_mask.bit_length())
        prefixes.append(above)
        parents.append(parent)
    base, why = roots(prefixes.pop())
    zero = np.zeros(len(base), np.int64)
    state = State(why, np.full(len(base), tables.rows[0].level, np.uint8), ~zero, zero, base)
    levels = []
    for row in tables.rows:
        prefix, parent = prefixes.pop(), parents.pop()
        levels.append(_descend(tables, row, prefix, parent, state, ram, locate))
        state = levels[-1].state
    return Found(tables, levels, state, _frames(tables, state, pages))


def walk_on(found: Found, pages: Ints, ram: Ram) -> Found | None:
    """Translate page numbers of regions that ``found`` went through: their last level is read.

    None where it went not through all of them.  The levels above are those of ``found``; what
    `locate` did for it is not done again, so this is for tables that need none.
    """
    above, row = found.levels[-2], found.tables.rows[-1]
    regions = above.prefix
    region = pages >> row.index_mask.bit_length()
    parent = np.minimum(regions.searchsorted(region), len(regions) - 1)
    if holds(regions.take(parent) != region):
        return None
    level = _descend(found.tables, row, pages, parent, above.state, ram, None)
    frame = _frames(found.tables, level.state, pages)
    return Found(found.tables, [*found.levels[:-1], level], level.state, frame)


def _descend(
    tables: Tables,
    row: Row,
    prefix: Ints,
    parent: Ints,
    above: State,
    ram: Ram,
    locate: Locate | None,
) -> Level:
    """Read and judge one entry for each ``prefix``; ``above`` is the state of its parent."""
    opened = above.why == TABLE
    home = locate(above.base, opened) if locate else Home(above.base)
    readable = opened if home.refused is None else opened & ~home.refused
    frames, outside = ram.find_words(home.hpa >> 12, readable)
    index = prefix & row.index_mask
    if tables.format.entry_bytes == 8:
        word = (frames + (home.hpa >> 3 & 511)).take(parent) + index
        entry = ram.words.take(word)
    else:
        word = (frames * 2).take(parent) + index
        entry = ram.words.take(word >> 1) >> 32 * (word & 1) & 0xFFFF_FFFF
    if outside is not None:
        ones = (1 << 8 * tables.format.entry_bytes) - 1
        entry = np.where(outside.take(parent), np.int64(signed(ones)), entry)
    read = readable.take(parent)
    state = judge_all(tables, row, entry)
    if row.level != tables.no_rights_level:
        state.merged = turned(tables, entry) & above.merged.take(parent)
    else:
        state.merged = above.merged.take(parent)
    if home.refused is not None and holds(home.refused):
        state.why[opened.take(parent) & ~read] = FOREIGN
    here = state.why == LEAF
    if not holds_all(opened):
        closed = np.flatnonzero(~opened.take(parent))
        here[closed] = False
        for name in ("why", "level", "merged", "entry", "base"):
            getattr(state, name)[closed] = getattr(above, name).take(parent[closed])
    base = above.base
    return Level(row, prefix, parent, base, opened, readable, read, word, here, home, state)


def _frames(tables: Tables, state: State, pages: Ints) -> Ints:
    """The 4 KiB page that each page lies in: of a large page the part that is meant."""
    if holds_all(state.level == 1):
        return state.base
    inside = (1 << _shifts(tables, state)) - 1
    return np.where(state.why == LEAF, state.base | pages << 12 & inside, 0) & ~0xFFF


def _shifts(tables: Tables, state: State) -> Ints:
    shifts = np.zeros(8, np.int64)
    for row in tables.rows:
        shifts[row.level] = row.shift
    return shifts.take(state.level)


def _any(parent: Ints, rows: Bools, count: int) -> Bools:
    found = np.zeros(count, np.bool_)
    found[parent[np.flatnonzero(rows)]] = True
    return found
