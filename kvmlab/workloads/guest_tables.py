"""Page tables of a real guest, as bytes of its memory: loaded, walked, listed, searched.

Only the pages of the tables are known, each at its guest-physical address; what they map is data
that nobody recorded.  A walk is `hardware.walker.walk` over those bytes, so a captured guest and
a simulated one obey the same code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import TraceError
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import ALL_RIGHTS, XD, Tables, compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import WORDS, Ram
from kvmlab.hardware.records import EXECUTE, READ, USER, WRITE, Fault, Mapped, Step
from kvmlab.hardware.walker import steps_of

MAX_TABLES = 1 << 15  # of one level, that a tree may refer to: 64 GiB in 4 KiB pages
MEMORY = 1 << 52  # bytes: no physical address is larger

LEAF = np.dtype([("gva", "u8"), ("gpa", "u8"), ("shift", "u1"), ("entry", "u8"), ("rights", "u1")])
"""A page of an address space: addresses of its first byte, log2 of its size, its leaf entry, and
what all levels together allow (`hardware.records.READ` and so on)."""


@dataclass(frozen=True, slots=True)
class GuestTables:
    """One address space: a tree of 4 or 5 levels at ``root``, in ``pages`` by address."""

    levels: int
    root: int
    pages: Mapping[int, bytes]
    switches: Switches = field(default_factory=Switches)

    @property
    def tables(self) -> Tables:
        """The walker's masks; the guest's processor is trusted to have had no reserved bits set."""
        fmt = format_named(f"{self.levels}-level")
        return compile_tables(fmt, Processor(maxphyaddr=52), self.switches)

    def load(self, write: Callable[[int, bytes], None]) -> None:
        """Put every table where the guest had it, by ``Ram.write`` or ``Vm.write``."""
        for gpa, page in self.pages.items():
            write(gpa, page)

    def memory(self) -> Ram:
        """A memory with nothing but the tables in it."""
        ram = Ram(MEMORY)
        self.load(ram.write)
        return ram

    def walk(self, gva: int, ram: Ram | None = None) -> tuple[list[Step], Mapped | Fault]:
        """The entries read to translate ``gva``, and where that leads; rights are not judged.

        ``ram`` is `memory`, for those who walk often.
        """
        return steps_of(self.tables, self.root, gva, ram or self.memory())

    def leaves(self) -> NDArray[np.void]:
        """All pages mapped, as an array of `LEAF`, in the order of the tree: user half first.

        Raises `TraceError` where tables refer to themselves, or to one that is not there, so
        that the list would be endless or not whole.
        """
        frames = {gpa: row for row, gpa in enumerate(self.pages)}
        words = np.frombuffer(b"".join(self.pages.values()), "<u8").reshape(-1, WORDS)
        bases, at = np.zeros(1, np.uint64), np.array([self.root], np.uint64)
        rights = np.full(1, ALL_RIGHTS, np.uint8)
        found = []
        for row in self.tables.rows:
            entries = words[_rows(frames, at, row.level)]
            place = np.nonzero(entries & np.uint64(1))
            entry = entries[place]
            gva = bases[place[0]] | place[1].astype(np.uint64) << np.uint64(row.shift)
            right = rights[place[0]] & self._rights(entry)
            leaf = np.full(len(entry), row.always_leaf) | (entry & np.uint64(row.leaf) != 0)
            found.append(_leaves(leaf, gva, entry, right, row.shift, row.page_address))
            below = np.flatnonzero(~leaf)
            bases, rights = gva.take(below), right.take(below)
            at = entry.take(below) & np.uint64(row.table_address)
        every = np.concatenate(found)
        every = every[np.argsort(every["gva"], kind="stable")]
        every["gva"] = _canonical(every["gva"], 12 + 9 * self.levels)
        return every

    def search(self, gpa: int, leaves: NDArray[np.void] | None = None) -> list[int]:
        """The virtual addresses at which the byte at ``gpa`` is mapped, in the order of the tree.

        ``leaves`` are those of the tree, for those who search often.
        """
        every = self.leaves() if leaves is None else leaves
        inside = np.uint64(gpa) - every["gpa"]  # wraps where the page lies above: a huge number
        hits = np.flatnonzero(inside < np.uint64(1) << every["shift"].astype(np.uint64))
        return [int(gva) for gva in every["gva"][hits] + inside[hits]]

    def _rights(self, entries: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """What entries allow, as `walker.entry_rights` has it for one."""
        rights = np.full(len(entries), READ, np.uint8)
        rights[entries & np.uint64(WRITE) != 0] |= WRITE
        rights[entries & np.uint64(4) != 0] |= USER
        rights[entries & np.uint64(XD if self.switches.nxe else 0) == 0] |= EXECUTE
        return rights


def check_pages(pages: Mapping[int, bytes]) -> str | None:
    """Why these cannot be pages of tables, or None."""
    for gpa, page in pages.items():
        if gpa % PAGE_SIZE or not 0 <= gpa < MEMORY:
            return f"a table at {gpa:#x} lies at no page of physical memory"
        if len(page) != PAGE_SIZE:
            return f"the table at {gpa:#x} has {len(page)} bytes instead of {PAGE_SIZE}"
    return None


def _rows(frames: dict[int, int], tables: NDArray[np.uint64], level: int) -> list[int]:
    if len(tables) > MAX_TABLES:
        raise TraceError(
            f"level {level} has {len(tables):,} tables, more than {MAX_TABLES:,}:"
            " they refer to themselves"
        )
    for gpa in tables.tolist():
        if gpa not in frames:
            raise TraceError(f"an entry refers to a level-{level} table at {gpa:#x}, not captured")
    return [frames[gpa] for gpa in tables.tolist()]


def _leaves(
    leaf: NDArray[np.bool_],
    gva: NDArray[np.uint64],
    entry: NDArray[np.uint64],
    rights: NDArray[np.uint8],
    shift: int,
    address: int,
) -> NDArray[np.void]:
    which = np.flatnonzero(leaf)
    found = np.zeros(len(which), LEAF)
    found["gva"], found["entry"] = gva.take(which), entry.take(which)
    found["gpa"] = entry.take(which) & np.uint64(address)
    found["shift"], found["rights"] = shift, rights.take(which)
    return found


def _canonical(gva: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """Bit ``width`` - 1 copied into those above it."""
    sign = gva >> np.uint64(width - 1) & np.uint64(1)
    upper: NDArray[np.uint64] = sign * np.uint64((1 << 64) - (1 << width))
    return gva | upper
