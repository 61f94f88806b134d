"""What the hypervisor does, one record per event; names follow KVM's own."""

from dataclasses import dataclass


@dataclass(slots=True)
class SlotLookup:
    """A guest-physical address was found in a memslot: HVA = userspace_addr + (GPA - base)."""

    gpa: int
    slot: int
    hva: int


@dataclass(slots=True)
class SpteSet:
    """KVM wrote an entry of EPT or of a shadow table."""

    table: str  # "ept" or "shadow"
    level: int
    gfn: int  # what the entry maps, or the first frame it covers
    hpa: int  # of the entry
    spte: int


@dataclass(slots=True)
class ShadowPageMade:
    """A shadow page was created for a guest table (or, direct, for part of a large page)."""

    gfn: int
    level: int
    direct: bool


@dataclass(slots=True)
class ShadowPageZapped:
    """A shadow page was thrown away; its guest table may be written freely again."""

    gfn: int
    level: int
    # "flooded", "misaligned", "recycled", "slot" (gone), "unsync" (below one that went), "switched"
    why: str


@dataclass(slots=True)
class Zap:
    """One entry of EPT or of a shadow table was dropped."""

    table: str
    level: int
    gfn: int
    hpa: int  # of the entry
    spte: int


@dataclass(slots=True)
class EntryWritten:
    """A trapped store changed one entry of a shadowed table: the entry built from it went."""

    gfn: int  # of the guest table
    level: int
    entry: int  # what the guest's entry is now


@dataclass(slots=True)
class Unsync:
    """A leaf table was made writable: its shadow page may lag behind, as a TLB may."""

    gfn: int


@dataclass(slots=True)
class UnsyncEnded:
    """An unsync shadow page was brought in step and its table protected again, or it was zapped."""

    gfn: int
    why: str  # "synced" or "zapped"


@dataclass(slots=True)
class ExitToL1:
    """An exit of a nested guest (L2) is its hypervisor's (L1's) to serve: L0 enters L1."""

    reason: str


@dataclass(slots=True)
class ModeSwitched:
    """Agile paging: a guest table, with all below it, is walked nested now, or shadowed again."""

    gfn: int
    level: int
    mode: str  # "nested" or "shadow"


@dataclass(slots=True)
class Synced:
    """The entries of an unsync shadow page were compared with the guest's."""

    gfn: int
    dropped: int


@dataclass(slots=True)
class Prefetched:
    """An entry beside the one that faulted was filled too: accessed, and resident in the host."""

    gfn: int


@dataclass(slots=True)
class TlbFlushed:
    """KVM flushed the virtual CPU's TLB before it let the guest go on."""

    why: str


@dataclass(slots=True)
class RemoteFlush:
    """Every virtual CPU of the VM was asked for a flush: entries changed that any may hold."""

    why: str
    kicked: int  # virtual CPUs that were in the guest, and had to be brought out by an IPI


@dataclass(slots=True)
class FaultHandled:
    """A page fault or EPT violation that was KVM's own to serve."""

    outcome: str  # RET_PF_...: "fixed", "emulate" or "spurious"


@dataclass(slots=True)
class WriteProtected:
    """A guest frame became a shadowed table: every mapping of it lost its W bit."""

    gfn: int
    entries: int


@dataclass(slots=True)
class WriteTrapped:
    """The guest wrote a shadowed table: KVM emulated the store."""

    gpa: int
    data: bytes


@dataclass(slots=True)
class Reflected:
    """A fault that is the guest's own was handed to it."""

    gva: int
    error_code: int


@dataclass(slots=True)
class MmioExit:
    """An access to guest-physical memory in no slot went to user space."""

    gpa: int
    is_write: bool
    data: bytes


@dataclass(slots=True)
class MarkedDirty:
    """A page of a slot with a dirty log got its bit set."""

    gfn: int


@dataclass(slots=True)
class DirtyLogged:
    """User space read the dirty log of a slot."""

    slot: int
    pages: int  # that were dirty


@dataclass(slots=True)
class PmlDrained:
    """KVM took what the processor had put into its page-modification log."""

    entries: int


@dataclass(slots=True)
class Split:
    """A large leaf became a table of 512 smaller ones."""

    table: str
    level: int  # of the large leaf
    gfn: int


@dataclass(slots=True)
class Collapsed:
    """A table became one large leaf."""

    table: str
    level: int  # of the large leaf
    gfn: int


@dataclass(slots=True)
class NxSplit:
    """A table exists only because a large page must not be executable (iTLB multihit)."""

    gfn: int


@dataclass(slots=True)
class NxRecovered:
    """Such a table is gone: the next access may map a large page again."""

    gfn: int


@dataclass(slots=True)
class FastFault:
    """A fault was served by changing at most one entry, without the MMU's lock."""

    gfn: int


@dataclass(slots=True)
class Aged:
    """A leaf was made to look unused: its A bit, or all its rights, were taken away."""

    table: str
    gfn: int


@dataclass(slots=True)
class MmioSpteSet:
    """KVM noted in an entry that nobody answers for a page."""

    table: str
    gfn: int
    hpa: int  # of the entry
    spte: int


@dataclass(slots=True)
class Emulated:
    """KVM executed an instruction of the guest that hardware could not."""

    gva: int
    why: str


@dataclass(slots=True)
class IoExit:
    """An access to a port went to user space."""

    port: int
    is_write: bool
    data: bytes


@dataclass(slots=True)
class Doorbell:
    """A write was a notification: KVM signalled it and let the guest go on (ioeventfd)."""

    space: str  # "GPA" or "port"
    address: int


@dataclass(slots=True)
class MmioKnown:
    """An entry said that nobody answers for the page, and no slot had changed since."""

    gpa: int
