"""What a batch knows of each page before it looks at a single access.

A page's word has the frame in bits 51:12 and below it two masks of six bits, one bit for each
kind of access (`KINDS`): those that are refused, and those that would set an A or D bit.  All of
permissions, keys, SMEP and SMAP, EPT rights and absent entries is in the first mask; it is built
by asking `permissions` about the few patterns of rights there are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvmlab.hardware import permissions
from kvmlab.hardware.batch_judge import FOREIGN, WHY
from kvmlab.hardware.batch_pages import Bools, Bytes, Ints, holds
from kvmlab.hardware.batch_second import Locator, due, four_roots, needed, one_root, reach, refusal
from kvmlab.hardware.batch_traits import Traits
from kvmlab.hardware.batch_tree import Found, References, walk_pages
from kvmlab.hardware.cpu import Cpu, Outcome
from kvmlab.hardware.ept import Ept
from kvmlab.hardware.faults import nested_exit, page_fault
from kvmlab.hardware.mmu import Access, Stop
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.records import USER, ExitReason, Fault, Kind, Mapped, VmExit

KINDS = 6
"""Kinds of access: read, write, fetch as 0, 1, 2 by the supervisor, and 3 more as a user."""

REFUSED, MARK = 1, 1 << KINDS
ALL, WRITES = (1 << KINDS) - 1, 1 << 1 | 1 << 4


def meaning(acc: int) -> tuple[Kind, bool]:
    """The kind of access and whether a user makes it."""
    return Kind(1 << acc % 3), acc >= 3


@dataclass(slots=True)
class Plan:
    """The distinct pages of a batch, walked and judged; nothing is changed yet."""

    cpu: Cpu
    pages: Ints
    guest: Found | None  # None: paging is off
    locator: Locator | None  # where guest tables were found; None without a second dimension
    final: Found | None  # the second dimension of the pages themselves
    guest_mask: Bytes  # kinds of access that the guest's tables refuse
    mask: Bytes  # kinds that either dimension refuses
    words: Ints

    def unusual(self, asked: Bytes) -> bool:
        """Whether the order of accesses matters, so that each must be walked by itself.

        A bits set on the way down; a log of dirty pages; tables that EPT lets nobody write; and
        an entry that serves two ways of reading at once, so that a bit set in it means something
        to the other one.
        """
        ept = self.cpu.context.ept
        if self.guest and self.guest.tables.eager:
            return True
        if self.locator and self.locator.unwritable and self._guest_due(asked):
            return True
        owed = [self._guest_due(asked)]
        if ept:
            tables = self.locator.tables if self.locator else []
            pairs = [one.due for one in tables]
            if self.final:
                pairs.append(due(ept, self.final, *self._final_rows(asked)))
            if ept.pml and any(dirty for _, dirty in pairs):
                return True
            owed += [accessed or dirty for accessed, dirty in pairs]
        return any(owed) and self._shared_tables()

    def mark(self, asked: Bytes) -> None:
        """Set the A and D bits of all accesses; ``asked`` has the kinds made to each page."""
        ram, ept = self.cpu.ram, self.cpu.context.ept
        for tables in self.locator.tables if self.locator else ():
            if any(tables.due):
                tables.mark(ram)
        if self.guest and holds(asked & ~self.guest_mask):
            self.guest.mark(ram, *self._guest_rows(asked))
        if self.final and ept and ept.accessed_dirty and holds(asked & ~self.mask):
            self.final.mark(ram, *self._final_rows(asked))

    def count(self, accesses: Ints, passed: Ints) -> References:
        """Entries read by ``accesses`` to each page, of which the guest's tables let pass some."""
        references = References()
        if self.guest:
            self.guest.count(accesses, references)
        if self.final:
            self.final.count(passed, references)
        return references

    def guest_refuses(self, page: Ints, acc: Bytes) -> Bools:
        """Whether the guest's tables refuse these accesses."""
        return (self.guest_mask.take(page) >> acc & 1).astype(np.bool_)

    def explain(self, page: int, gva: int, acc: int) -> Outcome:
        """The #PF or VM exit of one refused access, from the scalar path's own functions."""
        cpu, access = self.cpu, Access(gva, *meaning(acc))
        stop = self._stop(page, access, acc)
        if stop.fault.table == "ept":
            return nested_exit(stop, gva, cpu.context, cpu.processor)
        fault = page_fault(stop, access, cpu.controls)
        if cpu.vmcs and cpu.vmcs.page_fault_exits(fault.error_code):
            return VmExit(ExitReason.EXCEPTION, fault.error_code, gva, 0)
        return fault

    def _stop(self, page: int, access: Access, acc: int) -> Stop:
        mapped = None
        gpa = access.gva
        if self.guest:
            if self.guest_mask[page] >> acc & 1:
                return Stop(self._guest_fault(self.guest, page, access))
            state, rights = self.guest.state, _rights(self.guest, page)
            gpa = int(self.guest.frame[page]) | access.gva & 0xFFF
            leaf = int(state.entry[page]) & (1 << 64) - 1
            mapped = Mapped(self.guest.tables.format.table, gpa, 12, rights, leaf, [])
        ept = self.cpu.context.ept
        assert ept is not None  # noqa: S101  what no table of the guest refused
        assert self.final is not None  # noqa: S101
        wants = _ept_wants(access.kind, mapped is None or mapped.rights & USER, self.cpu)
        return Stop(refusal(ept, self.final, page, gpa, wants), mapped, final=True)

    def _guest_fault(self, guest: Found, page: int, access: Access) -> Fault:
        table, why = guest.tables.format.table, int(guest.state.why[page])
        level = int(guest.state.level[page])
        if why == FOREIGN:
            return self._table_fault(guest, page)
        if WHY[why]:
            return Fault(table, level, WHY[why], access.gva, 0, 0)
        leaf, rights = int(guest.state.entry[page]), _rights(guest, page)
        kind, controls = access.kind, self.cpu.controls
        key = permissions.key_denies(controls, leaf, rights, kind, user=access.user)
        return Fault(table, level, "key" if key else "rights", access.gva, rights, kind)

    def _table_fault(self, guest: Found, page: int) -> Fault:
        """EPT refuses a guest table on the way to ``page``."""
        ept, locator = self.cpu.context.ept, self.locator
        assert ept is not None  # noqa: S101  only EPT refuses tables
        assert locator is not None  # noqa: S101
        row = page
        for level, tables in zip(reversed(guest.levels), reversed(locator.tables), strict=True):
            row = int(level.parent[row])
            if level.row.level == guest.state.level[page]:
                index = int(self.pages[page]) >> level.row.shift - 12 & level.row.index_mask
                slot = int(level.tables[row]) + index * guest.tables.format.entry_bytes
                return refusal(ept, tables.found, row, slot, ept.table_access)
        raise AssertionError  # a walk stops at one of its levels

    def _guest_rows(self, asked: Bytes) -> tuple[Bools, Bools]:
        """The pages whose guest entries get A, and those that get D."""
        passed = asked & ~self.guest_mask
        return passed != 0, passed & WRITES != 0

    def _final_rows(self, asked: Bytes) -> tuple[Bools, Bools]:
        passed = asked & ~self.mask
        return passed != 0, passed & WRITES != 0

    def _guest_due(self, asked: Bytes) -> bool:
        if not self.guest or not holds(asked & ~self.guest_mask):
            return False
        used, written = self._guest_rows(asked)
        owed = used & self.guest.lacks_accessed() | written & self.guest.lacks_dirty()
        return holds(owed)

    def _shared_tables(self) -> bool:
        """Whether a frame of tables is read in two ways that do not agree on A and D bits."""
        second = [one.found for one in self.locator.tables] if self.locator else []
        second += [self.final] if self.final else []
        guest = self.guest.levels if self.guest else []
        pointers = [one.frames for one in guest if self._is_pointer(one.row.level)]
        others = [one.frames for one in guest if not self._is_pointer(one.row.level)]
        nested = [level.frames for one in second for level in one.levels]
        return _meet(pointers, others) or _meet(pointers + others, nested)

    def _is_pointer(self, level: int) -> bool:
        return self.guest is not None and level == self.guest.tables.no_rights_level


def plan_pages(cpu: Cpu, pages: Ints) -> Plan:
    """Walk and judge distinct linear page numbers under the CPU's present controls."""
    ctx, guest, locator, final = cpu.context, None, None, None
    frame, verdicts = pages << 12, np.zeros(len(pages), np.int64)
    if ctx.tables is not None:
        locator = Locator(ctx.ept, cpu.ram) if ctx.ept else None
        roots = four_roots(ctx.first_table) if ctx.pdptes else one_root(ctx.root)
        guest = walk_pages(ctx.tables, roots, pages, cpu.ram, locator)
        frame, verdicts = guest.frame, _verdicts(guest, _guest_refuses(cpu.controls))
    mask = refused = (verdicts & ALL).astype(np.uint8)
    if ctx.ept is not None:
        final = reach(ctx.ept, cpu.ram, frame >> 12, locator.found if locator else None)
        other = _final_verdicts(cpu, ctx.ept, guest, final)
        other &= ~((verdicts & ALL) << KINDS)  # what the guest's tables refuse goes no further
        frame, verdicts = final.frame, verdicts | other
        mask = (verdicts & ALL).astype(np.uint8)
    return Plan(cpu, pages, guest, locator, final, refused, mask, frame | verdicts)


Refuses = Callable[[Traits], int]
"""The kinds of access that pages with these traits refuse."""


def _verdicts(found: Found, refuses: Refuses, *, marks: bool = True) -> Ints:
    """For each page the kinds of access that are refused, and those that set an A or D bit."""

    def judge(one: Traits) -> int:
        mask = refuses(one)
        effects = ALL if not one.accessed else WRITES if not one.dirty else 0
        return mask | (effects & ~mask if marks else 0) << KINDS

    verdicts = found.judged(judge)
    stopped = np.flatnonzero(~found.arrived)
    if len(stopped):
        verdicts[stopped] = ALL
    return verdicts


def _guest_refuses(controls: Controls) -> Refuses:
    def refuses(traits: Traits) -> int:
        mask, rights = 0, traits.rights
        for acc in range(KINDS):
            kind, user = meaning(acc)
            denied = permissions.key_denies(controls, traits.leaf, rights, kind, user=user)
            if denied or not permissions.allowed(controls, rights, kind, user=user):
                mask |= 1 << acc
        return mask

    return refuses


def _final_verdicts(cpu: Cpu, ept: Ept, guest: Found | None, final: Found) -> Ints:
    """The second dimension's verdicts; with mode-based execute they depend on who owns a page."""

    def refuses_if(user_page: bool) -> Refuses:
        wants = [needed(ept, _ept_wants(meaning(acc)[0], user_page, cpu)) for acc in range(KINDS)]
        return lambda one: sum(bool(want & ~one.rights) << acc for acc, want in enumerate(wants))

    found = _verdicts(final, refuses_if(True), marks=ept.accessed_dirty)
    if guest is None or not cpu.context.mode_based:
        return found
    others = _verdicts(final, refuses_if(False), marks=ept.accessed_dirty)
    return np.where(guest.rights() & USER != 0, found, others)


def _rights(found: Found, page: int) -> int:
    return Traits(found.tables, int(found.traits()[page])).rights


def _ept_wants(kind: Kind, user_page: int, cpu: Cpu) -> int:
    """As `Mmu._ept_wants`: mode-based execute tells user pages apart."""
    return USER if kind is Kind.FETCH and user_page and cpu.context.mode_based else int(kind)


def _meet(some: list[Ints], others: list[Ints]) -> bool:
    if not some or not others:
        return False
    return holds(np.isin(np.concatenate(some), np.concatenate(others)))
