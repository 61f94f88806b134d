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
    """The host took a page of a process back: its contents are gone.

    The frame is free, but for a piece of a huge page, which is freed when that is split.
    """

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


@dataclass(slots=True)
class HostSwappedOut:
    """A page of a process went to swap: its entry names the slot now."""

    hva: int
    hpa: int
    slot: int


@dataclass(slots=True)
class HostSwappedIn:
    """A major fault: a page came back from swap."""

    hva: int
    hpa: int
    slot: int


@dataclass(slots=True)
class HostSplit:
    """The entry of a huge page became a table of small ones; the frames are the same."""

    hva: int
    hpa: int


@dataclass(slots=True)
class HostCollapsed:
    """khugepaged copied small pages into a huge one; ``filled`` of its pages were not there."""

    hva: int
    hpa: int
    filled: int


@dataclass(slots=True)
class HostMerged:
    """KSM: a page of a process is now the shared copy at ``hpa``, and read-only."""

    hva: int
    hpa: int


@dataclass(slots=True)
class HostUnshared:
    """A shared page was copied, so that the process has one of its own again."""

    hva: int
    old: int
    new: int
