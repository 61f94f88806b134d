"""What silicon does, one small record per event.

The records are slotted dataclasses and are treated as immutable.  `Step` and the two ways a
walk can end (`Mapped`, `Fault`) come out of the walker; the rest is emitted by the logical CPU.
"""

from dataclasses import dataclass, field
from enum import Enum, IntEnum


class Kind(IntEnum):
    """What an access wants; the values are the R, W and X bits of an EPT entry."""

    READ = 1
    WRITE = 2
    FETCH = 4


READ, WRITE, EXECUTE, USER = 1, 2, 4, 8
"""The rights of a mapping, as bits: what every level together allows."""


class Verdict(Enum):
    """What the walker made of one entry."""

    TABLE = "table"
    LEAF = "leaf"
    ABSENT = "absent"
    RESERVED = "reserved"
    SWITCH = "switch"  # agile paging: the walk goes on nested


@dataclass(slots=True)
class Step:
    """One reference: one page-table entry was read on a walk."""

    table: str  # "guest", "ept" or "shadow": whose tables, so who must answer a fault
    level: int  # 1 = PTE ... 5 = PML5E, as KVM counts
    index: int
    address: int  # of the entry, in the address space that the tables live in
    hpa: int  # of the entry, where it was really read
    entry: int
    verdict: Verdict


@dataclass(slots=True)
class Steps:
    """So many references at once, told where a user's accesses are made in batches."""

    table: str
    level: int
    count: int


@dataclass(slots=True)
class Visit:
    """One entry that a walk used: what must be touched when A and D bits are set."""

    level: int
    address: int
    hpa: int
    entry: int
    reach: int  # rights that EPT grants on the page holding the entry; all without EPT


@dataclass(slots=True)
class Mapped:
    """A walk arrived: where, how large the page is, and what all levels together allow."""

    table: str
    address: int
    shift: int  # 12, 21, 22 or 30
    rights: int
    leaf: int  # the leaf entry, for G, D, the key and the memory type
    path: list[Visit] = field(repr=False)


@dataclass(slots=True)
class Fault:
    """A walk stopped, or a right is missing: who must answer, and why."""

    table: str
    level: int
    why: str  # "absent", "reserved", "rights" or "width"
    address: int  # what was being translated by these tables
    rights: int  # what the entries up to there allow together
    wants: int  # the rights asked for


@dataclass(slots=True)
class TlbLookup:
    """One attempt at an access begins: the TLB is asked.  Anything but a hit means a walk."""

    gva: int
    kind: Kind
    user: bool
    where: str  # "L1", "L2" or "miss"


@dataclass(slots=True)
class TlbLookups:
    """So many attempts at once, told where accesses are made in batches: all found it there."""

    user: bool
    where: str
    count: int


@dataclass(slots=True)
class TlbFill:
    """A finished walk was cached: the page, its size, its rights."""

    gva: int
    hpa: int
    shift: int
    rights: int


@dataclass(slots=True)
class TlbFlush:
    """Cached translations were dropped."""

    why: str  # "INVLPG", "MOV CR3", "INVVPID", ...
    dropped: int


@dataclass(slots=True)
class AccessedDirty:
    """The walker set A or D in one entry."""

    table: str
    level: int
    hpa: int
    old: int
    new: int


@dataclass(slots=True)
class PageFault:
    """A #PF, as delivered to the guest (or reflected by its hypervisor)."""

    gva: int  # CR2
    error_code: int
    kind: Kind
    user: bool


@dataclass(slots=True)
class GeneralProtection:
    """A #GP(0): a non-canonical address, or a value that a control register refuses."""

    gva: int
    why: str


@dataclass(slots=True)
class Data:
    """The access itself, after translation.  It is not counted as a reference."""

    gva: int
    hpa: int
    kind: Kind
    size: int


class ExitReason(IntEnum):
    """Basic exit reasons (SDM, "VMX Basic Exit Reasons"), as far as the engine knows them."""

    EXCEPTION = 0
    EXTERNAL_INTERRUPT = 1
    HLT = 12
    INVLPG = 14
    VMLAUNCH = 20
    VMPTRLD = 21
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    CR_ACCESS = 28
    IO = 30
    WRMSR = 32
    EPT_VIOLATION = 48
    EPT_MISCONFIG = 49
    INVEPT = 50
    INVVPID = 53
    INVPCID = 58
    PML_FULL = 62
    NPF = 0x400  # AMD's #VMEXIT code of a nested page fault


@dataclass(slots=True)
class VmExit:
    """The guest stops and the hypervisor runs: why, and what the VMCS says about it."""

    reason: ExitReason
    qualification: int  # for an exception: the error code
    gva: int
    gpa: int  # 0 where the exit has none


@dataclass(slots=True)
class VmEntry:
    """The guest goes on; `injected` is the fault that the hypervisor hands to it, if any."""

    injected: PageFault | GeneralProtection | None


@dataclass(slots=True)
class OnCpu:
    """What follows happens on this logical CPU, until the next such record; before any, on 0."""

    cpu: int


@dataclass(slots=True)
class IpiSent:
    """A logical CPU wrote its interrupt command register."""

    destination: int  # the APIC ID of the target
    vector: int
    mode: int  # 0: an interrupt; 6: SIPI


@dataclass(slots=True)
class Interrupt:
    """An interrupt was delivered through the IDT."""

    vector: int


@dataclass(slots=True)
class ControlWrite:
    """MOV to a control register by the guest."""

    register: str  # "CR0", "CR3", "CR4" or "EFER"
    value: int


@dataclass(slots=True)
class PmlLogged:
    """The processor wrote a guest-physical address into the page-modification log."""

    gpa: int
    index: int


@dataclass(slots=True)
class WalkCacheLookup:
    """The paging-structure caches were asked: the deepest level they hold, 0 for none."""

    gva: int
    level: int


@dataclass(slots=True)
class NestedTlbLookup:
    """The nested TLB was asked for a guest-physical address."""

    gpa: int
    hit: bool


@dataclass(slots=True)
class WalkCacheLookups:
    """So many lookups at once, told where accesses are made in batches: all found this level."""

    level: int
    count: int


@dataclass(slots=True)
class NestedTlbLookups:
    """So many lookups at once, told where accesses are made in batches."""

    hit: bool
    count: int
