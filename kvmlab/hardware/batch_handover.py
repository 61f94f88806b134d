"""What a CPU has cached, handed to the cascades of a batch and back again.

A cascade knows numbers; a cache holds entries under keys.  Entries that the stretch may use stand
in the cascade under the number that it will ask for, all others under numbers that nobody asks
for, so that they age as they do in the cache.  Afterwards each number is an entry again: the one
that was there if nothing took its place, else what a walk leaves behind.

Nothing is handed over where an entry that would be used is not what the tables say, or not all
that is asked for: what a stale entry entails is for the scalar path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kvmlab.base.tap import silent
from kvmlab.hardware.batch_judge import TABLE, traits
from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_misses import Column, Uppers
from kvmlab.hardware.batch_pages import Ints
from kvmlab.hardware.batch_tlb import page_of, page_tag
from kvmlab.hardware.batch_traits import Traits
from kvmlab.hardware.batch_tree import Found, Level
from kvmlab.hardware.context import Context
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import Fault
from kvmlab.hardware.tlb import Key, Tag, TlbEntry
from kvmlab.hardware.walk_caches import Upper, WalkCaches, nested_entry
from kvmlab.hardware.walker import walk

Entry = tuple[Any, Any]
"""A key, and what is cached under it."""

_FAR = (1 << 25) - 1  # numbers of nobody begin at a multiple of it and one


class StaleError(Exception):
    """An entry that would be used does not say what the tables say."""


@dataclass(slots=True)
class Handed:
    """The sets of one array of a cache, and the cascade that stands for them."""

    sets: Sequence[dict[Any, Any]]
    cascade: LruArray
    beyond: int  # numbers from here on are asked for by nobody
    entries: dict[int, Entry] = field(default_factory=dict)

    def take(self, number_of: Callable[[Any, Any], int | None]) -> None:
        """Fill the cascade; raises `StaleError` where two entries answer for one number."""
        for index, ways in enumerate(self.sets):
            for position, (key, entry) in enumerate(reversed(ways.items())):
                number = number_of(key, entry)
                if number is None:
                    number = self.beyond + len(self.entries) * self.cascade.sets + index
                if number in self.entries:
                    raise StaleError
                self.entries[number] = key, entry
                self.cascade.held[index, position] = number

    def fresh(self) -> list[int]:
        """The numbers held now that were not held at first."""
        held = self.cascade.held
        return [one for one in held[held >= 0].tolist() if one not in self.entries]

    def give_back(self, entries: dict[int, Entry]) -> None:
        """Write the cascade back; ``entries`` are new, or took the place of what was there."""
        entries = self.entries | entries
        for ways, row in zip(self.sets, self.cascade.held[:, ::-1].tolist(), strict=True):
            ways.clear()
            ways.update(entries[number] for number in row if number >= 0)


def beyond(numbers: Ints) -> int:
    """A number above all of these, with zeroes where a set is chosen."""
    return (int(numbers.max(initial=0)) | _FAR) + 1


def linear(number: int, width: int, shift: int = 12) -> int:
    """The number of a page of canonical addresses, from the bits that are translated."""
    high = width > 32 and number >> width - shift - 1
    return number | (1 << 64 - shift) - (1 << width - shift) if high else number


class UppersHandover:
    """The paging-structure caches of a CPU."""

    def __init__(self, caches: WalkCaches, uppers: Uppers, guest: Found, ctx: Context) -> None:
        """Fill ``uppers``; raises `StaleError`."""
        self._guest, self._ctx = guest, ctx
        self._handed: list[tuple[Level, Handed]] = []
        for level in guest.levels:
            if level.row.level in uppers.arrays:
                own = level.row.level
                handed = Handed([caches.held[own]], uppers.arrays[own], beyond(level.prefix))
                handed.take(partial(self._number, level))
                self._handed.append((level, handed))

    def give_back(self) -> None:
        """Fill the CPU's caches."""
        for level, handed in self._handed:
            handed.give_back({number: self._entry(level, number) for number in handed.fresh()})

    def _number(self, level: Level, key: tuple[int, Any], entry: Upper) -> int | None:
        if key[1] != self._ctx.tag:
            return None
        number = key[0] & (1 << self._ctx.width - level.row.shift) - 1
        if not np.count_nonzero(level.prefix == number):
            return None
        if self._entry(level, number) != (key, entry):
            raise StaleError
        return number

    def _entry(self, level: Level, number: int) -> Entry:
        """What a walk through this prefix keeps of this level (`WalkCaches.fill`).

        Raises `StaleError` where it leads to no table.
        """
        row, state, tables = int(level.prefix.searchsorted(number)), level.state, self._guest.tables
        if state.why[row] != TABLE:
            raise StaleError
        trait = traits(tables, state.merged[row : row + 1], state.entry[row : row + 1])
        rights = Traits(tables, int(trait[0])).rights
        key = linear(number, self._ctx.width, level.row.shift), self._ctx.tag
        return key, Upper(int(state.base[row]), rights, self._ctx.tag)


class NestedHandover:
    """The nested TLB of a CPU."""

    def __init__(self, cpu: Cpu, array: LruArray, made: list[Column]) -> None:
        """Fill ``array``; ``made`` is all that may be looked for.  Raises `StaleError`."""
        ept, cached = cpu.context.ept, cpu.nested_tlb
        assert ept is not None and cached is not None  # noqa: S101, PT018  the caller looked
        self._ept, self._ram, self._made = ept, cpu.ram, made
        above = max(beyond(column.numbers()) for column in made)
        self._handed = Handed(cached.array.sets, array, above)
        self._handed.take(self._number)

    def give_back(self) -> None:
        """Fill the CPU's nested TLB."""
        fresh = self._handed.fresh()
        self._handed.give_back({number: self._entry(*page_of(number)) for number in fresh})

    def _number(self, key: Key, entry: TlbEntry) -> int | None:
        vpn, shift, tag = key
        if tag != Tag(0, 0, self._ept.root):
            return None
        used = False
        for column in self._made:
            inside = np.flatnonzero(column.gpa >> shift - 12 == vpn)
            if len(inside):
                used = True
                assert column.found is not None  # noqa: S101  there is a second dimension
                if (column.found.shifts().take(inside) != shift).any():
                    raise StaleError
        if not used:
            return None
        if self._entry(vpn, shift) != (key, entry):
            raise StaleError
        return page_tag(vpn, shift)

    def _entry(self, vpn: int, shift: int) -> Entry:
        """What a walk for a guest-physical page keeps; raises `StaleError` if it arrives nowhere.

        It only looks: A is set already where a walk was made.
        """
        ept, gpa = self._ept, vpn << shift
        found = walk(ept.tables, ept.root, gpa, self._ram, silent)
        if isinstance(found, Fault):
            raise StaleError
        dirty = ept.tables.format.dirty if ept.accessed_dirty else 0
        entry = nested_entry(gpa, found, ept.root, dirty)
        return (entry.vpn, entry.shift, entry.tag), entry
