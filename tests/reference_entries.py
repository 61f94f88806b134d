"""What a paging-structure entry means: the reference's rules about one entry at a time.

The first half of the judge in `reference`; like it, written from the manuals' rules and importing
the standard library alone.  Titles in quotes are sections of the Intel SDM, volume 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

P, W, U, ACCESSED, DIRTY, PS = (1 << n for n in (0, 1, 2, 5, 6, 7))
XD = 1 << 63
FRAME = 0x000F_FFFF_FFFF_F000  # bits 51:12

# "Paging Modes": levels, index bits of a level, bytes of an entry, width of a linear address.
MODES = {
    "nopaging": (0, 0, 0, 32),
    "32bit": (2, 10, 4, 32),
    "pae": (3, 9, 8, 32),
    "4level": (4, 9, 8, 48),
    "5level": (5, 9, 8, 57),
}

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
    """One access: `type` is read, write or fetch; an implicit one is supervisor at any CPL."""

    va: int
    type: str
    cpl: int
    implicit: bool = False

    @property
    def user(self) -> bool:
        return self.cpl == 3 and not self.implicit


@dataclass(frozen=True)
class Ept:
    """Intel's second dimension: the EPTP, what IA32_VMX_EPT_VPID_CAP offers, controls."""

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
        reserved_bits = self.eptp & 0xF00 or self.eptp >> self.maxphyaddr
        walk_length = (self.eptp >> 3 & 7) + 1
        if reserved_bits or self.eptp & 7 not in (0, 6) or walk_length != self.levels:
            raise ValueError(f"EPTP {self.eptp:#x} fails VM entry")


@dataclass(frozen=True)
class Rights:
    """What all levels of the guest's tables together say about a page."""

    user: bool
    writable: bool
    executable: bool


def bits(high: int, low: int) -> int:
    """The mask of bits high:low, empty where high < low."""
    return (1 << (high + 1)) - (1 << low) if high >= low else 0


# ----- the guest's formats, and NPT's -------------------------------------------------------


def is_leaf(c: Controls, level: int, value: int) -> bool:
    """Does this sound entry map a page?"""
    if c.mode == "32bit":
        return level == 1 or bool(c.cr4_pse and value & PS)
    return level == 1 or (level in (2, 3) and bool(value & PS))


def leaf_shift(c: Controls, level: int) -> int:
    """The number of offset bits of a page mapped at this level."""
    return 12 + MODES[c.mode][1] * (level - 1)


def leaf_frame(c: Controls, level: int, value: int) -> int:
    """The first address of the page; a 4 MiB page finds bits 39:32 of it in 20:13 ("PSE-36")."""
    if c.mode == "32bit" and level == 2:
        widest = min(40, c.maxphyaddr)
        return value & bits(31, 22) | (value & bits(widest - 20, 13)) << 19
    return value & FRAME & ~((1 << leaf_shift(c, level)) - 1)


def reserved(c: Controls, level: int, value: int) -> int:
    """The bits that must be 0 in this present entry ("Page-Fault Exceptions", reserved bits)."""
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


def reserved_pdpte(c: Controls) -> int:
    """The bits that must be 0 in a present PDPTE of PAE paging ("PDPTE Registers")."""
    return bits(2, 1) | bits(8, 5) | bits(63, c.maxphyaddr)


def combined(entries: Sequence[int]) -> Rights:
    """A right is there only if every level grants it ("Determination of Access Rights")."""
    return Rights(
        user=all(value & U for value in entries),
        writable=all(value & W for value in entries),
        executable=not any(value & XD for value in entries),
    )


def denial(c: Controls, access: Access, page: Rights, leaf: int) -> int:
    """0 if the access is allowed, else P, with PK where the page's key denies it."""
    if access.type == "fetch":
        return 0 if fetch_allowed(c, access, page) else P
    if key_denies(c, access, page, leaf):
        return P | 0x20
    return 0 if data_allowed(c, access, page) else P


def fetch_allowed(c: Controls, access: Access, page: Rights) -> bool:
    if access.user and not page.user:
        return False
    if not access.user and page.user and c.cr4_smep:
        return False
    return page.executable


def data_allowed(c: Controls, access: Access, page: Rights) -> bool:
    if access.user and not page.user:
        return False
    if not access.user and page.user and c.cr4_smap and (access.implicit or not c.rflags_ac):
        return False
    return access.type == "read" or page.writable or not (access.user or c.cr0_wp)


def key_denies(c: Controls, access: Access, page: Rights, leaf: int) -> bool:
    """Does the page's key forbid this data access ("Protection Keys")?"""
    if c.mode not in ("4level", "5level") or not (c.cr4_pke if page.user else c.cr4_pks):
        return False
    rule = (c.pkru if page.user else c.pkrs) >> 2 * (leaf >> 59 & 15)
    access_disabled, write_disabled = rule & 1, rule & 2
    write = access.type == "write" and (access.user or c.cr0_wp)
    return bool(access_disabled or (write_disabled and write))


# ----- EPT ----------------------------------------------------------------------------------


def ept_rights(ept: Ept, value: int) -> int:
    """R, W, X and, with mode-based execute control, user-X of an entry; 0 = not present."""
    return value & 7 | (USER_FETCH if ept.mbec and value & 0x400 else 0)


def ept_misconfigured(ept: Ept, level: int, value: int) -> bool:
    """Is this present EPT entry one that the manual forbids ("EPT Misconfigurations")?"""
    rights = ept_rights(ept, value)
    if not rights & READ and (rights & WRITE or not ept.exec_only):
        return True
    leaf = level == 1 or bool(value & PS)
    large_pages = {1: 1, 2: ept.page_2m, 3: ept.page_1g}
    if leaf and not large_pages.get(level, 0):
        return True
    must_be_zero = bits(51, ept.maxphyaddr)
    must_be_zero |= bits(9 * level + 2, 12) if leaf else bits(6, 3)
    bad_memory_type = leaf and value >> 3 & 7 in (2, 3, 7)
    return bool(value & must_be_zero) or bad_memory_type
