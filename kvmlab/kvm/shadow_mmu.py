"""The shadow MMU: GVA -> HPA in tables that KVM builds from the guest's and keeps true by traps.

The policy of this MMU is KVM's first one: every guest table that is shadowed is write-protected,
every store to it exits and is emulated, and drops the shadow entry it changed; the next touch
fills it again.  One demand fault of the guest so costs three exits: the #PF is reflected, the
store of the PTE traps, the retried access fills (Linux commit 0028425f647b, 2007, tells of it).
A guest table is protected when it is first shadowed, not when the guest allocates it.
"""

from dataclasses import replace

from kvmlab.hardware import permissions
from kvmlab.hardware.context import Context, context, context_key
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import ALL_RIGHTS, Tables
from kvmlab.hardware.instructions import invvpid
from kvmlab.hardware.processor import CR0_WP, CR4_PAE, EFER_NXE, Controls
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import (
    EXECUTE,
    USER,
    WRITE,
    ExitReason,
    Fault,
    Kind,
    Mapped,
    PageFault,
    VmExit,
)
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.hardware.walker import Walk, entry_rights, mark, walk
from kvmlab.kvm.records import MmioExit, Reflected, WriteTrapped
from kvmlab.kvm.shadow_pages import (
    PS,
    WRITABLE,
    Role,
    ShadowPage,
    ShadowPages,
    Slot,
    covered,
    shift_of,
)
from kvmlab.kvm.vm import Backing, Vm

FLOOD = 3  # trapped writes without a walk in between, after which a shadow page is thrown away
_TABLE = 0x67  # upper entries allow everything: P, W, U, A, D; rights live in the leaves
_ACCESSED_DIRTY = 0x61
_ONE_CONTEXT, _ONE_ADDRESS = 1, 0  # types of INVVPID
_ALIGNED_SIZES = (4, 8)
_LARGEST_LEAF = 3


class ShadowMmu:
    """Shadow paging for one virtual CPU: one shadow tree for each root of the guest."""

    name = "shadow"
    policy = "every write to a guest table traps (KVM 2007)"

    def __init__(self, vm: Vm, vmcs: Vmcs, cpu: Cpu, guest: Controls) -> None:
        self._vm, self._vmcs, self._cpu = vm, vmcs, cpu
        self._guest = guest  # the registers as the guest set them; the hardware has others
        self._pages = ShadowPages(vm)
        self._root: ShadowPage | None = None
        self._known: Context | None = None

    @property
    def table_frames(self) -> int:
        """How many frames the shadow pages take now."""
        return len(self._pages)

    def arm(self) -> None:
        """Page faults, CR3 loads and INVLPG exit; the hardware walks the shadow root."""
        self._vmcs.guest = replace(self._guest)
        self._vmcs.page_fault_exiting = True
        self._vmcs.cr3_load_exiting = self._vmcs.invlpg_exiting = True
        self._vmcs.cr0_host_owned = self._vmcs.cr4_host_owned = -1
        self._vmcs.efer_exiting = True
        self._load()

    def control_written(self, register: str, value: int) -> None:
        """A MOV to a control register: another root, or another role of the same one."""
        setattr(self._guest, register.lower(), value)
        self._load()
        self._flush()

    def handle(self, reason: VmExit) -> None:
        """Serve INVLPG, or a page fault: reflect it, emulate a table write, or fill."""
        if reason.reason is ExitReason.INVLPG:  # shadow tables are always in step: only the TLB
            invvpid(self._cpu, _ONE_ADDRESS, self._vmcs.vpid, reason.gva)
            self._vmcs.advance = True
            return
        code = reason.qualification
        kind = Kind.WRITE if code & permissions.PF_WRITE else Kind.READ
        kind = Kind.FETCH if code & permissions.PF_FETCH else kind
        self._page_fault(reason.gva, kind, user=bool(code & permissions.PF_USER))
        if self._root is None:  # its shadow page was thrown away
            self._load()

    # -- page faults --------------------------------------------------------------------

    def _page_fault(self, gva: int, kind: Kind, *, user: bool) -> None:
        mapped = self._walk_guest(gva)
        if isinstance(mapped, Fault):
            reserved = mapped.why == "reserved"
            self._reflect(gva, kind, user=user, present=reserved, reserved=reserved)
            return
        if not permissions.allowed(self._guest, mapped.rights, kind, user=user):
            self._reflect(gva, kind, user=user, present=True)
            return
        self._mark_guest(mapped, write=kind is Kind.WRITE)
        backing = self._vm.back(mapped.address)
        if backing is None:
            self._emulate_mmio(mapped.address, kind)
        elif kind is Kind.WRITE and self._pages.tracked(mapped.address >> PAGE_SHIFT):
            self._emulate_store(mapped.address, backing)
        else:
            self._fill(gva, mapped, backing)

    def _reflect(
        self, gva: int, kind: Kind, *, user: bool, present: bool, reserved: bool = False
    ) -> None:
        """Hand the guest a fault that its own tables call for, with the code they call for."""
        code = permissions.error_code(
            self._guest, kind, user=user, present=present, reserved=reserved
        )
        self._vm.tap(Reflected(gva, code))
        self._vmcs.injected = PageFault(gva, code, kind, user)

    def _walk_guest(self, gva: int) -> Mapped | Fault:
        """Walk the guest's tables in software; a table outside every slot is absent to it."""
        guest = self._guest_tables()
        steps = walk(guest, self._guest_root(), gva, self._vm.ram, self._locate)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def _locate(self, gpa: int) -> Walk:
        """Where an entry of a guest table is: a software walk makes no hardware references."""
        backing = self._vm.back(gpa)
        if backing is None:
            return Fault("guest", 0, "absent", gpa, 0, 0)
        return Mapped("host", backing.host.address, PAGE_SHIFT, ALL_RIGHTS, 0, [])
        yield  # a walk is a generator

    def _mark_guest(self, mapped: Mapped, *, write: bool) -> None:
        """Set A, and D for a write, in the guest's entries, as the processor would have."""
        for one in mark(self._guest_tables(), mapped.path, self._vm.ram, write=write):
            self._vm.tap(one)

    # -- filling ------------------------------------------------------------------------

    def _fill(self, gva: int, mapped: Mapped, backing: Backing) -> None:
        """Build the shadow path to ``gva`` and set its leaf."""
        assert self._root is not None  # noqa: S101  armed
        guest_leaf = mapped.path[-1].level
        leaf = self._leaf_level(mapped, backing)
        page = self._root
        page.writes = 0
        access = ALL_RIGHTS
        tables = self._guest_tables()
        for number, level in enumerate(range(page.role.level, leaf, -1)):
            slot = Slot(page, gva >> shift_of(level) & 511)
            if level > guest_leaf:
                access &= entry_rights(tables, mapped.path[number].entry)
                gfn = mapped.path[number + 1].address >> PAGE_SHIFT
                role = Role(level - 1, access, direct=False)
            else:  # the guest's page is larger than ours can be: split it
                size = covered(level)
                gfn = (mapped.address >> PAGE_SHIFT) & ~(size - 1)
                role = Role(level - 1, mapped.rights, direct=True)
            page = self._child(slot, gfn, role)
            page.writes = 0
        self._set_leaf(Slot(page, gva >> shift_of(leaf) & 511), mapped, backing, leaf)

    def _child(self, slot: Slot, gfn: int, role: Role) -> ShadowPage:
        child = self._pages.child(slot)
        if child is None or (child.gfn, child.role) != (gfn, role):
            child = self._pages.get(gfn, role)
            self._pages.link(slot, child, _TABLE)
            self._flush()  # write protection may have narrowed what the TLB holds
        return child

    def _leaf_level(self, mapped: Mapped, backing: Backing) -> int:
        """The largest leaf that guest page, host page, slot and shadowed tables allow."""
        gpa, level = mapped.address, 1
        while level < min(mapped.path[-1].level, _LARGEST_LEAF):
            size = covered(level + 1)
            first = (gpa >> PAGE_SHIFT) & ~(size - 1)
            if (
                backing.host.shift < shift_of(level + 1)
                or not backing.slot.allows_large(gpa, shift_of(level + 1))
                or self._pages.tracks_any(first, size)
            ):
                break
            level += 1
        return level

    def _set_leaf(self, slot: Slot, mapped: Mapped, backing: Backing, level: int) -> None:
        """A leaf allows what the guest allows, less writes to a clean page or a shadowed table."""
        gfn = (mapped.address >> PAGE_SHIFT) & ~(covered(level) - 1)
        clean = not mapped.path[-1].entry & 1 << 6
        spte = backing.host.address & ~((1 << shift_of(level)) - 1) | _ACCESSED_DIRTY
        spte |= 0 if clean or self._pages.tracks_any(gfn, covered(level)) else mapped.rights & WRITE
        spte |= 1 << 2 if mapped.rights & USER else 0
        spte |= 0 if mapped.rights & EXECUTE else 1 << 63
        spte |= PS if level > 1 else 0
        narrowed = self._pages.read(slot) & WRITABLE and not spte & WRITABLE
        self._pages.set_leaf(slot, gfn, spte)
        if narrowed:
            self._flush()

    # -- writes to shadowed tables ------------------------------------------------------

    def _emulate_store(self, gpa: int, backing: Backing) -> None:
        """Do the guest's store for it, then bring the shadow pages of that table in step."""
        instruction = self._vmcs.instruction
        data = instruction.data if instruction else b""
        self._vm.tap(WriteTrapped(gpa, data))
        self._vm.ram.write(backing.host.address, data)
        self._vmcs.advance = True
        dropped = False
        for page in list(self._pages.tracked(gpa >> PAGE_SHIFT)):
            page.writes += 1
            if not _writes_one_entry(gpa, len(data)):
                dropped |= self._throw_away(page, "misaligned")
            elif page.writes >= FLOOD:
                dropped |= self._throw_away(page, "flooded")
            else:
                dropped |= self._pages.drop(Slot(page, gpa >> 3 & 511))
        if dropped:
            self._flush()

    def _throw_away(self, page: ShadowPage, why: str) -> bool:
        if page is self._root:
            self._root = None
        self._pages.zap(page, why)
        return True

    def _emulate_mmio(self, gpa: int, kind: Kind) -> None:
        """Nobody lives in the hole: reads give all ones, writes are lost, as on a PC."""
        instruction = self._vmcs.instruction
        data = instruction.data if instruction else b""
        self._vm.tap(MmioExit(gpa, kind is Kind.WRITE, data))
        self._vmcs.loaded = b"\xff" * (instruction.size if instruction else 1)
        self._vmcs.advance = True

    # -- roots and flushes --------------------------------------------------------------

    def _load(self) -> None:
        """Arm the shadow root of the guest's CR3: an old one if it is still there."""
        levels = self._guest_tables().format.levels
        gfn = self._guest_root() >> PAGE_SHIFT
        self._root = self._pages.get(gfn, Role(levels, ALL_RIGHTS, direct=False))
        self._root.writes = 0
        hardware = self._vmcs.guest
        hardware.cr0 = self._guest.cr0 | CR0_WP
        hardware.cr4 = self._guest.cr4 | CR4_PAE
        hardware.efer = self._guest.efer | EFER_NXE
        hardware.cr3 = self._root.hpa

    def _flush(self) -> None:
        invvpid(self._cpu, _ONE_CONTEXT, self._vmcs.vpid)

    def _guest_tables(self) -> Tables:
        tables = self._context().tables
        assert tables is not None  # noqa: S101  the guest runs in long mode from its first step
        return tables

    def _guest_root(self) -> int:
        return self._context().root

    def _context(self) -> Context:
        """How the guest's own registers say that its tables are to be walked."""
        if self._known is None or self._known.key != context_key(self._guest, None):
            cpu = self._cpu.processor
            self._known = context(self._guest, None, cpu, pointers_in_registers=False)
        return self._known


def _writes_one_entry(gpa: int, size: int) -> bool:
    """Whether a store changes just one entry; a single byte may, at the entry's start."""
    if size == 1:
        return gpa & 7 == 0
    return size in _ALIGNED_SIZES and (gpa & 7) + size <= 8
