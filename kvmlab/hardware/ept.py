"""The second dimension: translating guest-physical addresses by EPT (or AMD's NPT).

SDM, "The Extended Page Table Mechanism (EPT)"; APM volume 2, "Nested Paging".
"""

from dataclasses import dataclass, replace

from kvmlab.base.errors import MachineCheck
from kvmlab.base.tap import Tap
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import Tables, compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import READ, USER, WRITE, Fault, Kind, Mapped, PmlLogged
from kvmlab.hardware.walker import Walked, mark, walk

EPTP_MEMORY_TYPE, EPTP_ACCESSED_DIRTY = 7, 1 << 6
_ROOT = 0x000F_FFFF_FFFF_F000
_PML_ENTRIES = 512

# Exit qualification of an EPT violation (SDM, "Exit Qualification for EPT Violations").
QUAL_LINEAR_VALID, QUAL_FINAL = 1 << 7, 1 << 8
QUAL_USER, QUAL_WRITABLE, QUAL_NX = 1 << 9, 1 << 10, 1 << 11


@dataclass(slots=True)
class PageModificationLog:
    """The page of 512 guest-physical addresses that VMX fills as EPT leaves become dirty."""

    address: int
    index: int = _PML_ENTRIES - 1

    @property
    def full(self) -> bool:
        """No entry is left: the next one needs an exit first."""
        return not 0 <= self.index < _PML_ENTRIES


@dataclass(frozen=True, slots=True)
class Ept:
    """An EPTP, decoded: whose root, which format, and whether A and D are kept.

    ``npt``: AMD's nested paging, which walks guest-format tables as a user access, always
    keeps A and D, and treats every read of a guest table as a write.
    """

    tables: Tables
    root: int
    accessed_dirty: bool
    npt: bool = False
    agile: bool = False  # agile paging finds written tables by D: reading one is no write
    pml: PageModificationLog | None = None

    @property
    def table_access(self) -> int:
        """The rights that a read of a guest table needs here."""
        return READ | WRITE if self.accessed_dirty and not self.agile else READ


def decode_eptp(
    eptp: int, cpu: Processor, *, mode_based: bool = False, pml: PageModificationLog | None = None
) -> Ept:
    """What ``eptp`` says; raises `MachineCheck` for a value that fails VM entry."""
    cpu = _of_host(cpu)
    levels = (eptp >> 3 & 7) + 1
    reserved = eptp & ((1 << 64) - (1 << cpu.maxphyaddr)) | eptp & 0xF00
    if eptp & EPTP_MEMORY_TYPE not in (0, 6) or levels not in (4, 5) or reserved:
        raise MachineCheck(
            f"VM entry fails: EPTP {eptp:#x} needs memory type 0 or 6, 4 or 5 levels "
            f"and zeroes in bits 11:8 and 63:{cpu.maxphyaddr}"
        )
    keeps = bool(eptp & EPTP_ACCESSED_DIRTY)
    switches = Switches(mode_based=mode_based, accessed_dirty=keeps)
    tables = compile_tables(format_named(f"EPT-{levels}"), cpu, switches)
    return Ept(tables, eptp & _ROOT, keeps, pml=pml)


def _of_host(cpu: Processor) -> Processor:
    """The processor as the host's tables see it, with its full physical width."""
    return replace(cpu, maxphyaddr=cpu.host_maxphyaddr or cpu.maxphyaddr)


def decode_ncr3(ncr3: int, cpu: Processor, levels: int = 4) -> Ept:
    """AMD's nested CR3: guest-format tables, walked as a user access."""
    tables = compile_tables(format_named(f"NPT-{levels}"), _of_host(cpu))
    return Ept(tables, ncr3 & _ROOT, accessed_dirty=True, npt=True)


def nested(ept: Ept, ram: Ram, gpa: int, wants: int, tap: Tap) -> Walked:
    """Translate one guest-physical address, judge it for ``wants``, set A and D.

    The misconfiguration of an entry wins over the lack of a right; nothing is changed by a
    translation that fails.
    """
    top = ept.tables.rows[0]
    width = top.shift + top.index_mask.bit_length()
    if gpa >> width:
        return Fault("ept", top.level, "width", gpa, 0, wants)
    found = walk(ept.tables, ept.root, gpa, ram, tap)
    if isinstance(found, Fault):
        found.wants = wants
        return found
    if (wants | (USER if ept.npt else 0)) & ~found.rights:
        return Fault("ept", found.path[-1].level, "rights", gpa, found.rights, wants)
    if ept.accessed_dirty:
        logs = ept.pml if wants & WRITE and not found.leaf & ept.tables.format.dirty else None
        if logs and logs.full:
            return Fault("ept", found.path[-1].level, "pml full", gpa, found.rights, wants)
        mark(ept.tables, found.path, ram, tap, write=bool(wants & WRITE))
        if logs:
            _log(logs, ram, gpa, tap)
    return found


def _log(pml: PageModificationLog, ram: Ram, gpa: int, tap: Tap) -> None:
    ram.store(pml.address + 8 * pml.index, gpa & ~0xFFF)
    tap(PmlLogged(gpa & ~0xFFF, pml.index))
    pml.index -= 1


def qualification(fault: Fault, *, final: bool, linear: bool = True, mode_based: bool) -> int:
    """The exit qualification of an EPT violation, without the advanced bits 11:9.

    Bits 2:0 what was attempted, 5:3 (and 6) what the entries allow together, bit 7 whether a
    linear address was involved, bit 8 whether it was the final access (``final``) and not one
    to a guest paging-structure entry.
    """
    wants = fault.wants & 7
    if mode_based and fault.wants & USER:
        wants |= int(Kind.FETCH)
    code = wants | (fault.rights & 7) << 3
    if mode_based:
        code |= (fault.rights & USER) << 3
    if linear:
        code |= QUAL_LINEAR_VALID | (QUAL_FINAL if final else 0)
    return code


def advanced_bits(mapped: Mapped | None) -> int:
    """Bits 11:9: what the guest's own tables say of the page (advanced exit information).

    Without guest paging the page counts as user, writable and executable.
    """
    if mapped is None:
        return QUAL_USER | QUAL_WRITABLE
    code = QUAL_USER if mapped.rights & USER else 0
    code |= QUAL_WRITABLE if mapped.rights & WRITE else 0
    return code | (0 if mapped.rights & int(Kind.FETCH) else QUAL_NX)
