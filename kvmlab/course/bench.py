"""A bare machine for questions: RAM, tables written by hand, a processor that walks them.

It costs a fraction of a millisecond, so thousands of questions can be solved by running them.
"""

from collections.abc import Mapping

from kvmlab.course.draw import Draw
from kvmlab.hardware.cpu import Cpu, Outcome
from kvmlab.hardware.formats import PS, compile_tables, format_named
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Controls,
    Processor,
)
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Fault, Kind, Mapped, Step, VmExit
from kvmlab.hardware.tlb import UNIFIED, Geometry
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.hardware.walker import steps_of

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, GLOBAL, XD = 1, 2, 4, 32, 64, 256, 1 << 63
OPEN = PRESENT | WRITABLE | USER
EPT_OPEN = 7
_FRAME = 0x000F_FFFF_FFFF_F000
_EPT_LEAF = 6 << 3  # memory type WB
_WRITE_BACK, _KEEPS_AD = 6 | 3 << 3, 1 << 6  # EPTP: WB, 4 levels; A and D


class Bench:
    """Tables of one paging mode over drawn frames; with ``ept`` behind an EPT that maps them.

    `records` is what the processor tells.  Frames are guest-physical; `home` says where in RAM.
    """

    def __init__(
        self,
        draw: Draw,
        mode: str = "4-level",
        *,
        geometry: Geometry = UNIFIED,
        ept: bool = False,
        accessed_dirty: bool = True,
    ) -> None:
        self._draw, self.format = draw, format_named(mode)
        self.ram, self.records = Ram(1 << 40), list[object]()
        self.cpu = Cpu(self.ram, geometry=geometry, tap=self.records.append)
        self._taken: set[int] = set()
        self._homes: dict[int, int] = {}
        self._eptp = 0
        self._ad = accessed_dirty
        if ept:
            self._eptp = self._fresh(1 << 22)
        self.root = self.frame()
        self._start()

    def _start(self) -> None:
        wide = self.format.long_mode
        controls = Controls(
            cr0=CR0_PE | CR0_PG | CR0_WP,
            cr3=self.root,
            cr4=CR4_PAE | CR4_PGE if wide else CR4_PSE | CR4_PGE,
            efer=EFER_LME | EFER_LMA | EFER_NXE if wide else 0,
        )
        if self.format.levels == 5:
            controls.cr4 |= CR4_LA57
        if not self._eptp:
            self.cpu.start(controls)
            return
        eptp = self._eptp | _WRITE_BACK | (_KEEPS_AD if self._ad else 0)
        self.cpu.enter(Vmcs(_nobody, guest=controls, eptp=eptp))

    # -- frames -------------------------------------------------------------------------

    def frame(self, size: int = 4096) -> int:
        """A frame that nobody has, of ``size`` bytes; with EPT it is mapped."""
        gpa = self._fresh(1 << 20, size)
        if self._eptp:
            self.back(gpa)
        return gpa

    def _fresh(self, limit: int, size: int = 4096) -> int:
        """A drawn address that was not drawn before, a multiple of ``size``."""
        while True:
            last = limit - 1 if size == 4096 else 63
            found = self._draw.between(16, last) * size
            if found not in self._taken:
                self._taken.add(found)
                return found

    def back(self, gpa: int, rights: int = EPT_OPEN, *, leaf: int = _EPT_LEAF) -> int:
        """Map one page of EPT to a drawn host frame, or change its rights; where that is."""
        if gpa not in self._homes:
            self._homes[gpa] = self._fresh(1 << 22)
        entry = self._homes[gpa] | rights | (leaf if rights else 0)
        self._write_ept(gpa, entry)
        return self._homes[gpa]

    def home(self, gpa: int) -> int:
        """Where in RAM a guest-physical address is."""
        return self._homes.get(gpa & ~0xFFF, gpa & ~0xFFF) | gpa & 0xFFF

    # -- tables -------------------------------------------------------------------------

    def map(
        self,
        gva: int,
        shift: int = 12,
        flags: int = OPEN,
        upper: Mapping[int, int] | None = None,
        frame: int | None = None,
    ) -> int:
        """Map the page of ``gva``; ``upper`` are the flags of entries above, by level.

        Returns the page's frame, a drawn one unless given.
        """
        page = self.frame(1 << shift) if frame is None else frame
        last = self.format.page_shifts.index(shift) + 1
        leaf = page | flags | (PS if last > 1 else 0)
        levels = self.format.levels
        table = self.root
        for level in range(levels, last, -1):
            slot = self.home(table + self.index(gva, level) * self.format.entry_bytes)
            entry = self._load(slot)
            if not entry:
                entry = self.frame() | (upper or {}).get(level, OPEN)
                self._store(slot, entry)
            table = entry & _FRAME
        slot = self.home(table + self.index(gva, last) * self.format.entry_bytes)
        self._store(slot, leaf)
        return page

    def index(self, gva: int, level: int) -> int:
        """The index of ``gva`` in a table of ``level``, as the walker's rows have it."""
        rows = compile_tables(self.format, Processor()).rows
        row = next(one for one in rows if one.level == level)
        return gva >> row.shift & row.index_mask

    def put(self, slot: int, entry: int) -> None:
        """Write one entry of the guest's tables, by its guest-physical address."""
        self._store(self.home(slot), entry)

    def _write_ept(self, gpa: int, entry: int) -> None:
        """One leaf of EPT, with the tables that lead to it."""
        table = self._eptp
        for level in (4, 3, 2):
            slot = table + (gpa >> 12 + 9 * (level - 1) & 511) * 8
            found = self.ram.load(slot)
            if not found:
                found = self._fresh(1 << 22) | EPT_OPEN
                self.ram.store(slot, found)
            table = found & _FRAME
        self.ram.store(table + (gpa >> 12 & 511) * 8, entry)

    def _load(self, slot: int) -> int:
        return self.ram.load4(slot) if self.format.entry_bytes == 4 else self.ram.load(slot)

    def _store(self, slot: int, entry: int) -> None:
        (self.ram.store4 if self.format.entry_bytes == 4 else self.ram.store)(slot, entry)

    # -- what is done with it -----------------------------------------------------------

    def walk(self, gva: int) -> tuple[list[Step], Mapped | Fault]:
        """Walk ``gva`` without judging: the references, and where it ended."""
        return steps_of(compile_tables(self.format, Processor()), self.root, gva, self.ram)

    def access(self, gva: int, kind: Kind, *, user: bool = True) -> Outcome:
        """One attempt of the processor; what it tells goes to `records`."""
        self.cpu.cpl = 3 if user else 0
        return self.cpu.attempt(gva, kind)


def _nobody(_exit: VmExit) -> None:
    """No hypervisor answers: a question looks at one attempt."""


def canonical(draw: Draw, mode: str, shift: int = 12) -> int:
    """A drawn user address of ``mode`` with an offset, aligned to 8."""
    width = {"32-bit": 32, "PAE": 32, "4-level": 47, "5-level": 56}[mode]
    page = draw.between(1 << width - shift - 2, (1 << width - shift) - 1)
    return page << shift | draw.below(1 << shift - 3) << 3
