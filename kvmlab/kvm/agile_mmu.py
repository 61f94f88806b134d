"""Agile paging: shadow paging for what rests, nested paging for what the guest keeps writing.

The MMU starts as a shadow MMU.  A guest table that is written again and again is switched: the
shadow entry that led to its shadow page now leads to the table itself, and the hardware goes on
nested from there (`hardware.agile`), so that no write to it or below it traps.  A periodic scan
of the dirty bits of such tables takes back what has come to rest.  Gandhi, Hill and Swift,
ISCA 2016.
"""

from kvmlab.hardware.agile import SWITCH
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ept import QUAL_FINAL
from kvmlab.hardware.processor import CR0_WP, CR4_PCIDE, EFER_NXE, Controls
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import ExitReason, Fault, GeneralProtection, Kind, Mapped, VmExit
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.kvm.agile_policy import SHADOW_PART, AgilePolicy
from kvmlab.kvm.agile_tables import AgileFetch, AgileWrites, NestedTables
from kvmlab.kvm.records import FaultHandled
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.shadow_sptes import Outcome
from kvmlab.kvm.tracked_ept import TrackedEpt
from kvmlab.kvm.vm import Backing, Vm

_QUAL_WRITE = 1 << 1
_NO_FLUSH = 1 << 63
_DEFAULT = AgilePolicy()


class AgileMmu(ShadowMmu):
    """One virtual CPU's shadow trees, and the EPT for what is nested.

    The hardware uses the guest's own registers.  Until they are such that a shadow can stand
    for the guest's tables (CR0.WP and EFER.NXE set, as any 64-bit kernel has them), and
    wherever the root is no memory, all is nested.
    """

    name = "agile"

    def __init__(
        self,
        vm: Vm,
        vmcs: Vmcs,
        cpu: Cpu,
        guest: Controls,
        levels: int = 4,
        first: "AgileMmu | None" = None,
        agile: AgilePolicy = _DEFAULT,
    ) -> None:
        super().__init__(vm, vmcs, cpu, guest, SHADOW_PART, first.pages if first else None)
        self._levels = levels
        self.ept: TrackedEpt
        self.nested: NestedTables
        if first:
            self.ept, self.nested = first.ept.sibling(vmcs, cpu, guest), first.nested
        else:
            self.ept = TrackedEpt(vm, vmcs, cpu, levels, self.pages)
            self.nested = NestedTables(vm, self.pages, self.ept, agile)
        self._fetch = AgileFetch(self._parts, self._sync, self.nested)
        self._writes = AgileWrites(self._parts, self._fetch, self.nested)

    def sibling(self, vmcs: Vmcs, cpu: Cpu, guest: Controls) -> "AgileMmu":
        """The MMU of another virtual CPU: its own registers and roots, the same tables."""
        return AgileMmu(self.vm, vmcs, cpu, guest, self._levels, self)

    @property
    def policy(self) -> str:
        """What a learner should know about how it works."""
        return "shadowed at first; tables that the guest keeps writing are walked nested"

    @property
    def table_frames(self) -> int:
        """How many frames shadow pages and EPT take now."""
        return len(self.pages) + self.ept.table_frames

    def arm(self) -> None:
        """EPT, a shadow root, and exits for faults of the shadow part and for registers."""
        self.ept.arm()
        self._vmcs.agile = self._vmcs.page_fault_exiting = self._vmcs.cr3_load_exiting = True
        self._vmcs.cr0_host_owned = self._vmcs.cr4_host_owned = -1
        self.reload()

    def control_written(self, register: str, value: int) -> None:
        """A MOV to a control register: another root, or another role of the same one."""
        pcids = bool(self._guest.cr4 & CR4_PCIDE)
        keep = register == "CR3" and pcids and bool(value & _NO_FLUSH)
        if why := self._walk.take(register, value & ~_NO_FLUSH if keep else value):
            self._vmcs.injected = GeneralProtection(0, why)
            return
        if register != "CR3":
            self._roots.clear()
        if not keep:
            self.flushes.request(f"MOV {register}")

    def handle(self, reason: VmExit) -> None:
        """Serve a fault in the shadow part, or an EPT violation in the nested one."""
        if reason.reason is ExitReason.EXCEPTION:
            self._page_fault(reason.gva, reason.qualification)
        else:
            self._violation(reason)

    def scan(self) -> None:
        """One interval of the host's timer is over: shadow again what was not written in it."""
        self.nested.scan()
        self.vm.go_on()

    # -- the nested part ----------------------------------------------------------------

    def _violation(self, reason: VmExit) -> None:
        """An EPT violation: a page to map, or a write to a table of the shadow part."""
        write = bool(reason.qualification & _QUAL_WRITE)
        backing = self._vm.back(reason.gpa) if write else None
        tracked = self.pages.tracked(reason.gpa >> PAGE_SHIFT)
        if backing is None or not (tracked and self._vm.slots.writable(reason.gpa)):
            self.ept.handle(reason)
            return
        instruction = self._vmcs.instruction
        if reason.qualification & QUAL_FINAL:
            data = instruction.data if instruction else b""
            self._writes.emulate(reason.gpa, backing.host.address, data)
            self._vmcs.advance = True
            self._vm.tap(FaultHandled("emulate"))
        else:  # the processor may not set A or D in a table that is shadowed elsewhere too
            mapped = self._walk.walk(reason.gva)
            if not isinstance(mapped, Fault):
                kind = instruction.kind if instruction else Kind.READ
                self._walk.mark(mapped, write=kind is Kind.WRITE)
            self._vm.tap(FaultHandled("fixed"))

    # -- the shadow part ----------------------------------------------------------------

    def _fill(self, gva: int, mapped: Mapped, backing: Backing, *, write: bool) -> Outcome:
        current = self._roots.current
        root = current.page(gva) if current else None
        if root is None:
            return Outcome.SPURIOUS  # the root was switched meanwhile: the retry walks nested
        return self._fetch.fill(root, gva, mapped, backing, write=write)

    def reload(self) -> None:
        """Arm the third root for the guest's CR3: a shadow tree, or the guest's own table."""
        table = self._vm.look(self._walk.root_gfn << PAGE_SHIFT) if self._can_shadow() else None
        if table is None:
            self._vmcs.shadow_root = None
        elif self.nested.holds(self._walk.root_gfn):
            self._vmcs.shadow_root = table.host.address | SWITCH
        else:
            self._vmcs.shadow_root = self._shadow_root().hpa

    def _can_shadow(self) -> bool:
        """Whether a shadow tree would obey the very rules that the guest's registers ask for."""
        guest = self._guest
        return guest.long_mode and bool(guest.cr0 & CR0_WP and guest.efer & EFER_NXE)

    def _unmap(self, gpas: range) -> None:
        """The host takes pages back: no entry and no root may hold where they were."""
        self.nested.unmap(gpas.start >> PAGE_SHIFT, gpas.stop - 1 >> PAGE_SHIFT)
        super()._unmap(gpas)

    def _leave_root(self) -> None:
        self._vmcs.shadow_root = None  # all is nested, and EPT's root is the zero page

    def _zap_all(self) -> None:
        """A slot is gone: nothing is known of the guest's memory any more."""
        self.nested.clear()
        super()._zap_all()
