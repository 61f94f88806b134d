"""What the guest's kernel does with memory and processes, one record per event."""

from dataclasses import dataclass


@dataclass(slots=True)
class DemandFault:
    """The kernel answered a #PF with a fresh page."""

    process: str
    gva: int
    gpa: int
    shift: int


@dataclass(slots=True)
class PageCopied:
    """The kernel answered a write to a page that others share with a copy of it."""

    process: str
    gva: int
    old: int
    new: int
    shift: int


@dataclass(slots=True)
class PageReused:
    """The kernel answered a write to a page that nobody else shares any more by allowing it."""

    process: str
    gva: int
    gpa: int
    shift: int


@dataclass(slots=True)
class FileFault:
    """The kernel answered a #PF with a page of a mapped file, or is about to copy that."""

    process: str
    gva: int
    gpa: int
    file: int
    page: int
    major: bool  # it had to be read from the disk


@dataclass(slots=True)
class FilePageWritten:
    """The kernel let a process write to a page of a shared file mapping, which is dirty now."""

    process: str
    gva: int
    gpa: int


@dataclass(slots=True)
class EntrySplit:
    """The one entry of a huge page became 512 small ones; the page is the same."""

    process: str
    gva: int
    gpa: int


@dataclass(slots=True)
class PagesCollapsed:
    """khugepaged copied small pages into a huge one; ``filled`` of its pages were not there."""

    process: str
    gva: int
    gpa: int
    filled: int


@dataclass(slots=True)
class TableMade:
    """The kernel put a new page table into a process's tree (or its own)."""

    level: int
    gpa: int


@dataclass(slots=True)
class ContextSwitch:
    """Another process runs: CR3 was loaded with its root."""

    process: str
    root: int


@dataclass(slots=True)
class TlbShootdown:
    """The kernel interrupted other CPUs to make them forget translations of a process."""

    process: str
    cpus: tuple[int, ...]
    pages: int  # 0: all of the process


@dataclass(slots=True)
class SystemCall:
    """A process entered the kernel by SYSCALL and came back."""

    process: str


@dataclass(slots=True)
class Forked:
    """A process was copied: all its pages are shared until one of the two writes."""

    parent: str
    child: str
    pages: int


@dataclass(slots=True)
class Executed:
    """A process began another program in a new address space."""

    process: str
    root: int


@dataclass(slots=True)
class Exited:
    """A process ended; its pages and tables are free."""

    process: str


@dataclass(slots=True)
class BalloonMoved:
    """The balloon driver posted one array of page frame numbers."""

    queue: str  # "inflate" or "deflate"
    pages: int


@dataclass(slots=True)
class OutOfPuff:
    """The balloon driver found no free page; it sleeps and tries again."""

    pages: int  # in the balloon by then


@dataclass(slots=True)
class BalloonMigrated:
    """Compaction moved a page of the balloon (vmstat: balloon_migrate)."""

    old: int  # GPA
    new: int
