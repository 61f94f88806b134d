"""Let a CPU make a quiet stretch of accesses at once: TLB hits and walks, but no fault and no exit.

A stretch is quiet as long as every walk would arrive and find its A and D bits set.  Then memory
does not change, the order of accesses matters to the TLB alone, and that is what the cascades of
`batch_tlb` are for.  The CPU's own TLB is taken over, and given back as the accesses leave it.
"""

from dataclasses import dataclass

import numpy as np

from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_pages import Bytes, Ints, Keys, occurrences, page_keys
from kvmlab.hardware.batch_plan import MARK, REFUSED, Plan, plan_pages
from kvmlab.hardware.batch_tlb import MISS, BatchTlb
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR4_PGE, CR4_PKE, CR4_PKS
from kvmlab.hardware.records import USER, WRITE, Kind, Steps, TlbLookups
from kvmlab.hardware.tlb import GLOBAL, Array, Key, TlbEntry

_SHIFT = 12
_PAGE_NUMBER = (1 << 45) - 1  # as BatchTlb makes tags of addresses
_USERS = 3  # the first kind of access (`batch_plan.KINDS`) that a user makes

Held = dict[int, tuple[Key, TlbEntry]]


def make_quietly(cpu: Cpu, gva: Ints, kinds: Bytes, least: int) -> int:
    """Make these accesses, by a user, up to the first that is not quiet; returns how many.

    0, and nothing is done, where fewer than ``least`` are quiet, or where the batch does not know
    the machine: large pages, protection keys, walk caches, a nested TLB, agile paging.
    """
    if not _known(cpu) or len(gva) < least:
        return 0
    keys = page_keys(gva, (1 << cpu.context.width - _SHIFT) - 1)
    plan = plan_pages(cpu, keys.numbers)
    count = _quiet(plan, keys, kinds)
    if count < least or not _settled(plan):
        return 0
    stretch = _Stretch(cpu, plan, keys, kinds[:count])
    if not stretch.take_over():
        return 0
    stretch.make(gva[:count])
    return count


def _known(cpu: Cpu) -> bool:
    ctx, keyed = cpu.context, cpu.controls.cr4 & (CR4_PKE | CR4_PKS)
    simple = cpu.walk_caches is None and cpu.nested_tlb is None and not keyed
    return simple and ctx.tables is not None and not (ctx.ept and ctx.ept.agile)


def _quiet(plan: Plan, keys: Keys, kinds: Bytes) -> int:
    """How many accesses come before the first that is refused or sets an A or D bit."""
    words = np.zeros(keys.size, np.int64)
    words[keys.used] = plan.words
    said = words.take(keys.of_access) >> ((kinds >> 1) + np.uint8(_USERS))
    eventful = np.flatnonzero(said & (REFUSED | MARK))
    return int(eventful[0]) if len(eventful) else len(kinds)


def _settled(plan: Plan) -> bool:
    """Whether no way to a guest table has A or D to set, and all translations are of 4 KiB."""
    guest = plan.guest
    if plan.locator and any(any(one.due) for one in plan.locator.tables):
        return False
    small = guest is not None and guest.state.level == 1
    if plan.final:
        small = small | (plan.final.state.level == 1)
    return bool(np.all(small))


@dataclass(slots=True)
class _Stretch:
    """One quiet stretch, and the TLB that it was given."""

    cpu: Cpu
    plan: Plan
    keys: Keys
    kinds: Bytes
    batch: BatchTlb | None = None
    held: list[Held] | None = None  # for each array, what was cached

    def take_over(self) -> bool:
        """Make cascades of the TLB's arrays; False if an entry does not grant what is asked."""
        tlb, self.held = self.cpu.tlb, []
        self.batch = BatchTlb(tlb.geometry)
        asked = self._asked()
        beyond = (int(self.keys.numbers.max()) | _PAGE_NUMBER >> 20) + 1
        for array, cascade in zip(tlb.arrays(), self.batch.arrays(), strict=True):
            held = _taken(array, cascade, self.cpu.context.tags, beyond)
            if held is None or not all(
                _grants(entry, asked.get(number, 0)) for number, (_, entry) in held.items()
            ):
                return False
            self.held.append(held)
        return True

    def make(self, gva: Ints) -> None:
        """Make the accesses, give the TLB back, and tell what happened."""
        assert self.batch is not None  # noqa: S101  taken over before
        assert self.held is not None  # noqa: S101
        fetch = self.kinds == Kind.FETCH if self.cpu.tlb.geometry.fetch else False
        where = self.batch.lookups(gva.view(np.uint64), _SHIFT, fetch)
        keys = self.keys.of_access[: len(gva)].take(np.flatnonzero(where == MISS))
        missed = occurrences(keys, self.keys.size).take(self.keys.used)
        fresh = self._fresh(np.flatnonzero(missed))
        second = {number: one for held in self.held for number, one in held.items()}
        for array, cascade, held in zip(
            self.cpu.tlb.arrays(), self.batch.arrays(), self.held, strict=True
        ):
            _give_back(array, cascade, second | held | fresh)
        for _, entry in fresh.values():
            self.cpu.tlb.remember(entry)
        for name, count in zip(("miss", "L1", "L2"), np.bincount(where, minlength=3), strict=True):
            if count:
                self.cpu.tap(TlbLookups(user=True, where=name, count=int(count)))
        for (table, level), reads in self.plan.count(missed, missed).items():
            self.cpu.tap(Steps(table, level, reads))

    def _asked(self) -> dict[int, int]:
        """For each page number, the kinds of access to it."""
        asked = np.zeros(self.keys.size, np.uint8)
        keys = self.keys.of_access[: len(self.kinds)]
        for kind in Kind:
            asked[keys.take(np.flatnonzero(self.kinds == kind))] |= int(kind)
        numbers = self.keys.numbers & _PAGE_NUMBER
        return dict(zip(numbers.tolist(), asked.take(self.keys.used).tolist(), strict=True))

    def _fresh(self, rows: Ints) -> Held:
        """The entries that walks of these pages leave behind: as `Mmu` fills them."""
        guest, final, ctx = self.plan.guest, self.plan.final, self.cpu.context
        assert guest is not None  # noqa: S101  `_known` looked
        rights = guest.rights()
        allows = (final.rights() if final else np.full(len(rights), 15)) & 15
        dirty = ~guest.lacks_dirty()
        if final and ctx.ept and ctx.ept.accessed_dirty:
            dirty &= ~final.lacks_dirty()
        shifts = {row.level: row.shift for row in guest.tables.rows}
        columns = (self.keys.numbers, self.plan.words, rights, allows, dirty)
        picked = [column.take(rows).tolist() for column in columns]
        leaves = guest.state.entry.take(rows).view(np.uint64).tolist()
        levels = guest.state.level.take(rows).tolist()
        found: Held = {}
        for number, word, right, allow, is_dirty, leaf, level in zip(
            *picked, leaves, levels, strict=True
        ):
            may = allow & 7
            if ctx.mode_based and right & USER:
                may = allow & 3 | (allow & USER) >> 1
            if not is_dirty:
                may &= ~WRITE
            tag = ctx.tag
            if leaf & 1 << 8 and self.cpu.controls.cr4 & CR4_PGE:
                tag = tag._replace(pcid=GLOBAL)
            page = word & 0x000F_FFFF_FFFF_F000
            vpn = _linear(number, ctx.width)
            entry = TlbEntry(vpn, page, _SHIFT, right, may, leaf, tag, shifts[level])
            found[vpn & _PAGE_NUMBER] = ((vpn, _SHIFT, tag), entry)
        return found


def _linear(number: int, width: int) -> int:
    """The page number of a canonical address, from the bits that are translated."""
    high = width > 32 and number >> width - _SHIFT - 1
    return number | (1 << 64 - _SHIFT) - (1 << width - _SHIFT) if high else number


def _grants(entry: TlbEntry, kinds: int) -> bool:
    """Whether a user may use a cached translation in all these ways."""
    needs = USER | kinds & ~1 if kinds else 0
    return entry.allows & kinds == kinds and entry.rights & needs == needs


def _taken(array: Array, cascade: LruArray, tags: tuple[object, ...], beyond: int) -> Held | None:
    """Fill a cascade with what an array holds; None where two entries answer for one page.

    Entries that no access of the stretch can use stand there under numbers from ``beyond`` on.
    """
    held: Held = {}
    for index, ways in enumerate(array.sets):
        for position, (key, entry) in enumerate(reversed(ways.items())):
            own = key[1] == _SHIFT and key[2] in tags
            number = key[0] & _PAGE_NUMBER if own else beyond + len(held) * cascade.sets + index
            if number in held:
                return None
            held[number] = key, entry
            cascade.held[index, position] = number
    return held


def _give_back(array: Array, cascade: LruArray, entries: Held) -> None:
    for ways, row in zip(array.sets, cascade.held[:, ::-1].tolist(), strict=True):
        ways.clear()
        ways.update(entries[number] for number in row if number >= 0)
