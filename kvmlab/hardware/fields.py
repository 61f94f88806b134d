"""What every bit of an entry means: the one table that masks, pictures and tests read.

A bit that no field names is reserved: it must be 0 in an entry that is present.  So the
masks of the walker are not written down anywhere; `formats` derives them from these rows.
Sources: SDM, "Paging" (formats of each mode) and "Extended-Page-Table Mechanism"; APM
volume 2, "Page-Translation-Table Entry Fields", for the vendor differences.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kvmlab.hardware.processor import Processor

LEVEL_NAMES = ("", "PTE", "PDE", "PDPTE", "PML4E", "PML5E")


@dataclass(frozen=True, slots=True)
class Field:
    """Bits ``high`` to ``low`` of an entry: their name, and what they mean when set."""

    name: str
    high: int
    low: int
    meaning: str
    section: str

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return (1 << self.high + 1) - (1 << self.low)

    def value(self, entry: int) -> int:
        """The field's value in ``entry``, shifted down."""
        return (entry & self.mask) >> self.low


@dataclass(frozen=True, slots=True)
class Switches:
    """What the control registers and VM-execution controls change about entry formats."""

    nxe: bool = True  # EFER.NXE: bit 63 is XD, else reserved
    pse: bool = True  # CR4.PSE: 4 MiB pages in 32-bit mode
    keys: bool = False  # CR4.PKE or CR4.PKS: bits 62:59 of a leaf are a key
    mode_based: bool = False  # mode-based execute control of EPT
    accessed_dirty: bool = True  # EPTP bit 6


_PAGING = "SDM, Paging: formats of paging-structure entries"
_RIGHTS = "SDM, Determination of Access Rights"
_TYPES = "SDM, Paging and Memory Typing"
_AD = "SDM, Accessed and Dirty Flags"
_KEYS = "SDM, Protection Keys"
_EPT = "SDM, EPT Translation Mechanism"
_EPT_AD = "SDM, Accessed and Dirty Flags for EPT"
_EPT_TYPE = "SDM, EPT and Memory Typing"


def guest_fields(
    mode: str, level: int, *, leaf: bool, cpu: Processor, switches: Switches
) -> Iterator[Field]:
    """The fields of a guest entry at ``level`` in ``mode``, reserved bits left out."""
    if mode == "PAE" and level == 3:
        yield from _pae_pointer(cpu)
        return
    yield Field("P", 0, 0, "present", _PAGING)
    yield Field("R/W", 1, 1, "writes allowed", _RIGHTS)
    yield Field("U/S", 2, 2, "user mode allowed", _RIGHTS)
    yield Field("PWT", 3, 3, "write-through for the next access", _TYPES)
    yield Field("PCD", 4, 4, "cache disabled for the next access", _TYPES)
    yield Field("A", 5, 5, "accessed", _AD)
    yield Field("D", 6, 6, "dirty", _AD) if leaf else Field("ign", 6, 6, "ignored", _PAGING)
    yield from _page_size(mode, level, cpu=cpu, switches=switches)
    if leaf:
        yield Field("G", 8, 8, "global: kept when CR3 is loaded (with CR4.PGE)", _PAGING)
    elif level < 4 or cpu.vendor == "intel":  # AMD reserves bit 8 of a PML4E and above
        yield Field("ign", 8, 8, "ignored", _PAGING)
    yield Field("ign", 11, 9, "ignored: free for the kernel", _PAGING)
    yield from _guest_address(mode, level, leaf=leaf, cpu=cpu)
    if mode == "32-bit":
        return
    if mode != "PAE":
        yield Field("ign", 58, 52, "ignored: free for the kernel", _PAGING)
        if leaf and switches.keys:
            yield Field("PKEY", 62, 59, "protection key", _KEYS)
        else:
            yield Field("ign", 62, 59, "ignored", _PAGING)
    if switches.nxe:
        yield Field("XD", 63, 63, "execute disabled", _RIGHTS)


def _page_size(mode: str, level: int, *, cpu: Processor, switches: Switches) -> Iterator[Field]:
    if level == 1:
        yield Field("PAT", 7, 7, "index into the PAT, with PCD and PWT", _TYPES)
    elif mode == "32-bit" and not switches.pse:
        yield Field("ign", 7, 7, "ignored: CR4.PSE is 0", _PAGING)
    elif level == 2 or (level == 3 and cpu.gigabyte_pages):  # elsewhere PS is reserved
        size = {("32-bit", 2): "4 MiB", (mode, 3): "1 GiB"}.get((mode, level), "2 MiB")
        yield Field("PS", 7, 7, f"this entry maps a {size} page", _PAGING)


def _guest_address(mode: str, level: int, *, leaf: bool, cpu: Processor) -> Iterator[Field]:
    top = min(31, cpu.maxphyaddr - 1) if mode == "32-bit" else cpu.maxphyaddr - 1
    if not leaf or level == 1:
        what = "frame of the page" if leaf else "frame of the next table"
        yield Field("address", top, 12, what, _PAGING)
        return
    yield Field("PAT", 12, 12, "index into the PAT, with PCD and PWT", _TYPES)
    if mode == "32-bit":
        bits = min(40, cpu.maxphyaddr) - 32
        if bits > 0:
            yield Field("address-high", 12 + bits, 13, "bits 39:32 of the page (PSE-36)", _PAGING)
        yield Field("address", 31, 22, "frame of the 4 MiB page", _PAGING)
    else:
        yield Field("address", top, 12 + 9 * (level - 1), "frame of the page", _PAGING)


def _pae_pointer(cpu: Processor) -> Iterator[Field]:
    yield Field("P", 0, 0, "present", _PAGING)
    yield Field("PWT", 3, 3, "write-through for the next access", _TYPES)
    yield Field("PCD", 4, 4, "cache disabled for the next access", _TYPES)
    yield Field("ign", 11, 9, "ignored: free for the kernel", _PAGING)
    yield Field("address", cpu.maxphyaddr - 1, 12, "frame of the next table", _PAGING)


def ept_fields(level: int, *, leaf: bool, cpu: Processor, switches: Switches) -> Iterator[Field]:
    """The fields of an EPT entry at ``level``, reserved bits left out."""
    yield Field("R", 0, 0, "reads allowed", _EPT)
    yield Field("W", 1, 1, "writes allowed", _EPT)
    who = "supervisor fetches allowed" if switches.mode_based else "fetches allowed"
    yield Field("X", 2, 2, who, _EPT)
    if leaf:
        yield Field("MT", 5, 3, "memory type: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB", _EPT_TYPE)
        yield Field("IPAT", 6, 6, "ignore the guest's PAT", _EPT_TYPE)
    supported = (level == 2 and cpu.ept_2m) or (level == 3 and cpu.ept_1g)
    if level == 1:
        yield Field("ign", 7, 7, "ignored", _EPT)
    elif supported:  # elsewhere bit 7 is reserved
        size = "1 GiB" if level == 3 else "2 MiB"
        yield Field("PS", 7, 7, f"this entry maps a {size} page", _EPT)
    if switches.accessed_dirty:
        yield Field("A", 8, 8, "accessed", _EPT_AD)
    else:
        yield Field("ign", 8, 8, "ignored: EPTP bit 6 is 0", _EPT_AD)
    if leaf and switches.accessed_dirty:
        yield Field("D", 9, 9, "dirty", _EPT_AD)
    else:
        yield Field("ign", 9, 9, "ignored", _EPT_AD)
    if switches.mode_based:
        yield Field("XU", 10, 10, "user fetches allowed", _EPT)
    else:
        yield Field("ign", 10, 10, "ignored", _EPT)
    yield Field("ign", 11, 11, "ignored", _EPT)
    low = 12 + 9 * (level - 1) if leaf else 12
    what = "frame of the page" if leaf else "frame of the next table"
    yield Field("address", cpu.maxphyaddr - 1, low, what, _EPT)
    yield Field("ign", 63, 52, "ignored: #VE, shadow-stack and sub-page bits left out", _EPT)
