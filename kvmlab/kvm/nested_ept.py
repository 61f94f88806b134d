"""EPT02: what L0 walks a nested guest with, merged from L1's EPT12 and its own EPT01.

No hardware walks three dimensions.  L0 shadows EPT12 as it would shadow a guest's page tables
(roles with guest_mode): an entry of EPT02 leads from an L2 guest-physical address straight to
the host, and writes of L1 to EPT12 trap, since EPT01 keeps those frames read-only.  Linux,
arch/x86/kvm/mmu/mmu.c: kvm_init_shadow_ept_mmu(); paging_tmpl.h with PTTYPE_EPT; vmx/nested.c.
"""

from dataclasses import replace

from kvmlab.base.tap import silent
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ept import EPTP_ACCESSED_DIRTY, Ept, decode_eptp
from kvmlab.hardware.formats import ALL_RIGHTS, Tables
from kvmlab.hardware.processor import Controls, Processor
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import EXECUTE, WRITE, ExitReason, Fault, Kind, Mapped, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.hardware.walker import walk
from kvmlab.host.kernel import ZERO_PAGE
from kvmlab.kvm.guest_walk import GuestWalk
from kvmlab.kvm.mmio import emulate_mmio
from kvmlab.kvm.policy import Policy
from kvmlab.kvm.records import FaultHandled
from kvmlab.kvm.shadow_dirty import ShadowDirty
from kvmlab.kvm.shadow_fetch import Fetch
from kvmlab.kvm.shadow_pages import PRESENT, PS, WRITABLE, ShadowPage, ShadowPages, Slot
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_role import Role
from kvmlab.kvm.shadow_sptes import Outcome, Sptes, Why
from kvmlab.kvm.shadow_sync import Sync
from kvmlab.kvm.shadow_writes import Writes
from kvmlab.kvm.vm import Vm

MERGED = Policy("merged", "every write of L1 to its EPT traps")
_X, _ACCESSED, _DIRTY, _WB_IPAT = 1 << 2, 1 << 8, 1 << 9, 6 << 3 | 1 << 6
_TABLE = PRESENT | WRITABLE | _X | _ACCESSED
_ROOT = 0x000F_FFFF_FFFF_F000
_FROM_EXIT = 1 << 7 | 1 << 8  # of a qualification: bits that the real exit decides
_QUAL_WRITE, _QUAL_FETCH = 1 << 1, 1 << 2


class Ept12Walk(GuestWalk):
    """EPT12 as L0 reads it, in L1's memory.  L0 offers L1 no execute-only pages."""

    def __init__(self, vm: Vm, processor: Processor) -> None:
        super().__init__(vm, Controls(), processor)
        self.eptp = 0
        self._decoded: tuple[int, Ept] | None = None

    @property
    def _ept(self) -> Ept:
        if self._decoded is None or self._decoded[0] != self.eptp:
            offered = replace(self._processor, ept_execute_only=False)
            self._decoded = self.eptp, decode_eptp(self.eptp, offered)
        return self._decoded[1]

    @property
    def tables(self) -> Tables:
        """The format that EPTP12 names."""
        return self._ept.tables

    @property
    def root_gfn(self) -> int:
        """The frame of L1's memory that EPTP12 names."""
        return self._ept.root >> PAGE_SHIFT

    def walk(self, gva: int) -> Mapped | Fault:
        """Where an L2 guest-physical address leads in L1's memory, as EPT12 has it."""
        return walk(self.tables, self._ept.root, gva, self._vm.ram, silent, self._locate)

    def leaf_access(self, entry: int, rights: int = ALL_RIGHTS) -> int:
        """As for a guest's leaf; without A and D in EPT12 no page is clean."""
        if self._ept.accessed_dirty:
            return super().leaf_access(entry, rights)
        return rights & self.rights(entry)


class Ept02Sptes(Sptes):
    """Leaves in EPT's format."""

    def _make(self, slot: Slot, hpa: int, access: int, _old: int, _why: Why) -> int:
        spte = hpa | PRESENT | _WB_IPAT | _ACCESSED | (PS if slot.page.role.level > 1 else 0)
        spte |= _X if access & EXECUTE else 0
        return spte | (WRITABLE | _DIRTY if access & WRITE else 0)


class Ept02Fetch(Fetch):
    """Paths in EPT's format."""

    upper = _TABLE


class MergedEpt:
    """EPT02 of one virtual CPU of L1, kept true to EPT12 by traps."""

    def __init__(self, vm: Vm, cpu: Cpu, pages: ShadowPages, vmcs02: Vmcs) -> None:
        self._vm, self._vmcs, self.pages = vm, vmcs02, pages
        self._walk = Ept12Walk(vm, cpu.processor)
        self._ended = False
        sptes = Ept02Sptes(pages, MERGED, vm.flushes)
        parts = Parts(vm, MERGED, vm.flushes, self._walk, pages, sptes)
        self._sync = Sync(parts)
        self._fetch = Ept02Fetch(parts, self._sync)
        self._writes = Writes(parts, self._fetch)
        vm.on_slot_gone.append(self._zap_all)
        vm.on_unmap.append(self._unmap)
        dirty = ShadowDirty(vm, pages, _ACCESSED)  # PML would log addresses of L2
        vm.logs.listeners.append(dirty)
        vm.on_age.append(dirty.age)

    def eptp(self, eptp12: int) -> int:
        """EPTP02 for an EPTP12: the root that shadows L1's, found or made."""
        self._walk.eptp = eptp12
        root = ZERO_PAGE if self._ended else self._root().hpa
        return root | eptp12 & ~_ROOT

    def end(self) -> None:
        """The VMM is no more: neither are the tables (kvm_mmu_get_dummy_root())."""
        self._ended = True
        self._zap_all()

    def _root(self) -> ShadowPage:
        role = Role(self._walk.tables.format.levels, ALL_RIGHTS, direct=False)
        return self._sync.get(self._walk.root_gfn, role)

    @property
    def keeps_accessed_dirty(self) -> bool:
        """Whether EPT12 has A and D flags, so EPT02 too (role.ad_disabled says it has not)."""
        return bool(self._walk.eptp & EPTP_ACCESSED_DIRTY)

    def violation(self, reason: VmExit) -> VmExit | None:
        """Serve an EPT violation of L2; or, where EPT12 is to blame, the exit that L1 must see."""
        mapped = self._walk.walk(reason.gpa)
        if isinstance(mapped, Fault) and mapped.why == "reserved":
            return VmExit(ExitReason.EPT_MISCONFIG, 0, reason.gva, reason.gpa)
        wants = reason.qualification & 7
        if isinstance(mapped, Fault) or wants & ~mapped.rights:
            code = wants | (mapped.rights & 7) << 3 | reason.qualification & _FROM_EXIT
            return VmExit(ExitReason.EPT_VIOLATION, code, reason.gva, reason.gpa)
        if self.keeps_accessed_dirty:
            self._walk.mark(mapped, write=bool(wants & _QUAL_WRITE))
        self._vm.tap(FaultHandled(self._fill(reason, mapped).value))
        return None

    def _fill(self, reason: VmExit, mapped: Mapped) -> Outcome:
        write = bool(reason.qualification & _QUAL_WRITE)
        backing = self._vm.back(mapped.address)
        if backing is None or (write and not backing.slot.rights & WRITE):
            fetch = reason.qualification & _QUAL_FETCH
            kind = Kind.WRITE if write else Kind.FETCH if fetch else Kind.READ
            emulate_mmio(self._vm, self._vmcs, mapped.address, kind)
            return Outcome.EMULATE
        outcome = self._fetch.fill(self._root(), reason.gpa, mapped, backing, write=write)
        if outcome is Outcome.EMULATE and write:  # L1 lets L2 write a table of EPT12
            self.emulate(self._vmcs, mapped.address)
            return outcome
        return Outcome.FIXED if outcome is Outcome.EMULATE else outcome

    def emulate(self, vmcs: Vmcs, gpa: int) -> None:
        """Do a trapped store to a table of EPT12, and drop what was built from it."""
        backing = self._vm.back(gpa)
        if backing is not None:
            instruction = vmcs.instruction
            data = instruction.data if instruction else b""
            self._writes.emulate(gpa, backing.host.address, data)
            vmcs.advance = True

    def _zap_all(self) -> None:
        with self._vm.flushes.together():
            for page in self.pages.oldest_first():
                if self.pages.find(page.gfn, page.role) is page:
                    self.pages.zap(page, "slot")

    def _unmap(self, gpas: range) -> None:
        if self.pages.unmap(gpas.start >> PAGE_SHIFT, gpas.stop - 1 >> PAGE_SHIFT):
            self._vm.flushes.request("unmap")
