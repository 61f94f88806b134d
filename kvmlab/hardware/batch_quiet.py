"""Let a CPU make a quiet stretch of accesses at once: TLB hits and walks, but no fault and no exit.

A stretch is quiet as long as every walk would arrive and find its A and D bits set.  Then memory
does not change, the order of accesses matters to the caches alone, and that is what cascades are
for: those of `batch_tlb` for the TLB, those of `batch_misses` for what its misses ask.  The CPU's
own caches are taken over, and given back as the accesses leave them.
"""

from dataclasses import dataclass

import numpy as np

from kvmlab.hardware.batch_handover import NestedHandover, StaleError, UppersHandover
from kvmlab.hardware.batch_lru import LruArray
from kvmlab.hardware.batch_misses import Served, Uppers, columns, serve
from kvmlab.hardware.batch_pages import Bytes, Ints, Keys, page_keys
from kvmlab.hardware.batch_plan import MARK, REFUSED, Plan, plan_pages
from kvmlab.hardware.batch_tlb import MISS
from kvmlab.hardware.batch_tlb_handover import TlbHandover
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR4_PKE, CR4_PKS
from kvmlab.hardware.records import NestedTlbLookups, Steps, TlbLookups, WalkCacheLookups
from kvmlab.hardware.tlb import ALL_SIZES

_SHIFT = 12
_USER_CPL, _USERS = 3, 3
_FRAME = 0x000F_FFFF_FFFF_F000
_WHERE = ("miss", "L1", "L2")


@dataclass(slots=True)
class Made:
    """What came of the accesses of a quiet stretch, one by one."""

    where: Bytes  # MISS, L1 or L2 of each access
    missed: Ints  # which of them missed
    served: Served  # what came of those
    plan: Plan
    keys: Keys

    def __len__(self) -> int:
        """How many accesses were made."""
        return len(self.where)

    def reads(self) -> dict[tuple[str, int], Ints]:
        """How many entries each of those that missed read, by whose table it is and its level."""
        guest = self.plan.guest
        return self.served.reads(guest.tables.format.table if guest else "")

    def reached(self) -> Ints:
        """The host-physical address of the page of each access."""
        row = self.keys.used.searchsorted(self.keys.of_access[: len(self)])
        return self.plan.words.take(row) & _FRAME


def make_quietly(cpu: Cpu, gva: Ints, kinds: Bytes, least: int) -> Made | None:
    """Make these accesses, at the CPU's privilege level, up to the first that is not quiet.

    Returns what came of them, one by one; None, and nothing is done, where fewer than
    ``least`` are quiet, where something stale is cached for them, or where the batch does not know
    the machine: protection keys, agile paging.
    """
    made = stretch(cpu, gva, kinds, least)
    if made is not None:
        _tell(cpu, made)
    return made


def stretch(cpu: Cpu, gva: Ints, kinds: Bytes, least: int) -> Made | None:
    """As `make_quietly`, but without a word."""
    if not _known(cpu) or len(gva) < max(least, 1):
        return None
    keys = page_keys(gva, (1 << cpu.context.width - _SHIFT) - 1)
    plan = plan_pages(cpu, keys.numbers)
    count = _quiet(plan, keys, kinds, _users(cpu))
    owed = plan.locator and any(any(one.due) for one in plan.locator.tables)
    if count < max(least, 1) or owed:
        return None
    try:
        return _make(cpu, plan, keys, gva[:count], kinds[:count])
    except StaleError:
        return None


def _known(cpu: Cpu) -> bool:
    ctx, keyed = cpu.context, cpu.controls.cr4 & (CR4_PKE | CR4_PKS)
    nested = cpu.tlb.geometry.nested
    whole = nested is None or set(nested.shifts) == set(ALL_SIZES)
    return whole and not keyed and ctx.tables is not None and not (ctx.ept and ctx.ept.agile)


def _users(cpu: Cpu) -> int:
    """The first of the kinds of access (`batch_plan.KINDS`) that the CPU makes now."""
    return _USERS if cpu.cpl == _USER_CPL else 0


def _quiet(plan: Plan, keys: Keys, kinds: Bytes, first: int) -> int:
    """How many accesses come before the first that is refused or sets an A or D bit."""
    words = np.zeros(keys.size, np.int16)
    words[keys.used] = plan.words & 0xFFF
    said = words.take(keys.of_access) >> ((kinds >> 1) + np.uint8(first))
    eventful = np.flatnonzero((said & (REFUSED | MARK)) != 0)
    return int(eventful[0]) if len(eventful) else len(kinds)


def _make(cpu: Cpu, plan: Plan, keys: Keys, gva: Ints, kinds: Bytes) -> Made:
    """Make the accesses; raises `StaleError`, and has then done nothing."""
    ctx, geometry, guest = cpu.context, cpu.tlb.geometry, plan.guest
    uppers = Uppers(geometry.walk_caches) if cpu.walk_caches else None
    nested, shape = None, geometry.nested
    tlb = TlbHandover(cpu, plan, keys, kinds)
    handed: list[UppersHandover | NestedHandover] = []
    if cpu.walk_caches and uppers and guest:
        handed.append(UppersHandover(cpu.walk_caches, uppers, guest, ctx))
    if cpu.nested_tlb and shape and ctx.ept:
        nested = LruArray(shape.sets, shape.ways)
        handed.append(NestedHandover(cpu, nested, columns(plan)))
    where = tlb.lookups(gva)
    missed = np.flatnonzero(where == MISS)
    served = serve(plan, tlb.rows(missed), uppers, nested)
    tlb.give_back(where)
    for one in handed:
        one.give_back()
    return Made(where, missed, served, plan, keys)


def _tell(cpu: Cpu, made: Made) -> None:
    """Say it all at once."""
    for name, count in zip(_WHERE, np.bincount(made.where, minlength=3).tolist(), strict=True):
        if count:
            cpu.tap(TlbLookups(user=cpu.cpl == _USER_CPL, where=name, count=count))
    served = made.served
    if cpu.walk_caches:
        for level, count in enumerate(np.bincount(served.start).tolist()):
            if count:
                cpu.tap(WalkCacheLookups(level, count))
    hits, asked = int(served.hits.sum(dtype=np.int64)), int(served.asked.sum(dtype=np.int64))
    for hit, count in ((True, hits), (False, asked - hits)):
        if count:
            cpu.tap(NestedTlbLookups(hit, count))
    for (table, level), reads in served.references.items():
        cpu.tap(Steps(table, level, reads))
