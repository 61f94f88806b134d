"""The shadow MMU: GVA -> HPA in tables that KVM builds from the guest's and keeps true by traps.

A guest table is write-protected when it is first shadowed, not when the guest allocates it.
What happens to writes then, and what a fault fills, is `policy`.  Linux, arch/x86/kvm/mmu/
paging_tmpl.h: FNAME(page_fault); mmu.c: kvm_mmu_new_pgd(), kvm_mmu_invalidate_gva().
"""

from dataclasses import replace

from kvmlab.hardware import permissions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.instructions import invvpid
from kvmlab.hardware.processor import CR0_PG, CR4_PCIDE, Controls
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import (
    WRITE,
    ExitReason,
    Fault,
    GeneralProtection,
    Kind,
    Mapped,
    PageFault,
    VmExit,
)
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.host.kernel import ZERO_PAGE
from kvmlab.kvm.flushes import Flushes
from kvmlab.kvm.guest_walk import GuestWalk
from kvmlab.kvm.mmio import emulate_mmio
from kvmlab.kvm.policy import NAIVE, Policy
from kvmlab.kvm.records import FaultHandled, Reflected
from kvmlab.kvm.shadow_budget import make_room
from kvmlab.kvm.shadow_dirty import ShadowDirty
from kvmlab.kvm.shadow_fetch import Fetch
from kvmlab.kvm.shadow_mmio import ShadowMmio
from kvmlab.kvm.shadow_modes import RootMaker, arm_registers
from kvmlab.kvm.shadow_pages import ENTRIES, ShadowPage, ShadowPages, Slot, shift_of
from kvmlab.kvm.shadow_parts import Parts
from kvmlab.kvm.shadow_roots import Root, Roots
from kvmlab.kvm.shadow_sptes import Outcome, Sptes
from kvmlab.kvm.shadow_sync import Sync
from kvmlab.kvm.shadow_writes import Writes
from kvmlab.kvm.vm import Backing, Vm

_ONE_ADDRESS = 0  # a type of INVVPID
_INVPCID_ADDRESS = 0  # a type of INVPCID
_NO_FLUSH = 1 << 63


class ShadowMmu:
    """Shadow paging for one virtual CPU: one shadow tree for each root of the guest.

    The shadow ``pages`` are the VM's; its first virtual CPU makes them.
    """

    name = "shadow"

    def __init__(
        self,
        vm: Vm,
        vmcs: Vmcs,
        cpu: Cpu,
        guest: Controls,
        policy: Policy = NAIVE,
        pages: ShadowPages | None = None,
    ) -> None:
        self.vm = self._vm = vm
        self._vmcs, self._cpu = vmcs, cpu
        self._guest = guest  # the registers as the guest set them; the hardware has others
        self._policy = policy
        self.flushes = Flushes(cpu, vmcs, vm.tap)
        self._walk = GuestWalk(vm, guest, cpu.processor)
        self._roots = Roots(policy.previous_roots)
        self.pages = ShadowPages(vm, policy, vm.flushes) if pages is None else pages
        self.pages.roots.append(self._roots)
        sptes = Sptes(self.pages, policy, vm.flushes)
        self._parts = parts = Parts(vm, policy, vm.flushes, self._walk, self.pages, sptes)
        self._sync = Sync(parts)
        self._maker = RootMaker(guest, parts, self._sync)
        self._fetch = Fetch(parts, self._sync)
        self._writes = Writes(parts, self._fetch)
        self._mmio = ShadowMmio(vm, self.pages, policy, cpu.processor)
        vm.on_end.append(self._end)
        if pages is None:
            vm.on_slot_gone.append(self._zap_all)
            vm.on_unmap.append(self._unmap)
            dirty = ShadowDirty(vm, self.pages)
            vm.logs.listeners.append(dirty)
            vm.on_age.append(dirty.age)

    def sibling(self, vmcs: Vmcs, cpu: Cpu, guest: Controls) -> "ShadowMmu":
        """The MMU of another virtual CPU: its own registers and roots, the same shadow pages."""
        return ShadowMmu(self.vm, vmcs, cpu, guest, self._policy, self.pages)

    @property
    def policy(self) -> str:
        """What a learner should know about how it works."""
        return self._policy.summary

    @property
    def table_frames(self) -> int:
        """How many frames the shadow tables take now."""
        return len(self.pages) + len(self.pages.pointer_tables)

    def arm(self) -> None:
        """Page faults, CR3 loads and INVLPG exit; the hardware walks the shadow root."""
        self._vmcs.guest, self._vmcs.read_shadow = replace(self._guest), self._guest
        self._vmcs.shadowed = True
        self._vmcs.cr3_load_exiting = self._vmcs.invlpg_exiting = True
        self._vmcs.cr0_host_owned = self._vmcs.cr4_host_owned = -1
        self._vmcs.efer_exiting = True
        if self._guest.mode == "PAE":
            self._walk.load_pdptes()
        self._load_root()

    def reload(self) -> None:
        """The shadow page of the root may have been thrown away, by any virtual CPU."""
        self._load_root()

    def control_written(self, register: str, value: int) -> None:
        """A MOV to a control register: another root, or another role of the same one.

        #GP, and nothing has changed, if the guest's PDPTEs are to be loaded and are bad.
        """
        before = replace(self._guest)
        pcids = bool(before.cr4 & CR4_PCIDE)
        keep = register == "CR3" and pcids and bool(value & _NO_FLUSH)
        if why := self._walk.take(register, value & ~_NO_FLUSH if keep else value):
            self._vmcs.injected = GeneralProtection(0, why)
            return
        if register in ("CR4", "EFER") or (before.cr0 ^ self._guest.cr0) & CR0_PG:
            self._roots.clear()  # a change of CR0.WP alone is one of the role alone
        root = self._load_root()
        if not keep:
            if register == "CR3" and pcids:
                self._roots.flush_pcid(value)
            self._sync_root(root)
            self.flushes.request(f"MOV {register}")

    def handle(self, reason: VmExit) -> None:
        """Serve INVLPG, INVPCID, or a page fault: reflect it, emulate a table write, or fill."""
        self._guest.ac = self._vmcs.guest.ac  # RFLAGS are the guest's own
        if reason.reason is ExitReason.INVLPG:
            self._invlpg(reason.gva)
        elif reason.reason is ExitReason.INVPCID:
            self._invpcid(reason)
        else:
            self._page_fault(reason.gva, reason.qualification)

    # -- page faults --------------------------------------------------------------------

    def _page_fault(self, gva: int, code: int) -> None:
        kind = Kind.WRITE if code & permissions.PF_WRITE else Kind.READ
        kind = Kind.FETCH if code & permissions.PF_FETCH else kind
        user = bool(code & permissions.PF_USER)
        if code & permissions.PF_RESERVED:
            page = self._roots.current.page(gva) if self._roots.current else None
            gpa = self._mmio.known(page, gva, self._guest, kind, user=user)
            if gpa is not None:
                emulate_mmio(self._vm, self._vmcs, gpa, kind)
                return
        mapped = self._walk.walk(gva)
        if isinstance(mapped, Fault):
            reserved = mapped.why == "reserved"
            self._reflect(gva, kind, user=user, present=reserved, reserved=reserved)
            return
        paging = self._guest.paging
        if paging and not permissions.allowed(self._guest, mapped.rights, kind, user=user):
            self._reflect(gva, kind, user=user, present=True)
            return
        self._walk.mark(mapped, write=kind is Kind.WRITE)
        self._vm.tap(FaultHandled(self._serve(gva, code, kind, mapped).value))

    def _serve(self, gva: int, code: int, kind: Kind, mapped: Mapped) -> Outcome:
        """A fault that the guest's tables do not explain: emulate, or fill."""
        write, gfn = kind is Kind.WRITE, mapped.address >> PAGE_SHIFT
        backing = self._vm.back(mapped.address, write=write)
        if backing is None and self._mmio.caching:
            slot, access = self._fetch.path(self._root_page(gva), gva, mapped, write=write)
            self._mmio.remember(slot, mapped.address, access)
        if backing is None or (write and not backing.slot.rights & WRITE):
            emulate_mmio(self._vm, self._vmcs, mapped.address, kind)
            return Outcome.EMULATE
        if write and code & permissions.PF_PRESENT and self.pages.tracked(gfn):
            self._clear_flood(gva)  # page_fault_handle_page_track()
            outcome = Outcome.EMULATE
        else:
            outcome = self._fill(gva, mapped, backing, write=write)
        if outcome is Outcome.EMULATE and not write:
            return Outcome.FIXED  # only a write needs the entry that a table cannot have
        if outcome is Outcome.EMULATE:
            instruction = self._vmcs.instruction
            data = instruction.data if instruction else b""
            self._writes.emulate(mapped.address, backing.host.address, data)
            self._vmcs.advance = True
        return outcome

    def _fill(self, gva: int, mapped: Mapped, backing: Backing, *, write: bool) -> Outcome:
        if self._policy.recycle:
            with self._vm.flushes.together():
                make_room(self.pages, self._vm.shadow_page_budget)
        return self._fetch.fill(self._root_page(gva), gva, mapped, backing, write=write)

    def _root_page(self, gva: int) -> ShadowPage:
        """Where the shadow path to ``gva``, which the guest's tables map, begins."""
        page = self._load_root().page(gva)
        assert page is not None  # noqa: S101  the guest's tables lead somewhere
        return page

    def _reflect(
        self, gva: int, kind: Kind, *, user: bool, present: bool, reserved: bool = False
    ) -> None:
        """Hand the guest a fault that its own tables call for, with the code they call for."""
        code = permissions.error_code(
            self._guest, kind, user=user, present=present, reserved=reserved
        )
        self._vm.tap(Reflected(gva, code))
        self._vmcs.injected = PageFault(gva, code, kind, user)

    def _clear_flood(self, gva: int) -> None:
        """A walk came through: those tables are in use as tables."""
        page = self._roots.current.page(gva) if self._roots.current else None
        while page is not None:
            page.writes = 0
            index = gva >> shift_of(page.role.level) & ENTRIES - 1
            page = self.pages.child(Slot(page, index)) if page.role.level > 1 else None

    def _unmap(self, gpas: range) -> None:
        """The host takes pages back: their leaves go (kvm_unmap_gfn_range)."""
        if self.pages.unmap(gpas.start >> PAGE_SHIFT, gpas.stop - 1 >> PAGE_SHIFT):
            self._vm.flushes.request("unmap")

    def _zap_all(self) -> None:
        """A slot is gone: begin anew with an empty tree."""
        with self._vm.flushes.together():
            for page in self.pages.oldest_first():
                if self.pages.find(page.gfn, page.role) is page:
                    self.pages.zap(page, "slot")

    def _end(self) -> None:
        """The VMM is gone: no CPU may walk a root any more, and each is freed.

        Who still walks finds the zero page (kvm_mmu_get_dummy_root()).
        """
        self._zap_all()
        self._maker.end()
        self._leave_root()
        self._cpu.refresh()
        self.flushes.serve()

    def _leave_root(self) -> None:
        hardware = self._vmcs.guest
        hardware.cr3, hardware.pdptes = ZERO_PAGE, (0, 0, 0, 0) if hardware.pdptes else None

    # -- roots and invalidation ---------------------------------------------------------

    def _shadow_root(self) -> Root:
        """The shadow root of the guest's registers: one at hand, or one looked up or made."""
        key = self._maker.key()
        root = self._roots.switch(key)
        if root is None:
            root = self._maker.make(key)
            self._roots.load(root)
            self._sync_root(root)
        return root

    def _load_root(self) -> Root:
        """Arm the shadow root of the guest's registers."""
        root = self._shadow_root()
        arm_registers(self._vmcs.guest, self._guest, root)
        self._arm_page_faults()
        return root

    def _sync_root(self, root: Root) -> None:
        for page in root.pages:
            if page:
                self._sync.children(page)

    def _arm_page_faults(self) -> None:
        """All page faults exit; by policy only those on present entries, as those to fill are.

        Fetches exit too where the guest's error codes would not tell them from reads: the
        hardware's do, since it has NX on.
        """
        vmcs, tells = self._vmcs, permissions.tells_fetches(self._guest)
        vmcs.page_fault_exiting = not self._policy.bypass
        if self._policy.bypass:
            vmcs.page_fault_mask = permissions.PF_PRESENT | (0 if tells else permissions.PF_FETCH)

    def _invlpg(self, gva: int) -> None:
        """Bring the entry in step under every root at hand, and flush the address."""
        for page in self._roots.at(gva):
            self._sync.invlpg(page, gva)
        invvpid(self._cpu, _ONE_ADDRESS, self._vmcs.vpid, gva)
        self._vmcs.advance = True

    def _invpcid(self, reason: VmExit) -> None:
        """One address as INVLPG does; anything wider as a load of CR3 would."""
        if reason.qualification == _INVPCID_ADDRESS:
            self._invlpg(reason.gva)
            return
        for page in self._roots.pages():
            self._sync.children(page)
        self.flushes.request("INVPCID")
        self._vmcs.advance = True
