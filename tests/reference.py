"""The paging rules once more, slow and plain: the judge that the engine is held against.

Written from the manuals' rules alone (Intel SDM, volume 3: "Paging", "VMX Support for Address
Translation"; AMD APM, volume 2: "Nested Paging"), with the standard library alone: nothing of
kvmlab is imported, so that a mistake in the engine cannot repeat itself here.

    translate(controls, memory, access, nested=None, ...) -> Outcome

* `Controls` is what the control registers and CPUID say; `Access` is one access by the CPU.
* `Memory` holds the tables: guest-physical without `nested`, host-physical with it.  It is
  changed by the accessed and dirty bits, as real memory is.
* `nested` is None (one dimension), an `Ept` or an `Npt`.
* `Outcome.result` is "ok", "#PF", "#GP", "ept_violation", "ept_misconfig", "pml_full" or "npf";
  a field that this result does not have is None.  `trace` lists every entry that was read, in
  order; `updates` lists every accessed or dirty bit set, in order; `pml` the logged addresses.
* `from_case(case)` makes the four arguments from one vector in the schema of
  tests/data/vectors-mmu.json (`npt` beside `ept`: the host's mode and `ctrl` in one dict) and
  refuses fields it does not know.

Two switches choose between behaviours that are both legal:

* `accessed`: when the accessed bits of upper entries of the guest's format are set.
  AT_END: when the whole walk has succeeded and is permitted (KVM; default).
  DESCENDING: as soon as the entry has been read and found sound, whatever comes of the walk.
  QEMU: so too, and the two peculiarities of QEMU 5.0 and Unicorn: a PDPTE is treated like this
  even where it maps a 1 GiB page, before anything is known of that page; and the leaf of
  a nested walk gets no other accessed bit, and never a dirty one.
* `pdptes_in_memory`: read the PAE PDPTE on each walk as a third level (AMD under nested paging;
  always so with `Npt`), or load four registers at MOV CR3 (Intel; default).

Choices where the manuals leave room: an EPT walk that succeeds sets its A and D at once, also if
the access faults later; one that does not succeed changes nothing; guest A and D bits are
set from the top down after the guest's permission check and before the final EPT walk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

P, W, U, ACCESSED, DIRTY, PS = (1 << n for n in (0, 1, 2, 5, 6, 7))
XD = 1 << 63
FRAME = 0x000F_FFFF_FFFF_F000  # bits 51:12
NAMES = {12: "4K", 21: "2M", 22: "4M", 30: "1G"}

# "Paging-Mode Modifiers": levels, index bits of a level, bytes of an entry, width of an address.
MODES = {"32bit": (2, 10, 4, 32), "pae": (3, 9, 8, 32), "4level": (4, 9, 8, 48)}
MODES |= {"5level": (5, 9, 8, 57), "nopaging": (0, 0, 0, 32)}

AT_END, DESCENDING, QEMU = "at end", "descending", "qemu"

READ, WRITE, FETCH, USER_FETCH = 1, 2, 4, 8  # also bits 3:0 and 6:3 of an exit qualification


@dataclass(frozen=True)
class Controls:
    """What decides how linear addresses are translated: CR0, CR3, CR4, EFER, keys, CPUID."""

    mode: str
    cr3: int
    cr0_wp: int = 0
    cr4_smep: int = 0
    cr4_smap: int = 0
    cr4_pse: int = 0
    cr4_pke: int = 0
    cr4_pks: int = 0
    cr4_la57: int = 0
    pkru: int = 0
    pkrs: int = 0
    efer_nxe: int = 0
    rflags_ac: int = 0
    maxphyaddr: int = 46
    gbpages: int = 1
    vendor: str = "intel"

    def __post_init__(self) -> None:
        if self.cr4_la57 and self.mode != "5level":
            raise ValueError(f"CR4.LA57 is set in mode {self.mode}")


@dataclass(frozen=True)
class Access:
    """One access: `type` is read, write or fetch; implicit ones are supervisor at any CPL."""

    va: int
    type: str
    cpl: int
    implicit: bool = False

    @property
    def user(self) -> bool:
        return self.cpl == 3 and not self.implicit


@dataclass(frozen=True)
class Ept:
    """Intel's second dimension: the EPTP and what IA32_VMX_EPT_VPID_CAP offers."""

    eptp: int
    levels: int
    maxphyaddr: int
    exec_only: int
    page_2m: int
    page_1g: int
    mbec: int
    adv_info: int
    pml_index: int = 511  # the slot that the next logged address takes

    def __post_init__(self) -> None:
        reserved = self.eptp & 0xF00 or self.eptp >> self.maxphyaddr
        if reserved or self.eptp & 7 not in (0, 6) or (self.eptp >> 3 & 7) + 1 != self.levels:
            raise ValueError(f"EPTP {self.eptp:#x} would fail VM entry")


@dataclass(frozen=True)
class Npt:
    """AMD's second dimension: tables in the format of the host's own long-mode paging."""

    host: Controls


@dataclass
class Memory:
    """Physical memory as 32-bit words by address; what was never stored reads as zero."""

    words: dict[int, int] = field(default_factory=dict)

    def load(self, address: int, size: int) -> int:
        low = self.words.get(address, 0)
        return low if size == 4 else low | self.words.get(address + 4, 0) << 32

    def store(self, address: int, size: int, value: int) -> None:
        self.words[address] = value & 0xFFFF_FFFF
        if size == 8:
            self.words[address + 4] = value >> 32


@dataclass(frozen=True)
class Reference:
    """One page-table entry was read: whose ("guest", "ept", "npt"), which level, where."""

    table: str
    level: int
    hpa: int
    value: int


@dataclass(frozen=True)
class Update:
    """Accessed or dirty bits were set in one entry."""

    table: str
    level: int
    leaf: bool
    hpa: int
    old: int
    new: int


@dataclass
class Outcome:
    """Where an access arrived, or what stopped it.  Addresses and codes are integers."""

    result: str
    gpa: int | None = None
    hpa: int | None = None
    page_size: str | None = None  # of the guest's page; "-" with paging off
    ept_page: str | None = None  # of the last page of the second dimension
    error_code: int | None = None  # of #PF and #GP; EXITINFO1 of "npf"
    cr2: int | None = None
    when: str | None = None  # "mov_cr3" where it was not the access that failed
    exit_reason: int | None = None
    qualification: int | None = None
    gla: int | None = None
    trace: list[Reference] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    pml: list[int] = field(default_factory=list)

    @property
    def refs(self) -> int:
        return len(self.trace)


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
        self.fields = {"result": result, **fields}


class _UnmappedError(Exception):
    """A tree in the guest's format ends in an absent (0) or a reserved (P|RSVD = 9) entry."""

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


@dataclass(frozen=True)
class _Rights:
    """What all levels of the guest's tables together say about a page."""

    user: bool
    writable: bool
    executable: bool


class _Run:
    """One access on its way."""

    def __init__(
        self,
        controls: Controls,
        memory: Memory,
        access: Access,
        nested: Ept | Npt | None,
        accessed: str,
        pdptes_in_memory: bool,
    ) -> None:
        self.controls, self.memory, self.access = controls, memory, access
        self.nested, self.accessed, self.pdptes_in_memory = nested, accessed, pdptes_in_memory
        self.trace: list[Reference] = []
        self.updates: list[Update] = []
        self.pml: list[int] = []
        width = MODES[controls.mode][3]
        self.va = access.va if width > 32 else access.va & 0xFFFF_FFFF

    # ----- the whole access -----------------------------------------------------------------

    def access_memory(self) -> dict[str, Any]:
        """MOV CR3, the guest's walk, its A and D bits, then the page itself."""
        pdptes = self.load_cr3()
        if self.controls.mode == "nopaging":
            return self.reach_page(self.va, "-", _Rights(True, True, True))
        width = MODES[self.controls.mode][3]
        if width > 32 and self.va >> (width - 1) not in (0, (1 << (65 - width)) - 1):
            raise _StopError("#GP", error_code=0)  # "Canonical Addressing"
        try:
            path = self.guest_path(pdptes)
        except _UnmappedError as end:
            raise self.page_fault(end.code) from None
        rights = combined(path)
        code = denial(self.controls, self.access, rights, path[-1].value)
        if code:
            raise self.page_fault(code)
        for used in path:
            self.mark_guest(used, leaf=used is path[-1])
        shift = leaf_shift(self.controls, path[-1].level)
        gpa = leaf_frame(self.controls, path[-1]) | self.va & ((1 << shift) - 1)
        return self.reach_page(gpa, NAMES[shift], rights)

    def reach_page(self, gpa: int, page_size: str, rights: _Rights) -> dict[str, Any]:
        found: dict[str, Any] = {"result": "ok", "gpa": gpa, "page_size": page_size}
        if isinstance(self.nested, Ept):
            wants = {"read": READ, "write": WRITE, "fetch": FETCH}[self.access.type]
            hpa, shift, _ = self.ept_walk(gpa, wants, rights=rights)
            found |= {"hpa": hpa, "ept_page": NAMES[shift]}
        elif isinstance(self.nested, Npt):
            hpa, shift = self.npt_walk(gpa, self.access.type, final=True)
            found |= {"hpa": hpa, "ept_page": NAMES[shift]}
        return found

    def page_fault(self, code: int) -> _StopError:
        """#PF with the bits that describe the access added ("Page-Fault Exceptions")."""
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
        if isinstance(self.nested, Ept):  # a plain read without a linear address
            base, _, _ = self.ept_walk(base, READ, linear=False)
            self.trace.clear()  # a walk's cost is counted, not that of MOV CR3
        pdptes = [self.memory.load(base + 8 * n, 8) for n in range(4)]
        if any(value & P and reserved_pdpte(c, value) for value in pdptes):
            raise _StopError("#GP", error_code=0, when="mov_cr3")
        return pdptes

    def guest_path(self, pdptes: list[int]) -> list[_Used]:
        """Walk from CR3 (or a PDPTE register) to the leaf."""
        c = self.controls
        if c.mode != "pae":
            mask = FRAME if MODES[c.mode][2] == 8 else 0xFFFF_F000
            return self.descend(c, c.cr3 & mask, self.va, "guest", self.reach_table)
        slot = self.va >> 30
        if self.pdptes_in_memory:
            gpa = (c.cr3 & 0xFFFF_FFE0) + 8 * slot
            hpa, _ = self.reach_table(gpa)
            pdpte = self.memory.load(hpa, 8)
            self.trace.append(Reference("guest", 3, hpa, pdpte))
        else:
            pdpte = pdptes[slot]
        if not pdpte & P:
            raise _UnmappedError(0)
        if reserved_pdpte(c, pdpte):
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
        """Read entry by entry to the leaf: absent first, then reserved, at each level."""
        levels, width, size, _ = MODES[c.mode]
        path: list[_Used] = []
        for level in range(2 if c.mode == "pae" else levels, 0, -1):
            gpa = base + (va >> (12 + width * (level - 1)) & ((1 << width) - 1)) * size
            hpa, rights = reach(gpa)
            value = self.memory.load(hpa, size)
            self.trace.append(Reference(table, level, hpa, value))
            if not value & P:
                raise _UnmappedError(0)
            used = _Used(level, gpa, hpa, value, rights)
            leaf = is_leaf(c, level, value)
            if self.accessed == QEMU and level == 3 and not value & reserved(c, 3, value & ~PS):
                self.mark(table, used, size, ACCESSED, leaf=leaf)
            if value & reserved(c, level, value):
                raise _UnmappedError(9)
            path.append(used)
            if leaf:
                break
            if self.accessed != AT_END:
                self.mark(table, used, size, ACCESSED, leaf=False)
            base = value & (FRAME if size == 8 else 0xFFFF_F000)
        return path

    def reach_table(self, gpa: int) -> tuple[int, int]:
        """Where a guest entry really lies, and what EPT grants there (all without EPT)."""
        if isinstance(self.nested, Ept):
            ad_enabled = self.nested.eptp & 0x40
            hpa, _, rights = self.ept_walk(gpa, READ | WRITE if ad_enabled else READ)
            return hpa, rights
        if isinstance(self.nested, Npt):  # always a write ("Nested versus Guest Page Faults")
            return self.npt_walk(gpa, "write", final=False)[0], READ | WRITE
        return gpa, READ | WRITE

    # ----- accessed and dirty bits ----------------------------------------------------------

    def mark_guest(self, used: _Used, *, leaf: bool) -> None:
        """Set A, and D in the leaf of a write; EPT must let the page table be written."""
        marks = ACCESSED | DIRTY if leaf and self.access.type == "write" else ACCESSED
        self.mark("guest", used, MODES[self.controls.mode][2], marks, leaf=leaf)

    def mark(self, table: str, used: _Used, size: int, marks: int, *, leaf: bool) -> None:
        old = self.memory.load(used.hpa, size)
        if old | marks == old:
            return
        if not used.reach & WRITE:
            raise self.ept_violation(used.gpa, READ | WRITE, used.reach)
        self.memory.store(used.hpa, size, old | marks)
        self.updates.append(Update(table, used.level, leaf, used.hpa, old, old | marks))

    # ----- EPT ("The Extended Page-Table Mechanism") ----------------------------------------

    def ept_walk(
        self, gpa: int, wants: int, *, rights: _Rights | None = None, linear: bool = True
    ) -> tuple[int, int, int]:
        """Translate `gpa`: (hpa, page shift, rights).  `rights` only for the page itself."""
        assert isinstance(self.nested, Ept)
        ept, path, granted = self.nested, list[_Used](), READ | WRITE | FETCH | USER_FETCH
        if gpa >> (12 + 9 * ept.levels):
            raise self.ept_violation(gpa, wants, 0, rights, linear=linear)
        base = ept.eptp & FRAME
        for level in range(ept.levels, 0, -1):
            hpa = base + (gpa >> (9 * level + 3) & 0x1FF) * 8
            value = self.memory.load(hpa, 8)
            self.trace.append(Reference("ept", level, hpa, value))
            if not ept_rights(ept, value):
                raise self.ept_violation(gpa, wants, 0, rights, linear=linear)
            if ept_misconfigured(ept, level, value):
                when = None if linear else "mov_cr3"
                raise _StopError("ept_misconfig", exit_reason=49, gpa=gpa, when=when)
            granted &= ept_rights(ept, value)
            path.append(_Used(level, gpa, hpa, value, READ | WRITE))
            base = value & FRAME
            if level == 1 or value & PS:
                break
        needs = wants
        if ept.mbec and wants == FETCH and rights and rights.user:
            needs = USER_FETCH
        if needs & ~granted:
            raise self.ept_violation(gpa, wants, granted, rights, linear=linear)
        if ept.eptp & 0x40:
            self.mark_ept(path, gpa, write=bool(wants & WRITE))
        shift = 9 * path[-1].level + 3
        offset = (1 << shift) - 1
        return base & ~offset | gpa & offset, shift, granted

    def mark_ept(self, path: list[_Used], gpa: int, *, write: bool) -> None:
        """Set A (bit 8) everywhere and D (bit 9) in the leaf of a write, with its PML entry."""
        assert isinstance(self.nested, Ept)
        leaf = path[-1]
        if write and not self.memory.load(leaf.hpa, 8) & 0x200:
            if not 0 <= self.nested.pml_index - len(self.pml) <= 511:
                raise _StopError("pml_full", exit_reason=62, gpa=gpa)
            self.pml.append(gpa & ~0xFFF)
        for used in path:
            marks = 0x300 if write and used is leaf else 0x100
            self.mark("ept", used, 8, marks, leaf=used is leaf)

    def ept_violation(
        self,
        gpa: int,
        wants: int,
        granted: int,
        rights: _Rights | None = None,
        *,
        linear: bool = True,
    ) -> _StopError:
        """Exit 48 ("Exit Qualification for EPT Violations"); `rights` None = a guest table."""
        assert isinstance(self.nested, Ept)
        qualification = wants | granted << 3 | linear << 7 | (rights is not None) << 8
        if rights and (self.nested.adv_info or self.nested.mbec):
            xd = not rights.executable
            qualification |= rights.user << 9 | rights.writable << 10 | xd << 11
        fields = {"gla": self.va if linear else None, "when": None if linear else "mov_cr3"}
        return _StopError(
            "ept_violation", exit_reason=48, qualification=qualification, gpa=gpa, **fields
        )

    # ----- AMD nested paging ("Nested Paging") ----------------------------------------------

    def npt_walk(self, gpa: int, wants: str, *, final: bool) -> tuple[int, int]:
        """Translate `gpa` by the host's format, as a user access: (hpa, page shift)."""
        assert isinstance(self.nested, Npt)
        host = self.nested.host
        try:
            path = self.descend(host, host.cr3 & FRAME, gpa, "npt", lambda hpa: (hpa, READ | WRITE))
            code = denial(host, Access(gpa, wants, 3), combined(path), path[-1].value)
        except _UnmappedError as end:
            code = end.code | 4  # absent is 0 in the guest's format: U makes it a fault here
        if code:
            code |= 2 * (wants == "write") | 4 | (1 << 32 if final else 1 << 33)
            code |= 0x10 if wants == "fetch" and host.efer_nxe else 0
            raise _StopError("npf", exit_reason=0x400, error_code=code, gpa=gpa)
        for used in path:
            leaf = used is path[-1]
            marks = ACCESSED | DIRTY if leaf and wants == "write" else ACCESSED
            if not (leaf and self.accessed == QEMU):
                self.mark("npt", used, 8, marks, leaf=leaf)
        shift = leaf_shift(host, path[-1].level)
        offset = (1 << shift) - 1
        return leaf_frame(host, path[-1]) | gpa & offset, shift


# ----- what one entry means -----------------------------------------------------------------


def bits(high: int, low: int) -> int:
    """The mask of bits high:low, empty where high < low."""
    return (1 << (high + 1)) - (1 << low) if high >= low else 0


def is_leaf(c: Controls, level: int, value: int) -> bool:
    """Does this entry map a page?  (PS was checked where it is reserved.)"""
    if c.mode == "32bit":
        return level == 1 or bool(c.cr4_pse and value & PS)
    return level == 1 or (level in (2, 3) and bool(value & PS))


def leaf_shift(c: Controls, level: int) -> int:
    return 12 + MODES[c.mode][1] * (level - 1)


def leaf_frame(c: Controls, leaf: _Used) -> int:
    """The first address of the page; a 4 MiB page finds bits 39:32 in 20:13 ("PSE-36")."""
    if c.mode == "32bit" and leaf.level == 2:
        widest = min(40, c.maxphyaddr)
        return leaf.value & bits(31, 22) | (leaf.value & bits(widest - 20, 13)) << 19
    return leaf.value & FRAME & ~((1 << leaf_shift(c, leaf.level)) - 1)


def reserved(c: Controls, level: int, value: int) -> int:
    """The bits that must be 0 in a present entry of this level ("Reserved bits")."""
    if c.mode == "32bit":
        four_mib = level == 2 and is_leaf(c, level, value)
        return bits(21, min(40, c.maxphyaddr) - 19) if four_mib else 0
    mask = bits(51, c.maxphyaddr)
    if c.mode == "pae":
        mask |= bits(62, 52)
    if not c.efer_nxe:
        mask |= XD
    if level >= 4:
        mask |= PS | (1 << 8 if c.vendor == "amd" else 0)
    if level == 3 and value & PS:
        mask |= bits(29, 13) if c.gbpages else PS
    if level == 2 and value & PS:
        mask |= bits(20, 13)
    return mask


def reserved_pdpte(c: Controls, value: int) -> bool:
    """Must a PAE PDPTE be refused?  Bits 2:1, 8:5 and 63:M are reserved in it."""
    return bool(value & (bits(2, 1) | bits(8, 5) | bits(63, c.maxphyaddr)))


def combined(path: list[_Used]) -> _Rights:
    """A right is there only if every level grants it ("Determination of Access Rights")."""
    return _Rights(
        user=all(used.value & U for used in path),
        writable=all(used.value & W for used in path),
        executable=not any(used.value & XD for used in path),
    )


def denial(c: Controls, access: Access, rights: _Rights, leaf: int) -> int:
    """0 if allowed, else error-code bits: P, and PK if a protection key denies it."""
    write, fetch, user = access.type == "write", access.type == "fetch", access.user
    if fetch:
        allowed = rights.executable and (rights.user if user else not (rights.user and c.cr4_smep))
        return 0 if allowed else P
    allowed = True
    if user and not rights.user:
        allowed = False
    if not user and rights.user and c.cr4_smap and (access.implicit or not c.rflags_ac):
        allowed = False
    if write and not rights.writable and (user or c.cr0_wp):
        allowed = False
    if key_denies(c, write=write, user=user, user_page=rights.user, leaf=leaf):
        return P | 0x20
    return 0 if allowed else P


def key_denies(c: Controls, *, write: bool, user: bool, user_page: bool, leaf: int) -> bool:
    """Does the page's protection key forbid this data access ("Protection Keys")?"""
    if c.mode not in ("4level", "5level") or not (c.cr4_pke if user_page else c.cr4_pks):
        return False
    key = leaf >> 59 & 15
    rule = (c.pkru if user_page else c.pkrs) >> (2 * key)
    access_disable, write_disable = rule & 1, rule & 2
    return bool(access_disable or (write and write_disable and (user or c.cr0_wp)))


def ept_rights(ept: Ept, value: int) -> int:
    """R, W, X and (with mode-based execute control) user-X of an entry; 0 = not present."""
    return value & 7 | (USER_FETCH if ept.mbec and value & 0x400 else 0)


def ept_misconfigured(ept: Ept, level: int, value: int) -> bool:
    """Is a present EPT entry set to something the manual forbids ("EPT Misconfigurations")?"""
    rights = ept_rights(ept, value)
    if not rights & READ and (rights & WRITE or not ept.exec_only):
        return True
    leaf = level == 1 or bool(value & PS)
    if leaf and level > 1 and not {2: ept.page_2m, 3: ept.page_1g}.get(level, 0):
        return True  # bit 7 of a PML4E or PML5E, or of an entry whose large page is unsupported
    reserved_bits = bits(51, ept.maxphyaddr) | bits(9 * level + 2 if leaf else 0, 12)
    if not leaf:
        reserved_bits |= bits(6, 3)
    return bool(value & reserved_bits) or (leaf and value >> 3 & 7 in (2, 3, 7))


# ----- vectors ------------------------------------------------------------------------------

CASE_FIELDS = set("id group mode ctrl mem mem_space access ept npt expect why checked".split())


def number(value: Any) -> Any:
    """A vector's hex string as an integer; everything else as it is."""
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value


def from_case(case: dict[str, Any]) -> tuple[Controls, Memory, Access, Ept | Npt | None]:
    """The arguments of `translate` for one vector; an unknown field raises."""
    if unknown := set(case) - CASE_FIELDS:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    controls = Controls(case["mode"], **{k: number(v) for k, v in case["ctrl"].items()})
    access = Access(**{k: number(v) for k, v in case["access"].items()})
    memory = Memory()
    for word in case["mem"]:
        if set(word) != {"addr", "size", "value"}:
            raise ValueError(f"unknown fields in {word}")
        memory.store(number(word["addr"]), word["size"], number(word["value"]))
    nested: Ept | Npt | None = None
    if "ept" in case:
        nested = Ept(**{k: number(v) for k, v in case["ept"].items()})
    elif "npt" in case:
        nested = Npt(Controls(**{k: number(v) for k, v in case["npt"].items()}))
    return controls, memory, access, nested
