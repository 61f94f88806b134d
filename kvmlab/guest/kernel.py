"""Linux in the guest: it boots, builds page tables, runs processes and serves their page faults.

It knows a CPU and the memory map that firmware left, and nothing of a host: its stores go
through the CPU, and whatever a hypervisor does about them happens by exits.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import count as numbers_from

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, size_text
from kvmlab.base.errors import BadChoice, BadSize, OutOfMemory
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.contexts import ENTRY_CODE, Contexts
from kvmlab.guest.faults import Faults
from kvmlab.guest.frames import Frames
from kvmlab.guest.memory import Memory
from kvmlab.guest.process import Process, Vma
from kvmlab.guest.records import ContextSwitch, Executed, Exited, Forked, SystemCall
from kvmlab.guest.roots import Roots
from kvmlab.guest.shootdown import Shootdown
from kvmlab.guest.smp import Smp
from kvmlab.guest.tables import (
    ACCESSED,
    DIRTY,
    GLOBAL,
    NX,
    PRESENT,
    UNCACHED,
    WRITABLE,
    PageTables,
)
from kvmlab.hardware import instructions
from kvmlab.hardware.apic import STARTUP, send_ipi
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import format_named
from kvmlab.hardware.processor import CR0_WP, CR4_PCIDE, CR4_PGE, EFER_NXE
from kvmlab.hardware.records import Kind

_ZEROES = bytes(PAGE_SIZE)
_USER_CPL = 3


def user_end(width: int) -> int:
    """Where user space ends in linear addresses of ``width`` bits: halfway, or at 3 GiB of 4."""
    return 1 << width - 1 if width > 32 else 0xC000_0000


class Kernel:
    """The guest's kernel, on ``cpu`` and, once it has woken them, on ``others``.

    ``memory`` is the map that firmware reports: (start, length) of each range of RAM.  ``kpti``
    keeps the kernel out of the tables that user mode runs on, ``pcid`` keeps translations of
    several address spaces apart in the TLB; both need 4 or 5 levels (`BadChoice`).
    """

    def __init__(
        self,
        cpu: Cpu,
        memory: Sequence[tuple[int, int]],
        tap: Tap = silent,
        *,
        others: Sequence[Cpu] = (),
        kpti: bool = False,
        pcid: bool = False,
    ) -> None:
        self._tap = tap
        fmt = format_named(cpu.registers.mode)
        if (kpti or pcid) and not fmt.long_mode:
            raise BadChoice(f"KPTI and PCIDs need 4 or 5 guest levels; {fmt.name} has neither")
        self.width = cpu.registers.linear_width
        self.user_end = user_end(self.width)
        self.direct_map = _direct_map(self.width)
        self._virtual_base = 0  # firmware runs us with GVA = GPA
        self.frames = Frames(memory, self._clear)
        alloc_table = self.frames.alloc_table
        self._root = root = alloc_table()
        self._io = _io_area(self.width)
        self.smp = Smp([Contexts(one, root, kpti=kpti, pcid=pcid) for one in (cpu, *others)])
        self.tables = PageTables(self.smp, fmt, self._virtual, alloc_table, tap, isolated=kpti)
        self.shootdown = Shootdown(self.smp, tap)
        parts = (self.smp, self.tables, self.frames, self.shootdown)
        self.roots = Roots(self.tables, self.frames, self.user_end)
        self.memory = Memory(*parts, self.roots, tap)
        for contexts in self.smp.contexts:
            self._set_handlers(contexts)
        self.processes: list[Process] = []
        self._zombies: list[Process] = []
        self._spaces = numbers_from(1)
        features = CR4_PGE | (CR4_PCIDE if pcid else 0)
        self._boot(root, memory, features)
        for one in others:
            self._wake(one, root, features)

    # -- boot ---------------------------------------------------------------------------

    def _boot(self, root: int, memory: Sequence[tuple[int, int]], features: int) -> None:
        """Build the kernel's own tables with GVA = GPA, then run in the direct map."""
        isolated = self.tables.isolated
        largest = self.tables.format.page_shifts[1]
        flags = WRITABLE | ACCESSED | DIRTY
        flags |= 0 if isolated else GLOBAL  # what user mode must not see is not kept for it
        flags |= NX if self.tables.format.mode != "32-bit" else 0
        instructions.wrmsr_efer(self.cpu, self.cpu.registers.efer | EFER_NXE)
        for start, length in memory:
            for gpa in range(start, start + length, 1 << largest):
                self.tables.map(root, self.direct_map + gpa, gpa, largest, flags)
        if isolated:
            code = self.frames.alloc()
            self.tables.map(root, ENTRY_CODE, code, PAGE_SHIFT, ACCESSED | GLOBAL)
        self._kernel_entries = self._top_entries(root)
        self._use_tables(root, features)

    def _use_tables(self, root: int, features: int) -> None:
        """Leave firmware's tables for the kernel's own, on the CPU whose turn it is."""
        instructions.mov_cr3(self.cpu, root)
        self._virtual_base = self.direct_map
        instructions.mov_cr0(self.cpu, self.cpu.registers.cr0 | CR0_WP)
        instructions.mov_cr4(self.cpu, self.cpu.registers.cr4 | features)

    def _wake(self, cpu: Cpu, root: int, features: int) -> None:
        """Make another CPU run: it starts as firmware left it, and takes up the same tables."""
        send_ipi(self.cpu, cpu.number, 0, STARTUP)
        with self.smp.on(cpu.number):
            instructions.wrmsr_efer(cpu, cpu.registers.efer | EFER_NXE)
            self._use_tables(root, features)

    def _set_handlers(self, contexts: Contexts) -> None:
        """The entries of a CPU's IDT."""
        cpu, faults = contexts.cpu, Faults(contexts.cpu, contexts, self.memory)
        cpu.page_fault_handler = self.smp.bound(cpu.number, faults.page_fault)
        cpu.protection_fault_handler = self.smp.bound(cpu.number, faults.protection_fault)
        cpu.interrupt_handler = self.smp.bound(cpu.number, self.shootdown.interrupt)

    def _top_entries(self, root: int) -> list[tuple[int, int]]:
        """The entries of the kernel's half of a root, which every process shares."""
        size = self.tables.format.entry_bytes
        found = self.tables.read_all(root, self.tables.format.levels)
        return [(at * size, entry) for at, entry in enumerate(found) if entry & PRESENT]

    def _virtual(self, gpa: int) -> int:
        return self._virtual_base + gpa

    def ioremap(self, gpa: int, length: int) -> int:
        """Map a device's registers into the kernel's half of every process; returns the GVA."""
        gva = self._io
        self._io += -(-length // PAGE_SIZE) * PAGE_SIZE
        flags = WRITABLE | ACCESSED | DIRTY | UNCACHED
        flags |= NX if self.tables.format.mode != "32-bit" else 0
        for offset in range(0, length, PAGE_SIZE):
            self.tables.map(self._root, gva + offset, gpa + offset, PAGE_SHIFT, flags)
        self._kernel_entries = self._top_entries(self._root)
        for process in self.processes:
            for offset, entry in self._kernel_entries:
                self.tables.write(process.root + offset, entry)
        return gva

    def _clear(self, gpa: int) -> None:
        self.cpu.store_bytes(self._virtual(gpa), _ZEROES)

    # -- processes ----------------------------------------------------------------------

    @property
    def cpu(self) -> Cpu:
        """The CPU whose turn it is."""
        return self.smp.cpu

    @property
    def contexts(self) -> Contexts:
        """What that CPU runs."""
        return self.smp.here

    def on(self, cpu: int) -> AbstractContextManager[None]:
        """``with guest.on(1):`` what is done inside happens on CPU 1; raises `BadChoice`."""
        return self.smp.on(cpu)

    @property
    def current(self) -> Process | None:
        """The process that runs, on the CPU whose turn it is."""
        return self.contexts.current

    @property
    def table_frames(self) -> int:
        """How many frames hold page tables now."""
        return self.frames.tables

    def page_shift(self, page_size: int) -> int:
        """The shift of a page size that this guest's tables can map; raises `BadSize`."""
        shifts = self.tables.format.page_shifts
        if page_size not in [1 << shift for shift in shifts]:
            sizes = ", ".join(size_text(1 << shift) for shift in shifts)
            raise BadSize(
                f"{size_text(page_size)} is no page size of {self.tables.format.name} paging; "
                f"there are {sizes}"
            )
        return page_size.bit_length() - 1

    @property
    def has_files(self) -> bool:
        """Whether there is a page cache, of which processes may map files."""
        return self.memory.files is not None

    def spawn(self, name: str) -> Process:
        """A new process: a root of its own, with the kernel's half shared."""
        with self.contexts.entered():
            root = self.roots.new(self._kernel_entries)
        process = Process(name, root, self, next(self._spaces))
        self.processes.append(process)
        return process

    def switch(self, process: Process) -> None:
        """Run ``process``: load its root into CR3."""
        with self.contexts.entered():
            self.contexts.switch(process)
        self._tap(ContextSwitch(process.name, process.root))

    def syscall(self) -> None:
        """A system call that does nothing to memory, such as getpid()."""
        process = self._running("make a system call")
        with self.contexts.entered():
            self._tap(SystemCall(process.name))

    def fork(self, name: str) -> Process:
        """A copy of the process that runs: they share all pages until one of them writes.

        Raises `OutOfMemory`, and leaves no child behind, if its tables find no room.
        """
        parent = self._running("fork")
        with self.contexts.entered():
            child = self.spawn(name)
            try:
                pages = self.memory.copy(parent, child)
            except OutOfMemory:
                self.exit(child)
                raise
        child.parent = parent
        self._tap(Forked(parent.name, name, pages))
        return child

    def exec(self, name: str) -> None:
        """Begin another program in the process that runs: its address space is a new, empty one.

        The new root is loaded before the old tables are torn down (exec_mmap).
        """
        process = self._running("exec")
        old, vmas = process.root, process.vmas
        with self.contexts.entered():
            self.smp.stop(process, elsewhere=True)
            process.root, process.vmas = self.roots.new(self._kernel_entries), []
            process.name, process.space, process.generation = name, next(self._spaces), 0
            self.contexts.switch(process)
            self.memory.free(old, vmas)
        self._tap(Executed(name, process.root))

    def exit(self, process: Process) -> None:
        """End ``process``: its pages and tables go back to the allocator.

        Its parent may `wait` for it; its children have no parent any more.
        """
        with self.contexts.entered():
            self.smp.stop(process)
            self.memory.free(process.root, process.vmas)
        self.processes.remove(process)
        for child in self.processes:
            child.parent = None if child.parent is process else child.parent
        self._zombies = [one for one in self._zombies if one.parent is not process]
        if process.parent:
            self._zombies.append(process)
        self._tap(Exited(process.name))

    def wait(self) -> Process | None:
        """A child of the process that runs that has ended, once each; None if none has."""
        parent = self._running("wait")
        self.syscall()
        found = next((one for one in self._zombies if one.parent is parent), None)
        if found:
            self._zombies.remove(found)
        return found

    def _running(self, deed: str) -> Process:
        if self.current is None:
            raise BadChoice(f"no process runs that could {deed}; switch to one first")
        return self.current

    def populate(self, process: Process, vma: Vma) -> None:
        """Give every page of a new mapping before it is touched (mm_populate)."""
        with self.contexts.entered():
            self.memory.populate(process, vma)

    def unmap_pages(self, process: Process, vma: Vma) -> None:
        """munmap(): clear every entry of a mapping, flush it, and free the frames."""
        with self.contexts.entered():
            self.memory.unmap(process, vma)

    def drop_pages(self, process: Process, vma: Vma, start: int, end: int) -> None:
        """madvise(MADV_DONTNEED): the same for some of a mapping that stays."""
        with self.contexts.entered():
            self.memory.discard(process, vma, start, end)

    def split_mapping(self, process: Process, edges: Sequence[int]) -> None:
        """A mapping is about to be split at some addresses."""
        with self.contexts.entered():
            self.memory.split_at(process, *edges)

    def protect_pages(self, process: Process, vma: Vma) -> None:
        """mprotect(): give every entry of a mapping the rights that it has now."""
        with self.contexts.entered():
            self.memory.protect(process, vma)

    # -- what a process does ------------------------------------------------------------

    def touch(self, gva: int, kind: Kind) -> None:
        """One user-mode access of the current process, with all its faults served."""
        cpu = self.cpu
        cpu.cpl = _USER_CPL
        try:
            cpu.access(gva, kind)
        finally:
            cpu.cpl = 0

    def load(self, gva: int, size: int = 8) -> int:
        """A user-mode load of the current process."""
        self.cpu.cpl = _USER_CPL
        try:
            return self.cpu.load(gva, size)
        finally:
            self.cpu.cpl = 0

    def store(self, gva: int, value: int, size: int = 8) -> None:
        """A user-mode store of the current process."""
        self.cpu.cpl = _USER_CPL
        try:
            self.cpu.store(gva, value, size)
        finally:
            self.cpu.cpl = 0


def _io_area(width: int) -> int:
    """Where Linux maps registers: VMALLOC_START; in 32-bit modes above the direct map."""
    return {48: 0xFFFF_C900_0000_0000, 57: 0xFFA0_0000_0000_0000}.get(width, 0xF800_0000)


def _direct_map(width: int) -> int:
    """Where Linux maps all physical memory: page_offset_base, or PAGE_OFFSET in 32-bit modes."""
    return {48: 0xFFFF_8880_0000_0000, 57: 0xFF11_0000_0000_0000}.get(width, 0xC000_0000)
