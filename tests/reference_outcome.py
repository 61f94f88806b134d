"""What the judge works on and what it answers: memory, and the outcome of one access."""

from dataclasses import dataclass, field
from typing import Any

from tests.reference_entries import Controls


@dataclass(frozen=True)
class Npt:
    """AMD's second dimension: tables in the format of the host's own paging, from nested CR3."""

    host: Controls


@dataclass
class Memory:
    """Physical memory as 32-bit words by address; what was never stored reads as zero."""

    words: dict[int, int] = field(default_factory=dict)

    def load(self, address: int, size: int) -> int:
        low = self.words.get(address, 0)
        return low if size == 4 else low | self.words.get(address + 4, 0) << 32

    def store(self, address: int, size: int, value: int) -> None:
        self.words[address] = value & 0xFFFF_FFFF
        if size == 8:
            self.words[address + 4] = value >> 32


@dataclass(frozen=True)
class Reference:
    """One page-table entry was read: whose ("guest", "ept", "npt"), which level, where."""

    table: str
    level: int
    hpa: int
    value: int


@dataclass(frozen=True)
class Update:
    """Accessed or dirty bits were set in one entry."""

    table: str
    level: int
    hpa: int
    old: int
    new: int


@dataclass
class Outcome:
    """Where an access arrived, or what stopped it."""

    result: str
    gpa: int | None = None
    hpa: int | None = None
    page_size: str | None = None  # of the guest's page; "-" with paging off
    ept_page: str | None = None  # of the page of the second dimension, NPT's too
    error_code: int | None = None  # of #PF and #GP; EXITINFO1 of "npf"
    cr2: int | None = None
    when: str | None = None  # "mov_cr3" where it was not the access that failed
    exit_reason: int | None = None
    qualification: int | None = None
    gla: int | None = None
    trace: list[Reference] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    pml: list[int] = field(default_factory=list)

    @property
    def refs(self) -> int:
        return len(self.trace)


def number(value: Any) -> Any:
    """A vector's hex string as an integer; everything else as it is."""
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value
