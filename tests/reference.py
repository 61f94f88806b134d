"""The paging rules once more, slow and plain: the judge that the engine is held against.

Written from the manuals' rules alone (Intel SDM, volume 3, "Paging" and "VMX Support for Address
Translation"; AMD APM, volume 2, "Nested Paging").  Nothing of kvmlab is imported, so that
a mistake in the engine cannot repeat itself here.  `reference_entries` says what one entry
means; this module, in which order entries are read, judged and marked.

    translate(controls, memory, access, nested=None, ...) -> Outcome

* `Controls` is what the control registers and CPUID say; `Access` is one access by the CPU.
* `Memory` holds the tables: guest-physical without `nested`, host-physical with it.  It is
  changed by the accessed and dirty bits, as real memory is.
* `nested` is None (one dimension), an `Ept` or an `Npt`.
* `Outcome.result` is "ok", "#PF", "#GP", "ept_violation", "ept_misconfig", "pml_full" or "npf";
  a field that this result does not have is None.  `trace` lists every entry read, in order, and
  `refs` is their number; `updates` every accessed or dirty bit set; `pml` the logged addresses.
* `from_case(case)` makes the four arguments from one vector in the schema of
  tests/data/vectors-mmu.json (or with `npt`, a `ctrl` of the host with its mode, where `ept` would
  be) and refuses fields it does not know.

Two switches choose between behaviours that are all legal:

* `accessed`: when the accessed bits of upper entries of the guest's format are set.
  AT_END: when the whole walk has succeeded and is permitted (KVM; default).
  DESCENDING: as soon as the entry has been read and found sound, whatever comes of the walk.
  QEMU: so too, with two peculiarities of QEMU 5.0, and so of Unicorn: a PDPTE is treated like
  this even where it maps a 1 GiB page, before anything is known of that page; and the leaf
  of a nested walk gets no other accessed bit, and never a dirty one.
* `pdptes_in_memory`: read the PAE PDPTE on each walk as a third level (AMD under nested paging;
  always so with `Npt`), or load four registers at MOV CR3 (Intel; default).

Where the manuals leave room: an EPT walk that succeeds sets its A and D at once, also if the access
faults later; one that does not changes nothing.  Guest A and D bits are set from the top
down, after the guest's permission check and before the EPT walk of the page itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.reference_entries import (
    ACCESSED,
    DIRTY,
    FETCH,
    FRAME,
    MODES,
    PS,
    READ,
    USER_FETCH,
    WRITE,
    Access,
    Controls,
    Ept,
    P,
    Rights,
    combined,
    denial,
    ept_misconfigured,
    ept_rights,
    is_leaf,
    leaf_frame,
    leaf_shift,
    reserved,
    reserved_pdpte,
)
from tests.reference_outcome import Memory, Npt, Outcome, Reference, Update, number

AT_END, DESCENDING, QEMU = "at end", "descending", "qemu"
NAMES = {12: "4K", 21: "2M", 22: "4M", 30: "1G"}


def translate(
    controls: Controls,
    memory: Memory,
    access: Access,
    nested: Ept | Npt | None = None,
    *,
    accessed: str = AT_END,
    pdptes_in_memory: bool = False,
) -> Outcome:
    """Load CR3, then do one access with all TLBs and walk caches empty."""
    in_memory = pdptes_in_memory or isinstance(nested, Npt)
    run = _Run(controls, memory, access, nested, accessed, in_memory)
    try:
        found = run.access_memory()
    except _StopError as stop:
        found = stop.fields
    return Outcome(**found, trace=run.trace, updates=run.updates, pml=run.pml)


class _StopError(Exception):
    """The access ends here: a fault or an exit, as the fields of an Outcome."""

    def __init__(self, result: str, **fields: Any) -> None:
        super().__init__(result)
        self.fields: dict[str, Any] = {"result": result, **fields}


class _UnmappedError(Exception):
    """A tree in the guest's format ends in an absent entry (0) or a reserved bit (P, RSVD = 9)."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class _Used:
    """An entry that a walk used: `reach` is what EPT grants on the page that holds it."""

    level: int
    gpa: int
    hpa: int
    value: int
    reach: int


@dataclass
class _Run:
    """One access on its way."""

    controls: Controls
    memory: Memory
    access: Access
    nested: Ept | Npt | None
    accessed: str
    pdptes_in_memory: bool
    trace: list[Reference] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    pml: list[int] = field(default_factory=list)

    @property
    def va(self) -> int:
        """The linear address: 32 bits wide outside the long modes."""
        narrow = MODES[self.controls.mode][3] == 32
        return self.access.va & 0xFFFF_FFFF if narrow else self.access.va

    # ----- the whole access -----------------------------------------------------------------

    def access_memory(self) -> dict[str, Any]:
        """MOV CR3, the guest's walk and its permissions, A and D bits, then the page itself."""
        c = self.controls
        pdptes = self.load_cr3()
        if c.mode == "nopaging":
            return self.reach_page(self.va, "-", Rights(True, True, True))
        width = MODES[c.mode][3]
        if width > 32 and self.va >> (width - 1) not in (0, (1 << (65 - width)) - 1):
            raise _StopError("#GP", error_code=0)  # "Canonical Addressing"
        try:
            path = self.guest_path(pdptes)
        except _UnmappedError as end:
            raise self.page_fault(end.code) from None
        leaf, rights = path[-1], combined([used.value for used in path])
        code = denial(c, self.access, rights, leaf.value)
        if code:
            raise self.page_fault(code)
        for used in path:
            dirty = used is leaf and self.access.type == "write"
            self.mark("guest", used, ACCESSED | DIRTY if dirty else ACCESSED)
        shift = leaf_shift(c, leaf.level)
        gpa = leaf_frame(c, leaf.level, leaf.value) | self.va & ((1 << shift) - 1)
        return self.reach_page(gpa, NAMES[shift], rights)

    def reach_page(self, gpa: int, page_size: str, rights: Rights) -> dict[str, Any]:
        """The last step: where the page's address lies in the second dimension, if any."""
        found: dict[str, Any] = {"result": "ok", "gpa": gpa, "page_size": page_size}
        if self.nested is None:
            return found
        if isinstance(self.nested, Ept):
            wants = {"read": READ, "write": WRITE, "fetch": FETCH}[self.access.type]
            hpa, shift, _ = self.ept_walk(gpa, wants, page=rights)
        else:
            hpa, shift = self.npt_walk(gpa, self.access.type, final=True)
        return found | {"hpa": hpa, "ept_page": NAMES[shift]}

    def page_fault(self, code: int) -> _StopError:
        """#PF: bits that describe the access are added ("Page-Fault Exceptions")."""
        c = self.controls
        nx_known = c.mode != "32bit" and c.efer_nxe
        code |= 2 * (self.access.type == "write") | 4 * self.access.user
        if self.access.type == "fetch" and (c.cr4_smep or nx_known):
            code |= 0x10
        return _StopError("#PF", error_code=code, cr2=self.va)

    # ----- the guest's tables ---------------------------------------------------------------

    def load_cr3(self) -> list[int]:
        """MOV CR3: reserved bits, and the four PDPTE registers of PAE paging (else none)."""
        c = self.controls
        if c.mode in ("4level", "5level") and c.cr3 >> c.maxphyaddr:
            raise _StopError("#GP", error_code=0, when="mov_cr3")
        if c.mode != "pae" or self.pdptes_in_memory:
            return []
        base = c.cr3 & 0xFFFF_FFE0
        if isinstance(self.nested, Ept):
            base, _, _ = self.ept_walk(base, READ, linear=False)
            self.trace.clear()  # counted is the cost of the walk, not that of MOV CR3
        pdptes = [self.memory.load(base + 8 * n, 8) for n in range(4)]
        if any(value & P and value & reserved_pdpte(c) for value in pdptes):
            raise _StopError("#GP", error_code=0, when="mov_cr3")
        return pdptes

    def guest_path(self, pdptes: list[int]) -> list[_Used]:
        """Walk from CR3, or in PAE paging from a PDPTE, to the leaf."""
        c = self.controls
        if c.mode != "pae":
            mask = 0xFFFF_F000 if c.mode == "32bit" else FRAME
            return self.descend(c, c.cr3 & mask, self.va, "guest", self.reach_table)
        slot = self.va >> 30
        if self.pdptes_in_memory:
            hpa, _ = self.reach_table((c.cr3 & 0xFFFF_FFE0) + 8 * slot)
            pdpte = self.memory.load(hpa, 8)
            self.trace.append(Reference("guest", 3, hpa, pdpte))
        else:
            pdpte = pdptes[slot]
        if not pdpte & P:
            raise _UnmappedError(0)
        if pdpte & reserved_pdpte(c):
            raise _UnmappedError(9)
        return self.descend(c, pdpte & FRAME, self.va, "guest", self.reach_table)

    def descend(
        self,
        c: Controls,
        base: int,
        va: int,
        table: str,
        reach: Callable[[int], tuple[int, int]],
    ) -> list[_Used]:
        """Read entry by entry to the leaf; at each level absent comes first, then reserved."""
        levels, width, size, _ = MODES[c.mode]
        path: list[_Used] = []
        for level in range(2 if c.mode == "pae" else levels, 0, -1):
            gpa = base + (va >> (12 + width * (level - 1)) & ((1 << width) - 1)) * size
            hpa, rights = reach(gpa)
            value = self.memory.load(hpa, size)
            used = _Used(level, gpa, hpa, value, rights)
            self.trace.append(Reference(table, level, hpa, value))
            if not value & P:
                raise _UnmappedError(0)
            if self.accessed == QEMU and level == 3 and not value & reserved(c, 3, value & ~PS):
                self.mark(table, used, ACCESSED)
            if value & reserved(c, level, value):
                raise _UnmappedError(9)
            path.append(used)
            if is_leaf(c, level, value):
                break
            if self.accessed != AT_END:
                self.mark(table, used, ACCESSED)
            base = value & (0xFFFF_F000 if size == 4 else FRAME)
        return path

    def reach_table(self, gpa: int) -> tuple[int, int]:
        """Where a guest entry really lies, and what EPT grants there (all without EPT)."""
        if isinstance(self.nested, Ept):
            ad_enabled = self.nested.eptp & 0x40
            hpa, _, granted = self.ept_walk(gpa, READ | WRITE if ad_enabled else READ)
            return hpa, granted
        if isinstance(self.nested, Npt):
            hpa, _ = self.npt_walk(gpa, "write", final=False)
            return hpa, READ | WRITE
        return gpa, READ | WRITE

    def mark(self, table: str, used: _Used, marks: int) -> None:
        """Set bits in an entry if they are clear; EPT must let its page be written for that."""
        size = MODES[self.controls.mode][2] if table == "guest" else 8
        old = self.memory.load(used.hpa, size)
        if old | marks == old:
            return
        if not used.reach & WRITE:
            raise self.ept_violation(used.gpa, READ | WRITE, used.reach)
        self.memory.store(used.hpa, size, old | marks)
        self.updates.append(Update(table, used.level, used.hpa, old, old | marks))

    # ----- EPT ("The Extended Page-Table Mechanism") ----------------------------------------

    def ept_walk(
        self, gpa: int, wants: int, *, page: Rights | None = None, linear: bool = True
    ) -> tuple[int, int, int]:
        """Translate `gpa`: (hpa, page shift, granted rights).

        `page` is the guest's word on the page accessed, None for a guest table; `linear` is
        False where no linear address is behind the access.
        """
        ept = self.ept
        path, granted = list[_Used](), READ | WRITE | FETCH | USER_FETCH
        if gpa >> (12 + 9 * ept.levels):
            raise self.ept_violation(gpa, wants, 0, page, linear=linear)
        base = ept.eptp & FRAME
        for level in range(ept.levels, 0, -1):
            hpa = base + (gpa >> (9 * level + 3) & 0x1FF) * 8
            value = self.memory.load(hpa, 8)
            self.trace.append(Reference("ept", level, hpa, value))
            if not ept_rights(ept, value):
                raise self.ept_violation(gpa, wants, 0, page, linear=linear)
            if ept_misconfigured(ept, level, value):
                when = None if linear else "mov_cr3"
                raise _StopError("ept_misconfig", exit_reason=49, gpa=gpa, when=when)
            path.append(_Used(level, gpa, hpa, value, READ | WRITE))
            granted &= ept_rights(ept, value)
            base = value & FRAME
            if level == 1 or value & PS:
                break
        user_fetch = ept.mbec and wants == FETCH and page and page.user
        if (USER_FETCH if user_fetch else wants) & ~granted:
            raise self.ept_violation(gpa, wants, granted, page, linear=linear)
        if ept.eptp & 0x40:
            self.mark_ept(path, gpa, write=bool(wants & WRITE))
        shift = 9 * path[-1].level + 3
        offset = (1 << shift) - 1
        return base & ~offset | gpa & offset, shift, granted

    @property
    def ept(self) -> Ept:
        assert isinstance(self.nested, Ept)
        return self.nested

    def mark_ept(self, path: list[_Used], gpa: int, *, write: bool) -> None:
        """Set A (bit 8) everywhere, and D (bit 9) in the leaf of a write with its PML entry."""
        leaf = path[-1]
        if write and not self.memory.load(leaf.hpa, 8) & 0x200:
            if not 0 <= self.ept.pml_index - len(self.pml) <= 511:
                raise _StopError("pml_full", exit_reason=62, gpa=gpa)
            self.pml.append(gpa & ~0xFFF)
        for used in path:
            self.mark("ept", used, 0x300 if write and used is leaf else 0x100)

    def ept_violation(
        self, gpa: int, wants: int, granted: int, page: Rights | None = None, *, linear: bool = True
    ) -> _StopError:
        """Exit 48 ("Exit Qualification for EPT Violations"), arguments as of `ept_walk`."""
        qualification = wants | granted << 3 | linear << 7 | (page is not None) << 8
        if page and (self.ept.adv_info or self.ept.mbec):
            qualification |= page.user << 9 | page.writable << 10 | (not page.executable) << 11
        return _StopError(
            "ept_violation",
            exit_reason=48,
            qualification=qualification,
            gpa=gpa,
            gla=self.va if linear else None,
            when=None if linear else "mov_cr3",
        )

    # ----- AMD ("Nested Paging") ------------------------------------------------------------

    def npt_walk(self, gpa: int, wants: str, *, final: bool) -> tuple[int, int]:
        """Translate `gpa` by the host's format, as a user's access: (hpa, page shift)."""
        assert isinstance(self.nested, Npt)
        host = self.nested.host
        try:
            path = self.descend(host, host.cr3 & FRAME, gpa, "npt", lambda hpa: (hpa, READ | WRITE))
        except _UnmappedError as end:
            raise self.nested_fault(gpa, wants, end.code, final=final) from None
        leaf, rights = path[-1], combined([used.value for used in path])
        code = denial(host, Access(gpa, wants, 3), rights, leaf.value)
        if code:
            raise self.nested_fault(gpa, wants, code, final=final)
        for used in path:
            if used is not leaf:
                self.mark("npt", used, ACCESSED)
            elif self.accessed != QEMU:
                self.mark("npt", used, ACCESSED | DIRTY if wants == "write" else ACCESSED)
        shift = leaf_shift(host, leaf.level)
        return leaf_frame(host, leaf.level, leaf.value) | gpa & ((1 << shift) - 1), shift

    def nested_fault(self, gpa: int, wants: str, code: int, *, final: bool) -> _StopError:
        """#VMEXIT(NPF): EXITINFO1 is a user's error code, and what kind of access it was."""
        assert isinstance(self.nested, Npt)
        code |= 4 | 2 * (wants == "write") | (1 << 32 if final else 1 << 33)
        code |= 0x10 if wants == "fetch" and self.nested.host.efer_nxe else 0
        return _StopError("npf", exit_reason=0x400, error_code=code, gpa=gpa)


# ----- vectors ------------------------------------------------------------------------------

CASE_FIELDS = {"id", "group", "mode", "ctrl", "mem", "mem_space", "access", "ept", "npt"}
CASE_FIELDS |= {"expect", "why", "checked"}


def from_case(case: dict[str, Any]) -> tuple[Controls, Memory, Access, Ept | Npt | None]:
    """The arguments of `translate` for one vector; an unknown field raises."""
    if unknown := set(case) - CASE_FIELDS:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    memory = Memory()
    for word in case["mem"]:
        if set(word) != {"addr", "size", "value"}:
            raise ValueError(f"unknown fields in {word}")
        memory.store(number(word["addr"]), word["size"], number(word["value"]))
    parts = {name: {k: number(v) for k, v in case.get(name, {}).items()} for name in PARTS}
    nested: Ept | Npt | None = None
    if "ept" in case:
        nested = Ept(**parts["ept"])
    elif "npt" in case:
        nested = Npt(Controls(**parts["npt"]))
    return Controls(case["mode"], **parts["ctrl"]), memory, Access(**parts["access"]), nested


PARTS = ("ctrl", "access", "ept", "npt")
