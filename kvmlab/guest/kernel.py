"""Linux in the guest: it boots, builds page tables, runs processes and serves their page faults.

It knows a CPU and the memory map that firmware left, and nothing of a host: its stores go
through the CPU, and whatever a hypervisor does about them happens by exits.
"""

from collections.abc import Iterator, Sequence

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, size_text
from kvmlab.base.errors import BadSize, SegmentationFault
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.process import Process, Vma
from kvmlab.guest.records import ContextSwitch, DemandFault
from kvmlab.guest.tables import (
    ACCESSED,
    DIRTY,
    GLOBAL,
    NX,
    PRESENT,
    USER,
    WRITABLE,
    PageTables,
)
from kvmlab.hardware import instructions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import format_named
from kvmlab.hardware.permissions import PF_FETCH, PF_PRESENT, PF_WRITE
from kvmlab.hardware.processor import CR0_WP, CR4_PGE, EFER_NXE
from kvmlab.hardware.records import GeneralProtection, Kind, PageFault
from kvmlab.linux.buddy import Buddy

_FIRMWARE = 1 << 20  # the first MiB is the firmware's
_ZEROES = bytes(PAGE_SIZE)
_USER_CPL = 3


class Kernel:
    """The guest's kernel on one CPU.

    ``memory`` is the map that firmware reports: (start, length) of each range of RAM.
    """

    def __init__(self, cpu: Cpu, memory: Sequence[tuple[int, int]], tap: Tap = silent) -> None:
        self.cpu, self._tap = cpu, tap
        fmt = format_named(cpu.controls.mode)
        self.width = cpu.controls.linear_width
        self.user_end = 1 << self.width - 1 if self.width > 32 else 0xC000_0000
        self.direct_map = _direct_map(self.width)
        self._memory = tuple(memory)
        self._buddy = _frames(memory)
        self.table_frames = 0
        self._virtual_base = 0  # firmware runs us with GVA = GPA
        self.tables = PageTables(cpu, fmt, self._virtual, self._alloc_table, tap)
        self.processes: list[Process] = []
        self.current: Process | None = None
        cpu.page_fault_handler = self._page_fault
        cpu.protection_fault_handler = self._protection_fault
        self._boot()

    # -- boot ---------------------------------------------------------------------------

    def _boot(self) -> None:
        """Build the kernel's own tables with GVA = GPA, then run in the direct map."""
        self._root = self._alloc_table()
        largest = self.tables.format.page_shifts[1]
        flags = WRITABLE | ACCESSED | DIRTY | GLOBAL
        flags |= NX if self.tables.format.mode != "32-bit" else 0
        instructions.wrmsr_efer(self.cpu, self.cpu.controls.efer | EFER_NXE)
        for start, length in self._memory:
            for gpa in range(start, start + length, 1 << largest):
                self.tables.map(self._root, self.direct_map + gpa, gpa, largest, flags)
        self._kernel_entries = self._top_entries()
        instructions.mov_cr3(self.cpu, self._root)
        self._virtual_base = self.direct_map
        instructions.mov_cr0(self.cpu, self.cpu.controls.cr0 | CR0_WP)
        instructions.mov_cr4(self.cpu, self.cpu.controls.cr4 | CR4_PGE)

    def _top_entries(self) -> list[tuple[int, int]]:
        """The entries of the kernel's half of a root, which every process shares."""
        fmt = self.tables.format
        offsets = range(0, self.tables.entries(fmt.levels) * fmt.entry_bytes, fmt.entry_bytes)
        found = [(offset, self.tables.read(self._root + offset)) for offset in offsets]
        return [(offset, entry) for offset, entry in found if entry & PRESENT]

    def _virtual(self, gpa: int) -> int:
        return self._virtual_base + gpa

    # -- processes ----------------------------------------------------------------------

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

    def spawn(self, name: str) -> Process:
        """A new process: a root of its own, with the kernel's half shared."""
        process = Process(name, self._alloc_table(), self)
        for offset, entry in self._kernel_entries:
            self.tables.write(process.root + offset, entry)
        if self.tables.format.mode == "PAE":
            self._preallocate(process)
        self.processes.append(process)
        return process

    def _preallocate(self, process: Process) -> None:
        """Give a PAE process all its page directories at once, as Linux does.

        The processor reads the four PDPTEs only when CR3 is loaded.
        """
        levels = self.tables.format.levels
        for gva in range(0, self.user_end, 1 << self.tables.shift_of(levels)):
            self.tables.add_table(self.tables.slot(process.root, gva, levels), levels)

    def switch(self, process: Process) -> None:
        """Run ``process``: load its root into CR3."""
        instructions.mov_cr3(self.cpu, process.root)
        self.current = process
        self._tap(ContextSwitch(process.name, process.root))

    def exit(self, process: Process) -> None:
        """End ``process``: its pages and tables go back to the allocator."""
        if process is self.current:
            instructions.mov_cr3(self.cpu, self._root)
            self.current = None
        for vma in list(process.vmas):
            self.unmap_pages(process, vma)
        levels = self.tables.format.levels
        user = self.user_end >> self.tables.shift_of(levels)  # entries of the user's part
        for table, _level in self.tables.tables_below(process.root, levels, user):
            self.table_frames -= 1
            self._free(table, 0)
        self.processes.remove(process)

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

    # -- page faults --------------------------------------------------------------------

    def _page_fault(self, fault: PageFault) -> None:
        """The #PF handler: give the page if a mapping allows the access, else SIGSEGV."""
        process = self.current
        vma = process.vma_at(fault.gva) if process else None
        if process is None or vma is None or not _permits(vma, fault.error_code):
            raise SegmentationFault(
                f"SIGSEGV: {fault.kind.name.lower()} of {fault.gva:#x} by "
                f"{process.name if process else 'the kernel'}: #PF with error code "
                f"{fault.error_code:#x}, and no mapping allows it"
            )
        if fault.error_code & PF_PRESENT:
            instructions.invlpg(self.cpu, fault.gva)  # spurious: only the TLB can be behind
            return
        self._demand(process, vma, fault)

    def _demand(self, process: Process, vma: Vma, fault: PageFault) -> None:
        """Map a fresh zeroed page, as Linux does for anonymous memory.

        A page first touched by a write is born dirty.  (Linux maps its one zero page for a
        first touch that reads; here it gets a page of its own.)
        """
        gva = fault.gva & ~((1 << vma.shift) - 1)
        frame = self._alloc_page(vma.shift - PAGE_SHIFT)
        flags = USER | ACCESSED | (WRITABLE if vma.write else 0)
        flags |= DIRTY if fault.error_code & PF_WRITE else 0
        flags |= 0 if vma.execute or self.tables.format.entry_bytes == 4 else NX
        self.tables.map(process.root, gva, frame, vma.shift, flags)
        self._tap(DemandFault(process.name, gva, frame, vma.shift))

    def _protection_fault(self, fault: GeneralProtection) -> None:
        raise SegmentationFault(f"SIGSEGV: #GP: {fault.why}: {fault.gva:#x}")

    def unmap_pages(self, process: Process, vma: Vma) -> None:
        """Clear every entry of a mapping, flush it, and free the frames."""
        for gva, slot, level in list(self._mapped(process, vma)):
            entry = self.tables.read(slot)
            self._change(process, gva, slot, 0)
            self._free(self.tables.frame_of(entry, level), vma.shift - PAGE_SHIFT)

    def protect_pages(self, process: Process, vma: Vma) -> None:
        """Give every entry of a mapping the rights that the mapping has now."""
        for gva, slot, _level in self._mapped(process, vma):
            entry = self.tables.read(slot) & ~WRITABLE
            self._change(process, gva, slot, entry | (WRITABLE if vma.write else 0))

    def _mapped(self, process: Process, vma: Vma) -> Iterator[tuple[int, int, int]]:
        """Each page of a mapping that has an entry: its address, the entry's slot and level."""
        for gva in range(vma.start, vma.end, 1 << vma.shift):
            if found := self.tables.find(process.root, gva):
                yield gva, *found

    def _change(self, process: Process, gva: int, slot: int, entry: int) -> None:
        """Store an entry and flush what the TLB may hold of the old one."""
        self.tables.write(slot, entry)
        if process is self.current:
            instructions.invlpg(self.cpu, gva)

    # -- frames -------------------------------------------------------------------------

    def _alloc_table(self) -> int:
        self.table_frames += 1
        return self._alloc_page(0)

    def _alloc_page(self, order: int) -> int:
        """The guest-physical address of a page of 2**order frames, all zero.

        Memory is zero when the machine starts, and `_free` clears what comes back.
        """
        return self._buddy.alloc(order) << PAGE_SHIFT

    def _free(self, gpa: int, order: int) -> None:
        """Clear a page and give it back, as Linux does with init_on_free=1.

        Linux's default is to clear when a page is handed out; then a demand fault would touch
        its new frame twice, and hide from the learner which touch made the hypervisor work.
        """
        for one in range(gpa, gpa + (PAGE_SIZE << order), PAGE_SIZE):
            self.cpu.store_bytes(self._virtual(one), _ZEROES)
        self._buddy.free(gpa >> PAGE_SHIFT, order)


def _permits(vma: Vma, code: int) -> bool:
    return (vma.write or not code & PF_WRITE) and (vma.execute or not code & PF_FETCH)


def _direct_map(width: int) -> int:
    """Where Linux maps all physical memory: page_offset_base, or PAGE_OFFSET in 32-bit modes."""
    return {48: 0xFFFF_8880_0000_0000, 57: 0xFF11_0000_0000_0000}.get(width, 0xC000_0000)


def _frames(memory: Sequence[tuple[int, int]]) -> Buddy:
    (start, length), *others = memory
    if length <= _FIRMWARE:
        raise BadSize(f"a guest with {length:#x} bytes has nothing beyond its first MiB")
    buddy = Buddy((start + _FIRMWARE) >> PAGE_SHIFT, (length - _FIRMWARE) >> PAGE_SHIFT)
    for first, more in others:
        buddy.add(first >> PAGE_SHIFT, more >> PAGE_SHIFT)
    return buddy
