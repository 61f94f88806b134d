"""What kvmlab refuses, in one tree.

KvmlabError
├── BadAddress       an address that is malformed, misaligned or not canonical
├── BadSize          a size or page size that does not fit where it is used
├── BadChoice        a name that is not one of the names on offer
├── Overlap          a mapping or memslot that covers ground already taken
├── OutOfMemory      no frame is left
├── ProcessKilled    a process of the host was killed for want of memory, and its VM with it
├── SegmentationFault  the guest's kernel has no mapping to answer a page fault with
├── MachineCheck     the simulated machine cannot go on (no handler for a fault, a bad VMCS)
├── RingError        a virtqueue that the other side made unusable
└── TraceError       a trace that cannot be read

A page fault, an EPT violation or a VM exit is no error: it is a value that the
engine returns and records.  Exceptions are for misuse; each carries one line that
names the offending value (addresses in hex) and says what would be right.
"""


class KvmlabError(Exception):
    """Base of all errors that kvmlab raises on purpose; its text is one line."""


class BadAddress(KvmlabError, ValueError):
    """An address is malformed, misaligned, out of range or not canonical."""


class BadSize(KvmlabError, ValueError):
    """A size is malformed, or is not possible where it is used."""


class BadChoice(KvmlabError, ValueError):
    """A name or a combination of options is not one of those on offer."""


class Overlap(KvmlabError, ValueError):
    """A mapping or a memslot would cover ground that is already taken."""


class OutOfMemory(KvmlabError, MemoryError):
    """No frame is left to hand out."""


class ProcessKilled(KvmlabError, RuntimeError):
    """A process is used that the host's OOM killer has killed."""


class SegmentationFault(KvmlabError):
    """The guest's kernel found no mapping for a faulting address (SIGSEGV)."""


class MachineCheck(KvmlabError, RuntimeError):
    """The simulated machine cannot go on, as real silicon would shut down."""


class RingError(KvmlabError):
    """The other side of a virtqueue broke its contract: the queue cannot be used any more."""


class TraceError(KvmlabError, ValueError):
    """A trace cannot be read; the text names the file, the line and its content."""
