"""What the host's kernel does with memory, one record per event."""

from dataclasses import dataclass


@dataclass(slots=True)
class HostFault:
    """The host backed a page of a process: HVA -> HPA in that process's page table."""

    hva: int
    hpa: int
    shift: int


@dataclass(slots=True)
class HostTookBack:
    """The host took a page of a process back: its frame is free, its contents are gone."""

    hva: int
    hpa: int
    shift: int


@dataclass(slots=True)
class HostMigrated:
    """The host moved a page of a process to another frame; its contents came along."""

    hva: int
    old: int
    new: int
    shift: int


@dataclass(slots=True)
class WillNeed:
    """A process announced that it will use a range: madvise(MADV_WILLNEED)."""

    hva: int
    size: int
