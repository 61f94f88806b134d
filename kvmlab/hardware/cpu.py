"""A logical CPU: registers, a TLB, and the way one access goes.

    TlbLookup -> Step x n -> AccessedDirty -> TlbFill -> data
                   |-> PageFault -> the guest's own handler -> retry
                   |-> VmExit -> the hypervisor -> VmEntry -> retry

`Cpu.attempt` is one try and changes nothing but what silicon changes; `Cpu.access` serves what
came of it and tries again.  In VMX non-root operation the CPU obeys the VMCS and exits: it
never asks a hypervisor to translate.
"""

from collections.abc import Callable, Generator
from typing import TypeVar

from kvmlab.base.addresses import is_canonical
from kvmlab.base.errors import MachineCheck
from kvmlab.base.tap import Tap, silent
from kvmlab.hardware import permissions
from kvmlab.hardware.context import context, context_key
from kvmlab.hardware.ept import Ept, advanced_bits, nested, qualification
from kvmlab.hardware.formats import Tables
from kvmlab.hardware.processor import CR4_PGE, Controls, Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import (
    USER,
    WRITE,
    Data,
    ExitReason,
    Fault,
    GeneralProtection,
    Kind,
    Mapped,
    NestedTlbLookup,
    PageFault,
    TlbFill,
    TlbFlush,
    TlbLookup,
    VmEntry,
    VmExit,
    WalkCacheLookup,
)
from kvmlab.hardware.tlb import GLOBAL, UNIFIED, Geometry, Tag, Tlb, TlbEntry
from kvmlab.hardware.vmcs import Instruction, Vmcs
from kvmlab.hardware.walk_caches import NestedTlb, WalkCaches
from kvmlab.hardware.walker import Record, Start, Walk, mark, walk

T = TypeVar("T")

Outcome = int | PageFault | GeneralProtection | VmExit
_POINTER_ADDRESS = 0x000F_FFFF_FFFF_F000
_ATTEMPTS = 64  # no access of a working machine needs that many faults and exits


class Cpu:
    """One logical processor over ``ram``.

    The guest's kernel sets the handlers (vectors 13 and 14 of its IDT); VM entry sets ``vmcs``
    (None outside VMX non-root operation).
    """

    def __init__(
        self,
        ram: Ram,
        processor: Processor | None = None,
        geometry: Geometry = UNIFIED,
        tap: Tap = silent,
    ) -> None:
        self.ram = ram
        self.processor = processor or Processor()
        self.tap = tap
        self.tlb = Tlb(geometry)
        self.walk_caches = WalkCaches(geometry.walk_caches) if geometry.walk_caches else None
        self.nested_tlb = NestedTlb(geometry.nested) if geometry.nested else None
        self.cpl = 0
        self.page_fault_handler: Callable[[PageFault], None] | None = None
        self.protection_fault_handler: Callable[[GeneralProtection], None] | None = None
        self.pdptes: tuple[int, int, int, int] | None = None  # PAE: the four PDPTE registers
        self.vmcs: Vmcs | None = None
        self._native = Controls()
        self.context = context(self._native, None, self.processor, pointers_in_registers=True)

    @property
    def controls(self) -> Controls:
        """The control state in force: the VMCS guest state inside a VM, else the CPU's own."""
        return self._native if self.vmcs is None else self.vmcs.guest

    def refresh(self) -> None:
        """Take up a change of the control state: after a MOV to a register, or a VM entry."""
        if self.context.key != context_key(self.controls, self.vmcs):
            self.context = context(
                self.controls,
                self.vmcs,
                self.processor,
                pointers_in_registers=not self.processor.pdptes_in_memory,
            )

    def start(self, controls: Controls) -> None:
        """Begin without a hypervisor, in the state that firmware leaves."""
        self._native = controls
        self.refresh()

    def flush_tlb(self) -> None:
        """Empty the TLB and the walk caches: the next access is a complete miss."""
        if self.nested_tlb:
            self.nested_tlb.drop()
        self.drop("cold start", lambda _tag: True)

    def enter(self, vmcs: Vmcs) -> None:
        """VMLAUNCH: from now on the guest runs, under ``vmcs``."""
        self.vmcs = vmcs
        self.refresh()

    def forget(self, gva: int, why: str) -> None:
        """Drop what is cached for one page: of this PCID, and the global translation.

        INVLPG drops all paging-structure caches of the PCID, a #PF those of the address.
        """
        ctx = self.context
        dropped = self.tlb.drop_page(gva, ctx.tag)
        if self.walk_caches and why == "INVLPG":
            own = (ctx.tag.vpid, ctx.tag.pcid)  # for all EPT roots
            self.walk_caches.drop(lambda tag: (tag.vpid, tag.pcid) == own)
        elif self.walk_caches and ctx.tables:
            self.walk_caches.drop_address(ctx.tables, gva, ctx.tag)
        if dropped or why == "INVLPG":
            self.tap(TlbFlush(why, dropped))

    def drop(self, why: str, tags: Callable[[Tag], object], gva: int | None = None) -> None:
        """Drop the translations whose tag passes ``tags``, all or those of the page of ``gva``.

        Paging-structure caches of such tags go altogether, as the SDM allows and demands.
        """
        dropped = self.tlb.drop(
            lambda one: tags(one.tag) and (gva is None or one.belongs_to(gva))
        )
        if self.walk_caches:
            self.walk_caches.drop(tags)
        self.tap(TlbFlush(why, dropped))

    # -- one try ------------------------------------------------------------------------

    def attempt(self, gva: int, kind: Kind, *, implicit: bool = False) -> Outcome:
        """Translate one access: the host-physical address, or what stopped it.

        Emits what was done on the way.  Implicit accesses (descriptor tables) are supervisor
        accesses at any CPL.
        """
        controls = self.controls
        user = self.cpl == 3 and not implicit
        width = self.context.width
        if width == 32:
            gva &= 0xFFFF_FFFF
        elif not is_canonical(gva, width):
            return GeneralProtection(gva, "the address is not canonical")
        entry, where = self.tlb.lookup(gva, self.context.tags, fetch=kind is Kind.FETCH)
        if (
            entry is not None
            and kind & entry.allows
            and permissions.allowed(controls, entry.rights, kind, user=user, implicit=implicit)
            and not permissions.key_denies(controls, entry.leaf, entry.rights, kind, user=user)
        ):
            self.tap(TlbLookup(gva, kind, user, where))
            return entry.page | gva & (1 << entry.shift) - 1
        # A cached entry that does not allow the access is no answer: the tables are.
        self.tap(TlbLookup(gva, kind, user, "miss"))
        if entry is not None:
            self.tlb.drop_page(gva, self.context.tag)
        return self.run(self._translate(gva, kind, user=user, implicit=implicit))

    def run(self, steps: Generator[object, None, T]) -> T:
        """Drain a walk into the tap; returns where it arrived."""
        tap = self.tap
        while True:
            try:
                tap(next(steps))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def _translate(
        self, gva: int, kind: Kind, *, user: bool, implicit: bool
    ) -> Generator[Record, None, Outcome]:
        """Walk the guest's tables, judge, set A and D, then walk EPT for the page itself."""
        controls, ept, tables = self.controls, self.context.ept, self.context.tables
        mapped: Mapped | None = None
        gpa = gva
        if tables is not None:
            start = yield from self._begin(gva)
            found = yield from self._walk_guest(gva, start)
            if isinstance(found, Fault):
                return self._stopped(found, gva, kind, user=user)
            mapped = found
            key = permissions.key_denies(controls, mapped.leaf, mapped.rights, kind, user=user)
            fine = permissions.allowed(controls, mapped.rights, kind, user=user, implicit=implicit)
            if key or not fine:
                return self._page_fault(gva, kind, user=user, present=True, key=key)
            refused = yield from mark(tables, mapped.path, self.ram, write=kind is Kind.WRITE)
            if refused:
                return self._stopped(refused, gva, kind, user=user)
            if self.walk_caches:
                self.walk_caches.fill(tables, gva, self.context.tag, mapped, start)
            gpa = mapped.address
        if ept is None:
            return self._fill(gva, gpa, mapped, None, kind)
        final = yield from self._second_dimension(gpa, self._ept_wants(kind, mapped))
        if isinstance(final, Fault):
            return self._nested_exit(final, gva, mapped, final=True)
        return self._fill(gva, final.address, mapped, final, kind)

    def _begin(self, gva: int) -> Generator[Record, None, Start | None]:
        """Where the walk may begin: the deepest upper entry that is cached."""
        if not self.walk_caches or not self.context.tables:
            return None
        start = self.walk_caches.longest(self.context.tables, gva, self.context.tag)
        yield WalkCacheLookup(gva, start.level if start else 0)
        return start

    def _walk_guest(self, gva: int, start: Start | None) -> Walk:
        """The guest's own tables, each entry located through EPT where EPT is on."""
        ctx = self.context
        tables, root = ctx.tables, ctx.root
        assert tables is not None  # noqa: S101  the caller looked
        if self.pdptes is not None and tables.format.mode == "PAE":
            pointer = self.pdptes[gva >> 30 & 3]
            if not pointer & 1:
                return Fault("guest", 3, "absent", gva, 0, 0)
            root = pointer & _POINTER_ADDRESS
        locate = self._table_page if ctx.ept else None
        return (yield from walk(tables, root, gva, self.ram, locate, start))

    def _table_page(self, gpa: int) -> Walk:
        """Where a guest table's entry lives: an EPT translation for a table access."""
        assert self.context.ept is not None  # noqa: S101  asked for only with EPT on
        return self._second_dimension(gpa, self.context.ept.table_access)

    def _second_dimension(self, gpa: int, wants: int) -> Walk:
        """Translate by EPT, through the nested TLB where there is one."""
        ept = self.context.ept
        assert ept is not None  # noqa: S101  asked for only with EPT on
        if self.nested_tlb is None:
            return nested(ept, self.ram, gpa, wants)
        return self._nested_lookup(self.nested_tlb, ept, gpa, wants)

    def _nested_lookup(self, cached: NestedTlb, ept: Ept, gpa: int, wants: int) -> Walk:
        hit = cached.find(gpa, wants, ept.root)
        yield NestedTlbLookup(gpa, hit is not None)
        if hit is not None:
            return hit
        found = yield from nested(ept, self.ram, gpa, wants)
        if isinstance(found, Mapped):
            dirty = ept.tables.format.dirty if ept.accessed_dirty else 0
            cached.fill(gpa, found, ept.root, dirty)
        return found

    def _ept_wants(self, kind: Kind, mapped: Mapped | None) -> int:
        """The EPT right the final access needs; mode-based execute tells user pages apart."""
        user_page = mapped is None or mapped.rights & USER
        if kind is Kind.FETCH and user_page and self.context.mode_based:
            return USER
        return int(kind)

    def _fill(
        self, gva: int, hpa: int, mapped: Mapped | None, final: Mapped | None, kind: Kind
    ) -> int:
        """Cache the finished translation at the smaller of the two page sizes."""
        ends = [one for one in (mapped, final) if one is not None]
        if not ends:
            return hpa  # neither paging nor EPT
        shift = min(one.shift for one in ends)
        rights = mapped.rights if mapped else 0xF
        allows = final.rights & 7 if final else 7
        if final and self.context.mode_based and rights & USER:
            allows = allows & ~4 | (final.rights & USER) >> 1  # user pages: XU is the fetch right
        if not (_dirty(self.context.tables, mapped) and self._ept_dirty(final)):
            allows &= ~WRITE  # the first write must walk again and set D
        leaf = mapped.leaf if mapped else 0
        tag = self.context.tag
        if leaf & 1 << 8 and self.controls.cr4 & CR4_PGE:
            tag = tag._replace(pcid=GLOBAL)
        page = hpa & ~((1 << shift) - 1)
        span = mapped.shift if mapped else shift
        entry = TlbEntry(gva >> shift, page, shift, rights, allows, leaf, tag, span)
        self.tlb.fill(entry, fetch=kind is Kind.FETCH)
        self.tap(TlbFill(gva, hpa, shift, rights))
        return hpa

    def _ept_dirty(self, final: Mapped | None) -> bool:
        ept = self.context.ept
        return ept is None or not ept.accessed_dirty or _dirty(ept.tables, final)

    # -- why it stopped -----------------------------------------------------------------

    def _stopped(self, fault: Fault, gva: int, kind: Kind, *, user: bool) -> Outcome:
        """The answer to a walk that ended early: a #PF, or an exit for the other dimension."""
        if fault.table == "ept":
            return self._nested_exit(fault, gva, None, final=False)
        reserved = fault.why == "reserved"
        return self._page_fault(gva, kind, user=user, present=reserved, reserved=reserved)

    def _page_fault(
        self,
        gva: int,
        kind: Kind,
        *,
        user: bool,
        present: bool,
        reserved: bool = False,
        key: bool = False,
    ) -> PageFault | VmExit:
        self.forget(gva, "#PF")
        code = permissions.error_code(
            self.controls, kind, user=user, present=present, reserved=reserved, key=key
        )
        if self.vmcs and self.vmcs.page_fault_exiting:
            return VmExit(ExitReason.EXCEPTION, code, gva, 0)
        return PageFault(gva, code, kind, user)

    def _nested_exit(self, fault: Fault, gva: int, mapped: Mapped | None, *, final: bool) -> VmExit:
        """An exit caused by EPT: violation, misconfiguration, or a full log; or an NPF on AMD."""
        ept = self.context.ept
        assert ept is not None  # noqa: S101  it is its tables that refused
        if self.nested_tlb:
            self.nested_tlb.forget(fault.address, ept.root)
        if ept.npt:
            return VmExit(ExitReason.NPF, self._npf_code(fault, final=final), gva, fault.address)
        if fault.why == "reserved":
            return VmExit(ExitReason.EPT_MISCONFIG, 0, gva, fault.address)
        if fault.why == "pml full":
            return VmExit(ExitReason.PML_FULL, 0, gva, fault.address)
        code = qualification(fault, final=final, mode_based=self.context.mode_based)
        if final and (self.processor.advanced_exit_information or self.context.mode_based):
            code |= advanced_bits(mapped) if mapped else USER << 6 | WRITE << 9
        return VmExit(ExitReason.EPT_VIOLATION, code, gva, fault.address)

    @staticmethod
    def _npf_code(fault: Fault, *, final: bool) -> int:
        """EXITINFO1 of a nested page fault (APM volume 2, "Nested versus Guest Page Faults")."""
        code = permissions.PF_USER | (permissions.PF_WRITE if fault.wants & WRITE else 0)
        code |= 0 if fault.why in ("absent", "width") else permissions.PF_PRESENT
        code |= permissions.PF_RESERVED if fault.why == "reserved" else 0
        code |= permissions.PF_FETCH if fault.wants & int(Kind.FETCH) else 0
        return code | (1 << 32 if final else 1 << 33)

    # -- serving what came of it --------------------------------------------------------

    def access(self, gva: int, kind: Kind, size: int = 1, data: bytes = b"") -> int | None:
        """The host-physical address of an access, after all its faults and exits.

        None: a hypervisor emulated the instruction, ``data`` included.  Raises `MachineCheck`
        if nobody can serve a fault.
        """
        for _ in range(_ATTEMPTS):
            outcome = self.attempt(gva, kind)
            if type(outcome) is int:
                return outcome
            if isinstance(outcome, VmExit):
                if self.exit(outcome, Instruction(kind, gva, size, data)):
                    return None
            elif isinstance(outcome, PageFault):
                self.deliver(outcome)
            else:
                assert isinstance(outcome, GeneralProtection)  # noqa: S101
                self.protection_fault(outcome)
        raise MachineCheck(f"the access to {gva:#x} still faults after {_ATTEMPTS} attempts")

    def deliver(self, fault: PageFault) -> None:
        """Run the guest's #PF handler at CPL 0, as its IDT says."""
        if self.page_fault_handler is None:
            raise MachineCheck(
                f"triple fault: #PF at {fault.gva:#x}, error code {fault.error_code:#x}, "
                "and no handler in the IDT"
            )
        self.controls.cr2 = fault.gva
        self.tap(fault)
        cpl, self.cpl = self.cpl, 0
        try:
            self.page_fault_handler(fault)
        finally:
            self.cpl = cpl

    def protection_fault(self, fault: GeneralProtection) -> None:
        """Deliver a #GP(0) to the guest's handler."""
        self.tap(fault)
        if self.protection_fault_handler is None:
            raise MachineCheck(f"#GP: {fault.why} ({fault.gva:#x}), and no handler in the IDT")
        self.protection_fault_handler(fault)

    def exit(self, reason: VmExit, instruction: Instruction) -> bool:
        """Leave the guest, run the hypervisor, enter again; whether it emulated the instruction."""
        vmcs = self.vmcs
        if vmcs is None:
            raise MachineCheck("a VM exit outside VMX non-root operation")
        vmcs.instruction, vmcs.advance, vmcs.injected = instruction, False, None
        self.tap(reason)
        if vmcs.vpid == 0:  # without VPID a transition leaves nothing of the guest cached
            self.drop("VM exit", lambda tag: tag.vpid == 0)
        vmcs.host_entry(reason)
        self.refresh()
        self.tap(VmEntry(vmcs.injected))
        advance, injected = vmcs.advance, vmcs.injected
        vmcs.instruction = vmcs.injected = None
        if injected is not None:
            self.deliver(injected)
        return advance

    # -- whole accesses, with their data ------------------------------------------------

    def load(self, gva: int, size: int = 8) -> int:
        """``size`` bytes at ``gva`` as a little-endian number; the bytes lie within one page."""
        hpa = self.access(gva, Kind.READ, size)
        if hpa is None:
            assert self.vmcs is not None  # noqa: S101  only a hypervisor emulates
            return int.from_bytes(self.vmcs.loaded, "little")
        self.tap(Data(gva, hpa, Kind.READ, size))
        return int.from_bytes(self.ram.read(hpa, size), "little")

    def store(self, gva: int, value: int, size: int = 8) -> None:
        """Write a little-endian number of ``size`` bytes at ``gva``, within one page."""
        self.store_bytes(gva, value.to_bytes(size, "little"))

    def store_bytes(self, gva: int, data: bytes) -> None:
        """Write ``data`` at ``gva``, within one page: one instruction (REP STOS for a page)."""
        hpa = self.access(gva, Kind.WRITE, len(data), data)
        if hpa is not None:
            self.tap(Data(gva, hpa, Kind.WRITE, len(data)))
            self.ram.write(hpa, data)


def _dirty(tables: Tables | None, mapped: Mapped | None) -> bool:
    """Whether the leaf of a finished walk has its D bit set (or there was no walk)."""
    if mapped is None or tables is None:
        return True
    leaf = mapped.path[-1].entry if mapped.path else mapped.leaf
    return bool(leaf & tables.format.dirty)
