"""A CPU's TLB, handed to the cascades of a quiet stretch and back again (see `batch_handover`).

An entry of the TLB may be older than what the tables say now, as long as it grants what is asked:
it then lacks an A or D bit that was set since, say.  So what stands in an array afterwards depends
on when it came there: it was there before, it came from the second level, or it was walked for.
"""

from typing import NamedTuple

import numpy as np

from kvmlab.hardware import permissions
from kvmlab.hardware.batch_handover import Entry, Handed, StaleError, beyond, linear
from kvmlab.hardware.batch_pages import Bytes, Ints, Keys
from kvmlab.hardware.batch_plan import Plan
from kvmlab.hardware.batch_tlb import L1, MISS, BatchTlb, page_tag, page_tags
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR4_PGE
from kvmlab.hardware.records import USER, WRITE, Kind
from kvmlab.hardware.tlb import GLOBAL, Key, Tlb, TlbEntry

_SHIFT, _USER_CPL = 12, 3
_NEVER = -1


class TlbHandover:
    """The TLB of ``cpu``, for accesses of these ``kinds`` to pages of ``plan``."""

    def __init__(self, cpu: Cpu, plan: Plan, keys: Keys, kinds: Bytes) -> None:
        """Take it over; raises `StaleError`."""
        self._cpu, self._plan, self._kinds = cpu, plan, kinds
        self._keys, self._row = keys, np.zeros(keys.size, np.int64)  # of the plan, for a key
        self._row[keys.used] = np.arange(len(keys.used))
        self._shifts = _shifts(plan)
        numbers = page_tags(plan.pages, self._shifts)
        self._numbers, self._first, self._number = np.unique(
            numbers, return_index=True, return_inverse=True
        )
        self._asked = self._asked_kinds(cpu.tlb)
        self._batch = BatchTlb(cpu.tlb.geometry)
        above = beyond(numbers)
        pairs = zip(cpu.tlb.arrays(), self._batch.arrays(), strict=True)
        self._handed = [Handed(array.sets, cascade, above) for array, cascade in pairs]
        for one in self._handed:
            one.take(self._number_of)
        self._check_sizes()

    def lookups(self, gva: Ints) -> Bytes:
        """Make the accesses: where each is found."""
        fetch = self._kinds == Kind.FETCH if self._cpu.tlb.geometry.fetch else False
        shifts: Bytes | int = int(self._shifts[0])
        if (self._shifts != shifts).any():
            shifts = self._shifts.astype(np.uint8).take(self.rows(slice(len(gva))))
        own = gva & (1 << self._cpu.context.width) - 1  # as the pages of the plan are numbered
        return self._batch.lookups(own.view(np.uint64), shifts, fetch)

    def rows(self, some: Ints | slice) -> Ints:
        """Which page of the plan each of ``some`` accesses is to."""
        return self._row.take(self._keys.of_access[some])

    def give_back(self, where: Bytes) -> None:
        """Fill the TLB as the accesses leave it."""
        geometry = self._cpu.tlb.geometry
        filled = np.flatnonzero(where != L1)
        fetch = np.equal(self._kinds.take(filled), Kind.FETCH) & bool(geometry.fetch)
        walked = self._last(filled.take(np.flatnonzero(where.take(filled) == MISS)), first=True)
        sides = [self._last(filled[~fetch])] * len(geometry.data)
        sides += [self._last(filled[fetch])] * len(geometry.fetch)
        seconds = self._handed[len(sides) :]
        second = {number: one for handed in seconds for number, one in handed.entries.items()}
        made: dict[int, Entry] = {}
        for handed, side in zip(self._handed, [*sides, *[None] * len(seconds)], strict=True):
            handed.give_back(self._replaced(handed, side, walked, second, made))
        for _, entry in made.values():
            self._cpu.tlb.remember(entry)

    def _replaced(
        self,
        handed: Handed,
        filled: Ints | None,
        walked: Ints,
        second: dict[int, Entry],
        made: dict[int, Entry],
    ) -> dict[int, Entry]:
        """The entries of an array that came there during the stretch.

        ``filled`` says when each number was last filled into it, ``walked`` when it was first
        walked for (`_NEVER`); the second level is filled by walks alone (None).
        """
        held = handed.cascade.held
        numbers = held[(held >= 0) & (held < handed.beyond)]
        place = self._numbers.searchsorted(numbers)
        since = walked.take(place)
        fresh = (since != _NEVER) & (since <= (since if filled is None else filled.take(place)))
        again = ~fresh & (False if filled is None else filled.take(place) != _NEVER)
        new = np.flatnonzero(fresh & np.isin(numbers, list(made), invert=True))
        made |= zip(numbers.take(new).tolist(), self._fresh(place.take(new)), strict=True)
        replaced = {number: made[number] for number in numbers[fresh].tolist()}
        return replaced | {number: second[number] for number in numbers[again].tolist()}

    def _last(self, some: Ints, *, first: bool = False) -> Ints:
        """When each number occurs for the last (or first) time among ``some`` accesses."""
        some = some[::-1] if first else some
        when = np.full(len(self._numbers), _NEVER)
        when[self._number.take(self.rows(some))] = some  # of those alike the last one stays
        return when

    def _asked_kinds(self, tlb: Tlb) -> dict[int, int]:
        """For each number that is cached and occurs, the kinds of access to it."""
        seen = np.zeros(self._keys.size << 3, np.bool_)
        seen[self._keys.of_access[: len(self._kinds)] << 3 | self._kinds] = True
        asked = np.zeros(len(self._numbers), np.uint8)
        for kind in Kind:
            by_page = seen[self._keys.used << 3 | kind]
            asked[self._number.take(np.flatnonzero(by_page))] |= int(kind)
        keys = {key for array in tlb.arrays() for ways in array.sets for key in ways}
        tags = np.array([self._tag(key) for key in keys], np.int64)
        place = np.minimum(self._numbers.searchsorted(tags), len(self._numbers) - 1)
        used = np.flatnonzero(self._numbers.take(place) == tags)
        kinds = asked.take(place.take(used))
        return dict(zip(tags.take(used).tolist(), kinds.tolist(), strict=True))

    def _number_of(self, key: Key, entry: TlbEntry) -> int | None:
        number = self._tag(key)
        kinds = self._asked.get(number)
        if kinds is None or key[2] not in self._cpu.context.tags:
            return None
        if not self._grants(entry, kinds):
            raise StaleError
        return number

    def _grants(self, entry: TlbEntry, kinds: int) -> bool:
        """Whether the CPU may use a cached translation in all these ways."""
        controls, rights, user = self._cpu.controls, entry.rights, self._cpu.cpl == _USER_CPL
        return entry.allows & kinds == kinds and all(
            permissions.allowed(controls, rights, kind, user=user) for kind in Kind if kind & kinds
        )

    def _tag(self, key: Key) -> int:
        return page_tag(key[0] & self._mask(key[1]), key[1])

    def _mask(self, shift: int) -> int:
        return (1 << self._cpu.context.width - shift) - 1

    def _check_sizes(self) -> None:
        """Raises `StaleError` where a page is cached in another size than it has."""
        tags = self._cpu.context.tags
        keys = {key for one in self._handed for key, _ in one.entries.values() if key[2] in tags}
        for shift in {shift for _, shift, _ in keys}:
            others = np.flatnonzero(self._shifts != shift)
            if len(others):
                cached = [vpn & self._mask(shift) for vpn, size, _ in keys if size == shift]
                if np.isin(self._plan.pages.take(others) >> shift - _SHIFT, cached).any():
                    raise StaleError

    def _fresh(self, place: Ints) -> list[Entry]:
        """The entries that walks of these pages leave behind: as `Mmu` fills them."""
        rows, ctx = self._first.take(place), self._cpu.context
        guest, final = self._plan.guest, self._plan.final
        assert guest is not None  # noqa: S101  quiet stretches are of paging
        rights = guest.rights()
        allows = (final.rights() if final else np.full(len(rights), 15)) & 15
        dirty = ~guest.lacks_dirty()
        if final and ctx.ept and ctx.ept.accessed_dirty:
            dirty &= ~final.lacks_dirty()
        columns = (
            *(self._plan.pages, self._plan.words, self._shifts, guest.shifts()),
            *(rights, allows, dirty, guest.state.entry.view(np.uint64)),
        )
        picked = zip(*(column.take(rows).tolist() for column in columns), strict=True)
        return [self._entry(_Page(*one)) for one in picked]

    def _entry(self, page: "_Page") -> Entry:
        ctx, allows = self._cpu.context, page.allows & 7
        if ctx.mode_based and page.rights & USER:
            allows = page.allows & 3 | (page.allows & USER) >> 1
        if not page.dirty:
            allows &= ~WRITE
        tag = ctx.tag
        if page.leaf & 1 << 8 and self._cpu.controls.cr4 & CR4_PGE:
            tag = tag._replace(pcid=GLOBAL)
        shift, rights, leaf, span = page.shift, page.rights, page.leaf, page.span
        frame = page.word & 0x000F_FFFF_FFFF_F000 & ~((1 << shift) - 1)
        vpn = linear(page.number, ctx.width) >> shift - _SHIFT
        return (vpn, shift, tag), TlbEntry(vpn, frame, shift, rights, allows, leaf, tag, span)


class _Page(NamedTuple):
    """What an entry of the TLB is made of."""

    number: int
    word: int  # of the plan
    shift: int
    span: int  # the size in the guest's tables
    rights: int
    allows: int
    dirty: bool
    leaf: int


def _shifts(plan: Plan) -> Ints:
    """The size in which the TLB keeps each page: the smaller one of the two dimensions."""
    found = [one.shifts() for one in (plan.guest, plan.final) if one]
    return np.minimum(*found) if len(found) > 1 else found[0]
