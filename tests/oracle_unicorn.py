"""QEMU's MMU, through Unicorn, as an oracle: one access over tables given as bare memory.

    Oracle().access(words, cr0, cr3, cr4, efer, cpl, va, kind) -> Answer

`words` is physical memory as {address: 32-bit word}; what is absent reads as zero, and it is not
changed.  `kind` is "read", "write" or "fetch".  The CPU pages for real: Unicorn's default TLB
mode is QEMU's soft MMU.  With `nested=(nested_cr3, host_nxe)` the access is made by a guest
under AMD's VMRUN with nested paging, and `words` is host-physical.

How it works:

* All of physical memory but 64 KiB is one MMIO window served from `words`, so that every read
  and write of the walker shows up with its address, in order.  An 8-byte entry is read as two
  halves, an A or D bit is written as one half; only the access itself is one byte wide.
* The 64 KiB at BOOT are RAM with the probe's code and its own page tables.  `nop; mov al,[rbx]`
  is one translated block; a hook before the `mov` loads the CR3 under test, so that the
  tables under test need not map any code.  A fetch is probed by `jmp rbx`.
* CPL 3 is reached once by SYSEXIT, which needs no GDT in the Intel models; the guest's CPL comes
  from the VMCB.  The CPU at the probe is kept as a context and restored before each access,
  which also makes the engine forget the last fault (a second one would be a double fault).
* The nested root lies in ALIAS, in the boot area; once the probe is live, reads of it are served
  from the nested CR3 under test.  So one VMRUN serves all accesses.
* No IDT is needed: a hook gets the vector.  The error code is not in the register interface; it
  is read from the saved context, at the place where faults of known code leave it.

What it does not model: EPT, protection keys of supervisor pages, implicit accesses, MAXPHYADDR
other than 40, PAE's PDPTE registers (the PDPTE is read on each walk).  Guest page tables that lie
in a nested page with NX crash QEMU 5.0: the caller must not build them.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import unicorn as uc
from unicorn import x86_const as x86

BOOT = 0xFFFF_0000  # 64 KiB below 4 GiB: reachable in every mode, and closed to tables under test
BOOT_END = 1 << 32
ALIAS = BOOT_END - 0x1000  # the nested root, a window inside the boot area
WINDOW_END = 1 << 40

CR0_PG, CR0_WP, CR0_PE = 1 << 31, 1 << 16, 1
CR4_PSE, CR4_PAE, CR4_LA57, CR4_SMEP, CR4_SMAP, CR4_PKE = (1 << n for n in (4, 5, 12, 20, 21, 22))
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_SVME = (1 << n for n in (0, 8, 10, 11, 12))
MSR_EFER, MSR_SYSENTER_CS, MSR_VM_HSAVE = 0xC000_0080, 0x174, 0xC001_0117

# Pages of the boot area; the code pages are mapped where they lie.
KERNEL, USER, ROOT5, ROOT4, PDPT, PD, PT = (BOOT + n * 0x1000 for n in range(7))
LEGACY_PD, LEGACY_PT, PAE_PDPT, VMCB, HSAVE, NESTED = (BOOT + n * 0x1000 for n in range(7, 13))
TABLE, PRESENT_KERNEL = 0x67, 0x63  # P W U A D, and the same without U

# Offsets of the probe in a code page: the block of each kind, and its instruction after the nop.
PROBES = {"read": (0x100, b"\x90\x8a\x03"), "write": (0x110, b"\x90\x88\x03")}
PROBES |= {"fetch": (0x120, b"\x90\xff\xe3")}
ARRIVAL = 0xF0  # where a context is taken: code of its own, for blocks are cached with their ends
LOAD_KEYS = 0x200  # wrpkru, then the probe at +0x100 as before: copies at 0x200, 0x220, 0x240
SYSEXIT32, SYSEXIT64, VMRUN = (0x300, b"\x0f\x35"), (0x308, b"\x48\x0f\x35"), (0x310, b"\x0f\x01\xd8")
HLT = 0xF4

PF, GP, NPF = 14, 13, 0x500


@dataclass
class Answer:
    """What QEMU made of one access: `pa`, or `vector` with its `error` code (NPF: EXITINFO1)."""

    pa: int | None = None
    vector: int | None = None
    error: int | None = None
    cr2: int | None = None
    gpa: int | None = None  # of a nested page fault (EXITINFO2)
    modified: dict[int, tuple[int, int]] = field(default_factory=dict)  # words by address
    refs: list[tuple[str, int, int]] = field(default_factory=list)  # ("R" or "W", pa, value)


class Oracle:
    """Four CPUs, each made when first needed: long mode, 32-bit, PAE, and a guest under NPT."""

    def __init__(self) -> None:
        self._cpus: dict[str, _Cpu] = {}
        self._error_offset = self._find_error_code()

    def access(
        self,
        words: Mapping[int, int],
        cr0: int,
        cr3: int,
        cr4: int,
        efer: int,
        cpl: int,
        va: int,
        kind: str,
        *,
        ac: int = 0,
        pkru: int = 0,
        nested: tuple[int, int] | None = None,
    ) -> Answer:
        """Do one access with an empty TLB and say what happened."""
        cpu = self._cpu(cr4, efer, nested)
        context = cpu.context(cpl, nested[1] if nested else 0)
        cpu.words, cpu.cr3, cpu.nested_cr3 = dict(words), cr3, nested[0] if nested else 0
        cpu.run(context, cr0, cr4, efer, va, kind, ac, pkru)
        return self._answer(cpu, words, 8 if cr4 & CR4_PAE else 4)

    def _cpu(self, cr4: int, efer: int, nested: tuple[int, int] | None) -> "_Cpu":
        if nested:
            name = "npt"
        elif efer & EFER_LME:
            name = "5level" if cr4 & CR4_LA57 else "4level"
        else:
            name = "pae" if cr4 & CR4_PAE else "32bit"
        if name not in self._cpus:
            self._cpus[name] = _Cpu(name)
        return self._cpus[name]

    def _answer(self, cpu: "_Cpu", words: Mapping[int, int], size: int) -> Answer:
        answer = Answer(pa=cpu.pa, refs=merged(cpu.log, size))
        if cpu.pa is None:
            answer.vector = cpu.vector
            answer.error = struct.unpack_from("<I", cpu.blob, self._error_offset)[0]
            answer.cr2 = cpu.cr2 if cpu.vector == PF else None
            answer.gpa = cpu.gpa if cpu.vector == NPF else None
        written = {address for op, address, _ in cpu.log if op == "W"}
        answer.modified = {a: (words.get(a, 0), cpu.words[a]) for a in sorted(written)}
        return answer

    def _find_error_code(self) -> int:
        """Make faults of known code and look for the one place that holds each of them."""
        cpu = _Cpu("4level")
        self._cpus["4level"] = cpu
        root, control = 0x1000, (CR0_PG | CR0_WP | CR0_PE, CR4_PAE, EFER_LME | EFER_NXE)
        faults = [("read", 0, 0, 0), ("write", 0, 0, 2), ("read", 3, 0, 4), ("write", 3, 0, 6)]
        faults += [("fetch", 3, 0, 0x14), ("write", 3, root | 0x87, 0xF)]
        candidates: set[int] = set()
        for kind, cpl, entry, code in faults:
            cpu.words, cpu.cr3 = {root: entry}, root
            cpu.run(cpu.context(cpl, 0), *control, 0, kind, 0, 0)
            words = struct.iter_unpack("<I", cpu.blob)
            found = {n for n, (word,) in enumerate(words) if word == code}
            candidates = candidates & found if candidates else found
        if len(candidates) != 1:
            raise RuntimeError(f"error code found at {len(candidates)} places of the context")
        return 4 * candidates.pop()


def merged(log: list[tuple[str, int, int]], size: int) -> list[tuple[str, int, int]]:
    """The references of a log, with the two halves of each 8-byte read made one."""
    refs: list[tuple[str, int, int]] = []
    halves = iter(log)
    for op, address, value in halves:
        if op == "W" or size == 4:
            refs.append((op, address, value))
        else:
            _, upper, high = next(halves)
            if upper != address + 4:
                raise RuntimeError(f"read of half an entry at {address:#x}")
            refs.append((op, address, value | high << 32))
    return refs


class _Cpu:
    """One Unicorn engine in one paging mode, with its contexts at the probe."""

    def __init__(self, name: str) -> None:
        self.name = name
        mode = uc.UC_MODE_32 if name in ("32bit", "pae") else uc.UC_MODE_64
        model = x86.UC_CPU_X86_EPYC_ROME if name == "npt" else x86.UC_CPU_X86_ICELAKE_SERVER
        self.uc = uc.Uc(uc.UC_ARCH_X86, mode, model)
        self.words: dict[int, int] = {}
        self.log: list[tuple[str, int, int]] = []
        self.cr3 = self.nested_cr3 = 0
        self.pa: int | None = None
        self.vector: int | None = None
        self.cr2 = self.gpa = 0
        self.blob = b""  # the saved CPU at the moment of the fault
        self.live = self.done = False
        self._contexts: dict[tuple[int, int], uc.unicorn.UcContext] = {}
        self._map_memory()
        self._write_boot_area()
        self.uc.hook_add(uc.UC_HOOK_INTR, self._fault)
        for page in (KERNEL, USER):
            for offset in [p[0] for p in PROBES.values()]:
                self._hook(page + offset + 1)
                self._hook(page + keyed(offset) + 4)
        self._fresh = self.uc.context_save()

    def _hook(self, address: int) -> None:
        self.uc.hook_add(uc.UC_HOOK_CODE, self._go_live, begin=address, end=address)

    # ----- memory ---------------------------------------------------------------------------

    def _map_memory(self) -> None:
        self.uc.mem_map(BOOT, ALIAS - BOOT)
        windows = [(0, BOOT, 0), (BOOT_END, WINDOW_END - BOOT_END, BOOT_END)]
        for start, size, base in windows:
            read, write = partial(self._read, base), partial(self._write, base)
            self.uc.mmio_map(start, size, read, None, write, None)
            self.uc.mem_protect(start, size, uc.UC_PROT_ALL)  # or a fetch is UC_ERR_FETCH_PROT
        self.uc.mmio_map(ALIAS, 0x1000, self._read_alias, None, self._write_alias, None)

    def _read(self, base: int, _uc: object, offset: int, size: int, _data: object) -> int:
        address = base + offset
        if self.done:
            return 0
        if size == 1:
            self._finish(address)
            return HLT
        value = self.words.get(address, 0)
        self.log.append(("R", address, value))
        return value

    def _write(
        self, base: int, _uc: object, offset: int, size: int, value: int, _data: object
    ) -> None:
        address = base + offset
        if self.done:
            return
        if size == 1:
            self._finish(address)
            return
        self.words[address] = value
        self.log.append(("W", address, value))

    def _read_alias(self, engine: object, offset: int, size: int, data: object) -> int:
        if self.live:
            return self._read(self.nested_cr3, engine, offset, size, data)
        return NESTED | TABLE if offset == 0 else 0

    def _write_alias(
        self, engine: object, offset: int, size: int, value: int, data: object
    ) -> None:
        self._write(self.nested_cr3, engine, offset, size, value, data)

    def _write_boot_area(self) -> None:
        for page in (KERNEL, USER):
            for offset, code in PROBES.values():
                self.uc.mem_write(page + offset, code + b"\x90")
                self.uc.mem_write(page + keyed(offset), b"\x0f\x01\xef" + code + b"\x90")
        for offset, code in (SYSEXIT32, SYSEXIT64, VMRUN):
            self.uc.mem_write(KERNEL + offset, code)
        entries = [(ROOT5, 0, ROOT4 | TABLE), (ROOT4, 0, PDPT | TABLE), (PDPT, 3, PD | TABLE)]
        entries += [(PD, 511, PT | TABLE), (PT, 0x1F0, KERNEL | PRESENT_KERNEL)]
        entries += [(PT, 0x1F1, USER | TABLE), (PAE_PDPT, 3, PD | 1)]
        entries += [(NESTED, 3, 0xC000_0000 | TABLE | 0x80)]
        for table, index, entry in entries:
            self.uc.mem_write(table + 8 * index, struct.pack("<Q", entry))
        for table, index, entry in [
            (LEGACY_PD, 0x3FF, LEGACY_PT | TABLE),
            (LEGACY_PT, 0x3F0, KERNEL | PRESENT_KERNEL),
            (LEGACY_PT, 0x3F1, USER | TABLE),
        ]:
            self.uc.mem_write(table + 4 * index, struct.pack("<I", entry))

    # ----- the CPU at the probe -------------------------------------------------------------

    def context(self, cpl: int, host_nxe: int) -> "uc.unicorn.UcContext":
        """The CPU with paging on, at its probe, at this CPL (of the guest, under NPT)."""
        key = (cpl, host_nxe)
        if key not in self._contexts:
            self.live = False
            self.uc.context_restore(self._fresh)
            self._enter_paging(EFER_NXE if host_nxe or self.name != "npt" else 0)
            if self.name == "npt":
                self._enter_guest(cpl)
            elif cpl == 3:
                self._enter_user()
            self._contexts[key] = self.uc.context_save()
        return self._contexts[key]

    def _enter_paging(self, efer: int) -> None:
        write = self.uc.reg_write
        long_mode = self.name not in ("32bit", "pae")
        roots = {"32bit": LEGACY_PD, "pae": PAE_PDPT, "5level": ROOT5}
        if self.name != "32bit":
            write(x86.UC_X86_REG_CR4, CR4_PAE | (CR4_LA57 if self.name == "5level" else 0))
        efer |= (EFER_LME if long_mode else 0) | (EFER_SVME if self.name == "npt" else 0)
        write(x86.UC_X86_REG_MSR, (MSR_EFER, efer))
        write(x86.UC_X86_REG_CR3, roots.get(self.name, ROOT4))
        write(x86.UC_X86_REG_CR0, CR0_PG | CR0_PE | CR0_WP)

    def _enter_user(self) -> None:
        write, target = self.uc.reg_write, USER + ARRIVAL
        write(x86.UC_X86_REG_MSR, (MSR_SYSENTER_CS, 8))
        long_mode = self.name not in ("32bit", "pae")
        write(x86.UC_X86_REG_RDX if long_mode else x86.UC_X86_REG_EDX, target)
        write(x86.UC_X86_REG_RCX if long_mode else x86.UC_X86_REG_ECX, USER)
        self.uc.emu_start(KERNEL + (SYSEXIT64 if long_mode else SYSEXIT32)[0], target)

    def _enter_guest(self, cpl: int) -> None:
        target = (USER if cpl == 3 else KERNEL) + ARRIVAL
        vmcb = bytearray(0x1000)
        fields: list[tuple[int, str, int]] = [(0x10, "B", 1), (0x58, "I", 1), (0x90, "Q", 1)]
        fields += [(0xB0, "Q", ALIAS), (0x4CB, "B", cpl), (0x548, "Q", CR4_PAE)]
        fields += [(0x4D0, "Q", EFER_SVME | EFER_LMA | EFER_LME | EFER_NXE)]
        fields += [(0x550, "Q", ROOT4), (0x558, "Q", CR0_PG | CR0_PE | CR0_WP)]
        fields += [(0x570, "Q", 2), (0x578, "Q", target), (0x5D8, "Q", USER)]
        for offset, selector, attributes in [(0x410, 8, 0xA9B), (0x420, 16, 0xC93)]:
            attributes |= cpl << 5
            fields += [(offset, "H", selector | cpl), (offset + 2, "H", attributes)]
            fields += [(offset + 4, "I", 0xFFFF_FFFF)]
        for offset, form, value in fields:
            struct.pack_into("<" + form, vmcb, offset, value)
        self.uc.mem_write(VMCB, bytes(vmcb))
        self.uc.reg_write(x86.UC_X86_REG_MSR, (MSR_VM_HSAVE, HSAVE))
        self.uc.reg_write(x86.UC_X86_REG_RAX, VMCB)
        self.uc.emu_start(KERNEL + VMRUN[0], target)

    # ----- one access -----------------------------------------------------------------------

    def run(
        self,
        context: "uc.unicorn.UcContext",
        cr0: int,
        cr4: int,
        efer: int,
        va: int,
        kind: str,
        ac: int,
        pkru: int,
    ) -> None:
        """From the probe's context: load everything but CR3, and go."""
        self.live, self.done, self.pa, self.vector = False, False, None, None
        self.log.clear()
        self.uc.context_restore(context)
        write, reg = self.uc.reg_write, self.registers
        page = USER if cpl == 3 else KERNEL
        if self.name == "npt":
            efer |= EFER_SVME
        write(x86.UC_X86_REG_MSR, (MSR_EFER, efer | EFER_SCE))
        write(x86.UC_X86_REG_CR4, cr4)
        write(x86.UC_X86_REG_CR0, cr0)
        write(x86.UC_X86_REG_EFLAGS, 2 | (1 << 18 if ac else 0))
        write(x86.UC_X86_REG_RBX if long_mode else x86.UC_X86_REG_EBX, va)
        start = page + PROBES[kind][0]
        end = start + 3
        if cr4 & CR4_PKE:
            write(x86.UC_X86_REG_RAX, pkru)
            write(x86.UC_X86_REG_RCX, 0)
            write(x86.UC_X86_REG_RDX, 0)
            start = page + keyed(PROBES[kind][0])
            end = start + 6
        try:
            self.uc.emu_start(start, end)
        except uc.UcError:
            if not self.done:  # after the access nothing matters
                raise
        if not self.done:
            raise RuntimeError(f"the {kind} of {va:#x} neither arrived nor faulted")

    def _go_live(self, engine: uc.Uc, _address: int, _size: int, _data: object) -> None:
        self.live = True
        engine.reg_write(x86.UC_X86_REG_CR3, self.cr3)

    def _fault(self, engine: uc.Uc, vector: int, _data: object) -> None:
        if not self.done:
            self.vector = vector
            self.cr2 = engine.reg_read(x86.UC_X86_REG_CR2)
            self.gpa = struct.unpack("<Q", engine.mem_read(VMCB + 0x80, 8))[0]
            self.blob = engine.context_save().__getstate__()[0]
            self._finish(None)
        engine.emu_stop()

    def _finish(self, pa: int | None) -> None:
        """The access is over: what the engine still does until it stops is not recorded."""
        self.pa, self.done = pa, True
        self.uc.emu_stop()


def keyed(offset: int) -> int:
    """Where the copy of a probe lies that loads PKRU first."""
    return LOAD_KEYS + 2 * (offset - 0x100)
