"""What a batch knows of each page before it looks at a single access.

A page's word has the frame in bits 51:12 and below it two masks of six bits, one bit for each
kind of access (`KINDS`): those that are refused, and those that would set an A or D bit.  All of
permissions, keys, SMEP and SMAP, EPT rights and absent entries is in the first mask; it is built
by asking `permissions` about the few patterns of rights there are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware import permissions
from kvmlab.hardware.batch_pages import Ints
from kvmlab.hardware.batch_second import Locator, due, four_roots, needed, one_root, reach, refusal
from kvmlab.hardware.batch_tree import FOREIGN, WHY, Bools, Bytes, Found, References, walk_pages
from kvmlab.hardware.cpu import Cpu, Outcome
from kvmlab.hardware.faults import nested_exit, page_fault
from kvmlab.hardware.mmu import Access, Stop
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.records import USER, ExitReason, Fault, Kind, Mapped, VmExit

KINDS = 6
"""Kinds of access: read, write, fetch as 0, 1, 2 by the supervisor, and 3 more as a user."""

REFUSED, MARK = 1, 1 << KINDS
ALL, WRITES = (1 << KINDS) - 1, 1 << 1 | 1 << 4
_POINTER_ADDRESS = 0x000F_FFFF_FFFF_F000


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
            used, written = self._final_rows(asked)
            pairs = [due(ept, self.final, used, written)] if self.final else []
            tables = self.locator.tables if self.locator else []
            pairs += [due(ept, one.found, one.granted, one.granted) for one in tables]
            if ept.pml and any(dirty for _, dirty in pairs):
                return True
            owed += [accessed or dirty for accessed, dirty in pairs]
        return any(owed) and self._shared_tables()

    def mark(self, asked: Bytes) -> None:
        """Set the A and D bits of all accesses; ``asked`` has the kinds made to each page."""
        ram, ept = self.cpu.ram, self.cpu.context.ept
        if self.locator and ept and ept.accessed_dirty:
            for tables in self.locator.tables:
                if any(due(ept, tables.found, tables.granted, tables.granted)):
                    tables.mark(ram)
        if self.guest and asked.any():
            self.guest.mark(ram, *self._guest_rows(asked))
        if self.final and ept and ept.accessed_dirty and asked.any():
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
            state, rights = self.guest.state, int(self.guest.rights()[page])
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
        leaf, rights = int(guest.state.entry[page]), int(guest.rights()[page])
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
                slot = int(guest.state.slot[page])
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
        if not self.guest:
            return False
        used, written = self._guest_rows(asked)
        owed = used & self.guest.lacks_accessed() | written & self.guest.lacks_dirty()
        return bool(owed.any())

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
    gpa, refused = pages, np.zeros(len(pages), np.uint8)
    if ctx.tables is not None:
        locator = Locator(ctx.ept, cpu.ram) if ctx.ept else None
        roots = one_root(ctx.root)
        if cpu.pdptes is not None and ctx.tables.format.mode == "PAE":
            roots = four_roots(cpu.pdptes, _POINTER_ADDRESS)
        guest = walk_pages(ctx.tables, roots, pages, cpu.ram, locator)
        refused = _guest_masks(cpu.controls, guest)
        gpa = guest.frame >> 12
    mask, frame = refused, gpa << 12
    if ctx.ept is not None:
        final = reach(ctx.ept, cpu.ram, gpa)
        mask = refused | _ept_masks(cpu, guest, final)
        frame = final.frame
    plan = Plan(cpu, pages, guest, locator, final, refused, mask, frame)
    plan.words = frame | mask.astype(np.int64) | _effects(plan).astype(np.int64) << KINDS
    return plan


def _effects(plan: Plan) -> Bytes:
    """The kinds of access that set an A or D bit."""
    found = np.zeros(len(plan.pages), np.uint8)
    ept = plan.cpu.context.ept
    if plan.guest:
        found |= _marks(plan.guest) & ~plan.guest_mask
    if plan.final and ept and ept.accessed_dirty:
        found |= _marks(plan.final) & ~plan.mask
    return found


def _marks(found: Found) -> Bytes:
    accessed = np.where(found.lacks_accessed(), ALL, 0)
    return (accessed | np.where(found.lacks_dirty(), WRITES, 0)).astype(np.uint8)


def _guest_masks(controls: Controls, guest: Found) -> Bytes:
    """The kinds of access that the guest's tables refuse."""
    rights = guest.rights()
    if guest.tables.switches.keys and controls.long_mode:
        rights = rights | (guest.state.entry >> 59 & 15) << 4
    patterns, of_page = _patterns(rights)
    masks = [_refused(controls, int(one) & 15, int(one) >> 4 << 59) for one in patterns]
    found = np.array(masks, np.uint8).take(of_page)
    found[np.flatnonzero(~guest.arrived)] = ALL
    return found


def _refused(controls: Controls, rights: int, leaf: int) -> int:
    mask = 0
    for acc in range(KINDS):
        kind, user = meaning(acc)
        denied = permissions.key_denies(controls, leaf, rights, kind, user=user)
        if denied or not permissions.allowed(controls, rights, kind, user=user):
            mask |= 1 << acc
    return mask


def _ept_masks(cpu: Cpu, guest: Found | None, final: Found) -> Bytes:
    """The kinds of access that the second dimension refuses."""
    ept = cpu.context.ept
    assert ept is not None  # noqa: S101  the caller looked
    user_page = guest.rights() & USER if guest else USER
    patterns, of_page = _patterns(final.rights() | user_page << 1)
    masks = []
    for one in patterns.tolist():
        wants = [_ept_wants(meaning(acc)[0], one & USER << 1, cpu) for acc in range(KINDS)]
        masks.append(
            sum(bool(needed(ept, want) & ~one & 15) << acc for acc, want in enumerate(wants))
        )
    found = np.array(masks, np.uint8).take(of_page)
    found[np.flatnonzero(~final.arrived)] = ALL
    return found


def _patterns(rights: Ints) -> tuple[NDArray[np.int64], Ints]:
    """Which of the 256 patterns occur, and which one each page has."""
    patterns = np.flatnonzero(np.bincount(rights, minlength=256))
    place = np.zeros(256, np.int64)
    place[patterns] = np.arange(len(patterns))
    return patterns, place.take(rights)


def _ept_wants(kind: Kind, user_page: int | bool, cpu: Cpu) -> int:
    """As `Mmu._ept_wants`: mode-based execute tells user pages apart."""
    return USER if kind is Kind.FETCH and user_page and cpu.context.mode_based else int(kind)


def _meet(some: list[Ints], others: list[Ints]) -> bool:
    if not some or not others:
        return False
    return bool(np.isin(np.concatenate(some), np.concatenate(others)).any())
