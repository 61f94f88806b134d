"""What the VMM process does, one record per event."""

from dataclasses import dataclass


@dataclass(slots=True)
class BalloonTarget:
    """The host asks the guest to give up ``pages`` pages of 4 KiB: ``num_pages`` was written."""

    pages: int


@dataclass(slots=True)
class BalloonActual:
    """The guest says that its balloon holds ``pages`` pages of 4 KiB: ``actual`` was written."""

    pages: int


@dataclass(slots=True)
class BalloonServed:
    """One buffer of the inflate or deflate queue was served and acknowledged."""

    queue: str
    pfns: int  # entries
    refused: int  # of them, named no RAM
    freed: int  # bytes that the host really got back


@dataclass(slots=True)
class PfnRefused:
    """The guest named a page that cannot be given back; the rest of its buffer was served."""

    queue: str
    pfn: int
    why: str  # "hole" or "ROM"


@dataclass(slots=True)
class FreeBlock:
    """The guest named a block of free memory on the hinting or the reporting queue."""

    queue: str
    gpa: int
    size: int
    freed: int  # bytes that the host really got back


@dataclass(slots=True)
class StatsArrived:
    """The guest answered with statistics: (tag, value) as it sent them."""

    stats: tuple[tuple[int, int], ...]
    last_update: int  # seconds since 1970


@dataclass(slots=True)
class Warned:
    """QEMU printed a warning on its standard error."""

    text: str


@dataclass(slots=True)
class DeviceBroken:
    """The driver broke the contract; the device serves nothing more until it is reset."""

    why: str


@dataclass(slots=True)
class BalloonChange:
    """The event BALLOON_CHANGE went out: so many bytes are left to the guest."""

    actual: int
