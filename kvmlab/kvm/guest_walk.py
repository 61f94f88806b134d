"""The guest's page tables as the hypervisor reads them: in software, at HVAs, from the registers.

Linux, arch/x86/kvm/mmu/paging_tmpl.h: FNAME(walk_addr) and its helpers.
"""

from typing import NamedTuple

from kvmlab.base.tap import silent
from kvmlab.hardware.context import CR3_PAE, Context, context, context_key
from kvmlab.hardware.formats import ALL_RIGHTS, Tables
from kvmlab.hardware.instructions import (
    CR0_RELOADS,
    CR4_RELOADS,
    pdpte_refusal,
    track_long_mode,
)
from kvmlab.hardware.processor import Controls, Processor
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.hardware.records import WRITE, AccessedDirty, Fault, Mapped, Verdict
from kvmlab.hardware.walker import Walked, entry_rights, judge, mark, walk
from kvmlab.kvm.shadow_role import Role
from kvmlab.kvm.vm import Vm

_NO_PAGING_SHIFT = 21  # nonpaging_init_context(): pages of up to 2 MiB


class Pte(NamedTuple):
    """What a usable last-level entry of the guest says."""

    gfn: int
    access: int  # its own rights; without WRITE while it is clean


class GuestWalk:
    """Reads the tables that ``guest``'s registers point to, and sets their A and D bits."""

    def __init__(self, vm: Vm, guest: Controls, processor: Processor) -> None:
        self._vm, self._guest, self._processor = vm, guest, processor
        self._known: Context | None = None

    @property
    def tables(self) -> Tables:
        """The format in force."""
        tables = self._context().tables
        assert tables is not None  # noqa: S101  asked for only while the guest has tables
        return tables

    @property
    def role(self) -> Role:
        """The role of roots that the registers call for."""
        return Role.of_root(self._guest)

    @property
    def root_gfn(self) -> int:
        """The frame that CR3 names."""
        return self._context().root >> PAGE_SHIFT

    def take(self, register: str, value: int) -> str:
        """Set a control register (kvm_set_cr0, _cr3, _cr4); why not, and nothing has changed.

        PAE paging loads the PDPTE registers on each load of CR3, and as control bits change.
        """
        guest, name = self._guest, register.lower()
        old = getattr(guest, name)
        setattr(guest, name, value)
        track_long_mode(guest)
        bits = {"CR0": CR0_RELOADS, "CR4": CR4_RELOADS}.get(register, 0)
        reloads = register == "CR3" or (old ^ value) & bits
        why = self.load_pdptes() if reloads and guest.mode == "PAE" else ""
        if why:
            setattr(guest, name, old)
            track_long_mode(guest)
        return why

    def load_pdptes(self) -> str:
        """Load the guest's PDPTE registers from its memory (load_pdptrs); why not, if so."""
        backing = self._vm.back(self._guest.cr3 & CR3_PAE)
        if backing is None:
            return f"CR3 {self._guest.cr3:#x}: the PDPTEs are in no memslot"
        load, hpa = self._vm.ram.load, backing.host.address
        loaded = load(hpa), load(hpa + 8), load(hpa + 16), load(hpa + 24)
        why = pdpte_refusal(loaded, self._processor)
        if not why:
            self._guest.pdptes = loaded
        return why

    def walk(self, gva: int) -> Mapped | Fault:
        """Where ``gva`` leads; a table outside every slot is absent to the guest.

        Without paging it is guest-physical, in pages of 2 MiB and with all rights.
        """
        if not self._guest.paging:
            return Mapped("guest", gva, _NO_PAGING_SHIFT, ALL_RIGHTS, 0, [])
        first = self._context().first_table(gva)
        if first is None:
            return Fault("guest", 3, "absent", gva, 0, 0)
        return walk(self.tables, first, gva, self._vm.ram, silent, self._locate)

    def mark(self, mapped: Mapped, *, write: bool) -> None:
        """Set A, and D for a write, in the guest's entries, as the processor would have."""
        if not mapped.path:
            return
        writable = [one for one in mapped.path if one.reach & WRITE]  # no READONLY slot
        write = write and mapped.path[-1] in writable
        home = {one.hpa: one.address for one in writable}

        def tell(one: AccessedDirty) -> None:
            self._vm.tap(one)
            self._vm.mark_dirty(home[one.hpa])

        mark(self.tables, writable, self._vm.ram, tell, write=write)

    def rights(self, entry: int) -> int:
        """What one entry allows."""
        return entry_rights(self.tables, entry)

    def entry(self, gpa: int, size: int) -> int:
        """The entry of ``size`` bytes at ``gpa``, without effect; 0 if nothing is there."""
        backing = self._vm.look(gpa)
        if backing is None:
            return 0
        load = self._vm.ram.load if size == 8 else self._vm.ram.load4
        return load(backing.host.address)

    def usable(self, entry: int) -> Pte | None:
        """A last-level entry that may be shadowed without a fault: present, valid, accessed.

        FNAME(prefetch_invalid_gpte) and FNAME(protect_clean_gpte).
        """
        tables = self.tables
        row = tables.rows[-1]
        if judge(tables, row, entry) is not Verdict.LEAF or not entry & tables.format.accessed:
            return None
        return Pte((entry & row.page_address) >> PAGE_SHIFT, self.leaf_access(entry))

    def leaf_access(self, entry: int, rights: int = ALL_RIGHTS) -> int:
        """``rights`` as far as the leaf ``entry`` gives them: a clean page is not writable yet."""
        clean = not entry & self.tables.format.dirty
        return rights & self.rights(entry) & ~(WRITE if clean else 0)

    def _locate(self, gpa: int) -> Walked:
        """Where an entry of a guest table is: a software walk makes no hardware references."""
        backing = self._vm.back(gpa)
        if backing is None:
            return Fault("guest", 0, "absent", gpa, 0, 0)
        return Mapped("host", backing.host.address, PAGE_SHIFT, backing.slot.rights, 0, [])

    def _context(self) -> Context:
        """How the guest's own registers say that its tables are to be walked."""
        if self._known is None or self._known.key != context_key(self._guest, None):
            self._known = context(self._guest, None, self._processor)
        return self._known
