"""What is in CR3: whose address space, with which PCID, and on which side of the isolation.

With page-table isolation (KPTI) a process has two roots, side by side: the kernel's, and one for
user mode that lacks the kernel but for its entry code.  Every entry into the kernel and every
return writes CR3.  Linux, arch/x86/mm/tlb.c; arch/x86/entry/calling.h: SWITCH_TO_KERNEL_CR3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kvmlab.guest.process import Process
from kvmlab.hardware import instructions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import Kind

ENTRY_CODE = 0xFFFF_FE00_0000_0000  # CPU_ENTRY_AREA_BASE
USER_ROOT = 1 << 12  # PTI_USER_PGTABLE_BIT: the user's root is the frame after the kernel's
_USER_PCID = 1 << 11  # X86_CR3_PTI_PCID_USER_BIT
_NO_FLUSH = 1 << 63
_ASIDS = 6  # TLB_NR_DYN_ASIDS: the address spaces that a CPU's TLB may remember
_ONE_ADDRESS = 0  # a type of INVPCID


@dataclass(slots=True)
class _Asid:
    """One address space in the TLB, and how far its flushes were followed."""

    space: int = -1
    generation: int = -1
    user_flush: bool = False  # a bit of user_pcid_flush_mask: the next return flushes


class Contexts:
    """The address space that a CPU runs in; ``root`` is the kernel's own."""

    def __init__(self, cpu: Cpu, root: int, *, kpti: bool, pcid: bool) -> None:
        self.cpu, self._root, self._kpti, self._pcid = cpu, root, kpti, pcid
        self.current: Process | None = None
        self._asids = [_Asid() for _ in range(_ASIDS)]
        self._asid = self._next = 0
        self._depth = 0
        self._in_user = False  # CR3 has a user's root

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside the kernel: by a system call or an exception, unless it runs already."""
        self._depth += 1
        if self._in_user:
            self.cpu.access(ENTRY_CODE, Kind.FETCH)  # under both roots, so that it can go on
            self._in_user = False
            self._load(keep=True)
        try:
            yield
        finally:
            self._depth -= 1
            if self._kpti and self.current and not self._depth:
                self._leave()

    def _leave(self) -> None:
        """Return to user mode: what was flushed of its translations goes now."""
        asid = self._asids[self._asid]
        self._in_user = True
        self._load(keep=not asid.user_flush)
        asid.user_flush = False

    def switch(self, process: Process | None) -> None:
        """Load the root of ``process``, or the kernel's own (switch_mm_irqs_off)."""
        self.current = process
        space, generation = (process.space, process.generation) if process else (0, 0)
        held = [number for number, one in enumerate(self._asids) if one.space == space]
        if held:
            self._asid = held[0]
        else:
            self._asid, self._next = self._next, (self._next + 1) % _ASIDS
        asid = self._asids[self._asid]
        stale = asid.space != space or asid.generation < generation
        self._asids[self._asid] = _Asid(space, generation, asid.user_flush or stale)
        self._load(keep=not stale)

    def flush_page(self, process: Process, gva: int) -> None:
        """Drop one page of ``process`` if it runs here (flush_tlb_one_user)."""
        if process is self.current:
            self._asids[self._asid].generation = process.generation
            instructions.invlpg(self.cpu, gva)
            if self._kpti and self._pcid:
                instructions.invpcid(self.cpu, _ONE_ADDRESS, self._number() | _USER_PCID, gva)

    def flush(self, process: Process) -> None:
        """Drop all of ``process`` that is not global if it runs here (flush_tlb_local)."""
        if process is self.current:
            asid = self._asids[self._asid]
            asid.generation, asid.user_flush = process.generation, True
            self._load(keep=False)

    def _number(self) -> int:
        """The PCID of the kernel's side (kern_pcid); 0 is nobody's."""
        return self._asid + 1

    def _load(self, *, keep: bool) -> None:
        """MOV to CR3, without dropping translations if they may be kept."""
        value = self.current.root if self.current else self._root
        value |= USER_ROOT if self._in_user else 0
        if self._pcid:
            value |= self._number() | (_USER_PCID if self._in_user else 0)
            value |= _NO_FLUSH if keep else 0
        instructions.mov_cr3(self.cpu, value)
