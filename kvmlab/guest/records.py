"""What the guest's kernel does with memory, one record per event."""

from dataclasses import dataclass


@dataclass(slots=True)
class DemandFault:
    """The kernel answered a #PF with a fresh page."""

    process: str
    gva: int
    gpa: int
    shift: int


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
