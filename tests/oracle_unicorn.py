"""QEMU's MMU, through Unicorn, as an oracle: one access over tables given as bare memory.

    Oracle().access(words, cr0, cr3, cr4, efer, cpl, va, kind) -> Answer
    Oracle().ask(case) -> Answer

`words` is physical memory as {address: 32-bit word}; what is absent reads as zero, and it is not
changed.  `kind` is "read", "write" or "fetch"; `ask` takes everything from a vector.  The CPU
pages for real: Unicorn's default TLB mode is QEMU's soft MMU.  With `nested=(nested CR3, the
host's EFER.NXE)` the access is made by a guest under AMD's VMRUN with nested paging, and
`words` is host-physical.

How it works:

* All of physical memory but 64 KiB is an MMIO window served from `words`, so that every read and
  write of the walker shows up with its address, in order.  An 8-byte entry is read as two
  halves, an A or D bit is written as one half; only the access itself is one byte wide.
* The 64 KiB at BOOT are RAM with the probe's code and its own page tables.  `nop; mov al,[rbx]`
  is one translated block; a hook before the `mov` loads the CR3 under test, so that the tables
  under test need not map any code.  A fetch is probed by `jmp rbx`.
* CPL 3 is reached by SYSEXIT, which needs no GDT in the Intel models; a guest's CPL comes from
  the VMCB.  The CPU at the probe is kept as a context and restored before each access, which also
  makes the engine forget the last fault (a second one would become a double fault).
* The nested root lies at ALIAS in the boot area; once the probe is live, reads of it are served
  from the nested CR3 under test.  So one VMRUN serves all accesses.
* No IDT is needed: a hook gets the vector.  After the hook the engine goes on for a moment and
  faults again, so all that is wanted of a fault is taken in the hook.  The error code is not
  in the register interface; it is read from the saved context, at the one place where faults of
  known code leave it.

What it does not model: EPT, protection keys of supervisor pages, implicit accesses, MAXPHYADDR
other than 40, PAE's PDPTE registers (the PDPTE is read on each walk), tables and pages between
BOOT and 4 GiB.  A guest page table that lies in a nested page with NX crashes QEMU 5.0, and
with it Python: the caller must not build one.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import unicorn as uc
from unicorn import x86_const as x86

BOOT, BOOT_END = 0xFFFF_0000, 1 << 32  # in reach of every mode
ALIAS = BOOT_END - 0x1000
WINDOW_END = 1 << 40

CR0_PE, CR0_WP, CR0_PG = 1, 1 << 16, 1 << 31
CR4_PSE, CR4_PAE, CR4_LA57, CR4_SMEP, CR4_SMAP, CR4_PKE = (1 << n for n in (4, 5, 12, 20, 21, 22))
EFER_LME, EFER_LMA, EFER_NXE, EFER_SVME = (1 << n for n in (8, 10, 11, 12))
MSR_EFER, MSR_SYSENTER_CS, MSR_VM_HSAVE = 0xC000_0080, 0x174, 0xC001_0117

# Pages of the boot area.  Linear addresses of the code pages are their physical ones.
KERNEL, USER, ROOT5, ROOT4, PDPT, PD, PT = (BOOT + n * 0x1000 for n in range(7))
LEGACY_PD, LEGACY_PT, PAE_PDPT, VMCB, HSAVE, NESTED = (BOOT + n * 0x1000 for n in range(7, 13))
KERNEL_PAGE, TABLE, LARGE = 0x63, 0x67, 0x80  # P W A D, with U, and PS

# Offsets in a code page.  Of each probe there is a copy that loads PKRU first.
PROBES = {
    "read": (0x100, b"\x8a\x03"),
    "write": (0x140, b"\x88\x03"),
    "fetch": (0x180, b"\xff\xe3"),
}
NOP, WRPKRU, WITH_KEYS = b"\x90", b"\x0f\x01\xef", 0x20
ARRIVAL = 0x80  # where contexts are taken; its own code, for blocks are cached with their end
SYSEXIT, SYSEXIT64, VMRUN = (0x10, b"\x0f\x35"), (0x20, b"\x48\x0f\x35"), (0x30, b"\x0f\x01\xd8")
HLT = 0xF4

PF, GP, NPF = 14, 13, 0x500  # vectors as the hook sees them


@dataclass
class Answer:
    """What QEMU made of one access: `pa`, or `vector` with its `error` code.

    Of a nested page fault `error` is the low half of EXITINFO1 and `gpa` is EXITINFO2.
    """

    pa: int | None = None
    vector: int | None = None
    error: int | None = None
    cr2: int | None = None
    gpa: int | None = None
    modified: dict[int, tuple[int, int]] = field(default_factory=dict)  # 32-bit words
    refs: list[tuple[str, int, int]] = field(default_factory=list)  # ("R" or "W", pa, value)


@dataclass(frozen=True)
class Probe:
    """One access and the registers it is made under."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    cpl: int
    va: int
    kind: str
    ac: int = 0
    pkru: int = 0
    nested: tuple[int, int] | None = None

    @property
    def cpu(self) -> str:
        """The engine that this access needs."""
        if self.nested:
            return "npt"
        if self.efer & EFER_LME:
            return "5level" if self.cr4 & CR4_LA57 else "4level"
        return "pae" if self.cr4 & CR4_PAE else "32bit"


class Oracle:
    """Five CPUs, each made when first needed: one a paging mode, and a guest under NPT."""

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
        probe = Probe(cr0, cr3, cr4, efer, cpl, va, kind, ac, pkru, nested)
        cpu = self._run(words, probe)
        answer = cpu.answer
        answer.refs = merged(cpu.log, 8 if cr4 & CR4_PAE else 4)
        written = sorted({address for op, address, _ in cpu.log if op == "W"})
        answer.modified = {a: (words.get(a, 0), cpu.words[a]) for a in written}
        if answer.vector is not None:
            answer.error = struct.unpack_from("<I", cpu.fault_state, self._error_offset)[0]
        return answer

    def ask(self, case: dict[str, Any]) -> Answer:
        """Do the access of a case in the schema of the vectors, `walk` or `npt`."""
        ctrl = {"cr4_pse": 0, "cr4_pke": 0, "pkru": 0, **case["ctrl"]}
        cr4 = CR4_PAE * (case["mode"] != "32bit") | CR4_LA57 * (case["mode"] == "5level")
        cr4 |= CR4_PSE * ctrl["cr4_pse"] | CR4_PKE * ctrl["cr4_pke"]
        cr4 |= CR4_SMEP * ctrl["cr4_smep"] | CR4_SMAP * ctrl["cr4_smap"]
        words: dict[int, int] = {}
        for word in case["mem"]:
            words[number(word["addr"])] = number(word["value"]) & 0xFFFF_FFFF
            if word["size"] == 8:
                words[number(word["addr"]) + 4] = number(word["value"]) >> 32
        host, access = case.get("npt"), case["access"]
        return self.access(
            words,
            CR0_PE | CR0_PG | CR0_WP * ctrl["cr0_wp"],
            number(ctrl["cr3"]),
            cr4,
            EFER_LME * (case["mode"] in ("4level", "5level")) | EFER_NXE * ctrl["efer_nxe"],
            access["cpl"],
            number(access["va"]),
            access["type"],
            ac=ctrl["rflags_ac"],
            pkru=number(ctrl["pkru"]),
            nested=(number(host["cr3"]), host["efer_nxe"]) if host else None,
        )

    def _run(self, words: Mapping[int, int], probe: Probe) -> "_Cpu":
        cpu = self._cpus.get(probe.cpu)
        if cpu is None:
            cpu = self._cpus[probe.cpu] = _Cpu(probe.cpu)
        cpu.run(dict(words), probe)
        return cpu

    def _find_error_code(self) -> int:
        """Make faults of known code and look for the one place that holds each of them."""
        root, candidates = 0x1000, None
        faults = [("read", 0, 0, 0), ("write", 0, 0, 2), ("read", 3, 0, 4), ("write", 3, 0, 6)]
        faults += [("fetch", 3, 0, 0x14), ("write", 3, root | 0x87, 0xF)]
        for kind, cpl, entry, code in faults:
            cr0, efer = CR0_PG | CR0_WP | CR0_PE, EFER_LME | EFER_NXE
            cpu = self._run({root: entry}, Probe(cr0, root, CR4_PAE, efer, cpl, 0, kind))
            state = struct.iter_unpack("<I", cpu.fault_state)
            found = {n for n, (word,) in enumerate(state) if word == code}
            candidates = found if candidates is None else candidates & found
        if candidates is None or len(candidates) != 1:
            raise RuntimeError(f"the error code may be at {candidates} of the saved context")
        return 4 * candidates.pop()


def number(value: str | int) -> int:
    """A number of a case: hex where it is wide."""
    return int(value, 16) if isinstance(value, str) else value


def merged(log: list[tuple[str, int, int]], size: int) -> list[tuple[str, int, int]]:
    """The references of a log, with the two halves of each 8-byte read made one."""
    refs: list[tuple[str, int, int]] = []
    halves = iter(log)
    for op, address, value in halves:
        if op == "R" and size == 8:
            _, upper, high = next(halves)
            if upper != address + 4:
                raise RuntimeError(f"only half of the entry at {address:#x} was read")
            refs.append((op, address, value | high << 32))
        else:
            refs.append((op, address, value))
    return refs


class _Cpu:
    """One Unicorn engine in one paging mode, with its contexts at the probe."""

    def __init__(self, name: str) -> None:
        self.name, self.narrow = name, name in ("32bit", "pae")
        model = x86.UC_CPU_X86_EPYC_ROME if name == "npt" else x86.UC_CPU_X86_ICELAKE_SERVER
        mode = uc.UC_MODE_32 if self.narrow else uc.UC_MODE_64
        self.uc = uc.Uc(uc.UC_ARCH_X86, mode, model)
        self.words: dict[int, int] = {}
        self.log: list[tuple[str, int, int]] = []
        self.answer, self.fault_state = Answer(), b""
        self.cr3 = self.nested_cr3 = 0
        self.live = False  # the tables under test are loaded
        self.done = False  # the access has arrived or faulted: nothing more is recorded
        self._contexts: dict[tuple[int, int], uc.UcContext] = {}
        self._map_memory()
        self._write_code()
        self._write_tables()
        self.uc.hook_add(uc.UC_HOOK_INTR, self._fault)
        self._fresh = self.uc.context_save()

    # ----- memory ---------------------------------------------------------------------------

    def _map_memory(self) -> None:
        self.uc.mem_map(BOOT, ALIAS - BOOT)
        for start, end in ((0, BOOT), (BOOT_END, WINDOW_END)):
            read, write = partial(self._read, start), partial(self._write, start)
            self.uc.mmio_map(start, end - start, read, None, write, None)
            self.uc.mem_protect(start, end - start, uc.UC_PROT_ALL)  # MMIO is mapped without X
        self.uc.mmio_map(ALIAS, 0x1000, self._read_root, None, self._write_root, None)

    def _read(self, base: int, _uc: uc.Uc, offset: int, size: int, _data: object) -> int:
        if self.done:
            return 0
        if size == 1:
            self._finish(Answer(pa=base + offset))
            return HLT
        value = self.words.get(base + offset, 0)
        self.log.append(("R", base + offset, value))
        return value

    def _write(
        self, base: int, _uc: uc.Uc, offset: int, size: int, value: int, _data: object
    ) -> None:
        if self.done:
            return
        if size == 1:
            self._finish(Answer(pa=base + offset))
            return
        self.words[base + offset] = value
        self.log.append(("W", base + offset, value))

    def _read_root(self, engine: uc.Uc, offset: int, size: int, data: object) -> int:
        if self.live:
            return self._read(self.nested_cr3, engine, offset, size, data)
        return NESTED | TABLE if offset == 0 else 0

    def _write_root(self, engine: uc.Uc, offset: int, size: int, value: int, data: object) -> None:
        self._write(self.nested_cr3, engine, offset, size, value, data)

    def _write_code(self) -> None:
        for page in (KERNEL, USER):
            self.uc.mem_write(page + ARRIVAL, NOP)
            for offset, code in PROBES.values():
                for place, before in ((offset, NOP), (offset + WITH_KEYS, WRPKRU)):
                    self.uc.mem_write(page + place, before + code + NOP)
                    at = page + place + len(before)
                    self.uc.hook_add(uc.UC_HOOK_CODE, self._go_live, begin=at, end=at)
        for offset, code in (SYSEXIT, SYSEXIT64, VMRUN):
            self.uc.mem_write(KERNEL + offset, code)

    def _write_tables(self) -> None:
        """Map the two code pages in every mode, and under NPT the fourth GiB to itself."""
        wide = [(ROOT5, 0, ROOT4 | TABLE), (ROOT4, 0, PDPT | TABLE), (PDPT, 3, PD | TABLE)]
        wide += [(PAE_PDPT, 3, PD | 1), (PD, 511, PT | TABLE), (PT, 0x1F1, USER | TABLE)]
        wide += [(PT, 0x1F0, KERNEL | KERNEL_PAGE), (NESTED, 3, 0xC000_0000 | TABLE | LARGE)]
        narrow = [(LEGACY_PD, 1023, LEGACY_PT | TABLE), (LEGACY_PT, 0x3F1, USER | TABLE)]
        narrow += [(LEGACY_PT, 0x3F0, KERNEL | KERNEL_PAGE)]
        for form, entries in (("<Q", wide), ("<I", narrow)):
            for table, index, entry in entries:
                place = table + index * struct.calcsize(form)
                self.uc.mem_write(place, struct.pack(form, entry))

    # ----- the CPU at the probe -------------------------------------------------------------

    def _set(self, **values: int) -> None:
        """Write registers by their names; the general ones are 32 bits wide in narrow modes."""
        for name, value in values.items():
            wide = name if name.startswith("c") else ("e" if self.narrow else "r") + name
            self.uc.reg_write(getattr(x86, f"UC_X86_REG_{wide.upper()}"), value)

    def _set_msr(self, msr: int, value: int) -> None:
        self.uc.reg_write(x86.UC_X86_REG_MSR, (msr, value))

    def _context(self, cpl: int, host_nxe: int) -> "uc.UcContext":
        """The CPU with paging on at this CPL (of the guest, under NPT), about to probe."""
        key = (cpl, host_nxe)
        if key not in self._contexts:
            self.uc.context_restore(self._fresh)
            self._enter_paging(EFER_NXE if host_nxe else 0)
            if self.name == "npt":
                self._enter_guest(cpl)
            elif cpl == 3:
                self._enter_user()
            self._contexts[key] = self.uc.context_save()
        return self._contexts[key]

    def _enter_paging(self, efer: int) -> None:
        if not self.narrow:
            efer |= EFER_LME | (EFER_SVME if self.name == "npt" else 0)
        if self.name != "32bit":
            self._set(cr4=CR4_PAE | (CR4_LA57 if self.name == "5level" else 0))
        self._set_msr(MSR_EFER, efer)
        roots = {"32bit": LEGACY_PD, "pae": PAE_PDPT, "5level": ROOT5}
        self._set(cr3=roots.get(self.name, ROOT4), cr0=CR0_PG | CR0_PE | CR0_WP)

    def _enter_user(self) -> None:
        self._set_msr(MSR_SYSENTER_CS, 8)
        self._set(dx=USER + ARRIVAL, cx=USER)  # RIP and RSP there
        start, _ = SYSEXIT if self.narrow else SYSEXIT64
        self.uc.emu_start(KERNEL + start, USER + ARRIVAL)

    def _enter_guest(self, cpl: int) -> None:
        """VMRUN into 64-bit mode ("VMCB Layout"); the host runs the same boot tables."""
        arrival = (USER if cpl == 3 else KERNEL) + ARRIVAL
        fields = [(0x10, "B", 1), (0x58, "I", 1)]  # intercept VMRUN; ASID
        fields += [(0x90, "Q", 1), (0xB0, "Q", ALIAS)]  # nested paging and its CR3
        for segment, selector, attributes in ((0x410, 8, 0xA9B), (0x420, 16, 0xC93)):  # CS, SS
            fields += [(segment, "H", selector | cpl), (segment + 2, "H", attributes | cpl << 5)]
            fields += [(segment + 4, "I", 0xFFFF_FFFF)]
        fields += [(0x4CB, "B", cpl), (0x4D0, "Q", EFER_SVME | EFER_LMA | EFER_LME | EFER_NXE)]
        fields += [(0x548, "Q", CR4_PAE), (0x550, "Q", ROOT4), (0x570, "Q", 2)]  # RFLAGS last
        fields += [(0x558, "Q", CR0_PG | CR0_PE | CR0_WP), (0x578, "Q", arrival)]
        vmcb = bytearray(0x1000)
        for offset, form, value in fields:
            struct.pack_into("<" + form, vmcb, offset, value)
        self.uc.mem_write(VMCB, bytes(vmcb))
        self._set_msr(MSR_VM_HSAVE, HSAVE)
        self._set(ax=VMCB)
        self.uc.emu_start(KERNEL + VMRUN[0], arrival)

    # ----- one access -----------------------------------------------------------------------

    def run(self, words: dict[int, int], probe: Probe) -> None:
        """Restore the probe's context, load everything but CR3, and go."""
        self.live = self.done = False
        self.log.clear()
        self.uc.context_restore(self._context(probe.cpl, probe.nested[1] if probe.nested else 0))
        self.words, self.cr3 = words, probe.cr3
        self.nested_cr3 = probe.nested[0] if probe.nested else 0
        self._set_msr(MSR_EFER, probe.efer | (EFER_SVME if probe.nested else 0))
        self._set(cr4=probe.cr4, cr0=probe.cr0, flags=2 | probe.ac << 18, bx=probe.va)
        start = (USER if probe.cpl == 3 else KERNEL) + PROBES[probe.kind][0]
        end = start + 3
        if probe.cr4 & CR4_PKE:
            self._set(ax=probe.pkru, cx=0, dx=0)
            start += WITH_KEYS
            end = start + 5
        try:
            self.uc.emu_start(start, end)
        except uc.UcError:
            if not self.done:  # what becomes of the CPU after its access does not matter
                raise
        if not self.done:
            raise RuntimeError(f"the {probe.kind} of {probe.va:#x} neither arrived nor faulted")

    def _go_live(self, engine: uc.Uc, _address: int, _size: int, _data: object) -> None:
        self.live = True
        engine.reg_write(x86.UC_X86_REG_CR3, self.cr3)

    def _fault(self, engine: uc.Uc, vector: int, _data: object) -> None:
        if not self.done:
            answer = Answer(vector=vector)
            if vector == PF:
                answer.cr2 = engine.reg_read(x86.UC_X86_REG_CR2)
            elif vector == NPF:
                (answer.gpa,) = struct.unpack("<Q", engine.mem_read(VMCB + 0x80, 8))
            self.fault_state = engine.context_save().__getstate__()[0]
            self._finish(answer)
        engine.emu_stop()

    def _finish(self, answer: Answer) -> None:
        self.answer, self.done = answer, True
        self.uc.emu_stop()
