"""A bare guest with CR0.WP, SMEP, SMAP, NX and paging itself switched on and off, in every mode.

It runs on the metal, under EPT and under each shadow policy, and what it sees is the same: what
it loads, its page faults, and its memory with the A and D bits of its tables.  It flushes what
it changes, as the SDM demands, so there is one right answer.
"""

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.instructions import invlpg, mov_cr0, mov_cr3, mov_cr4, wrmsr_efer
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Controls,
)
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Kind, PageFault
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.policy import POLICIES
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm

MEMORY, HOST_MEMORY = 16 << 20, 48 << 20
PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, GLOBAL, XD = 1, 2, 4, 32, 64, 128, 256, 1 << 63
TABLE = PRESENT | WRITABLE | USER | ACCESSED
PML5, PML4, PDPT, PD, PT, WINDOW = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000
FRAMES, LARGE_FRAME, PAGES = 0x10_0000, 0x40_0000, 6
LONG = EFER_LME | EFER_LMA


@dataclass(frozen=True)
class Mode:
    """A paging mode: its registers, and how its tables hang together."""

    cr3: int
    cr4: int
    efer: int
    entry: int  # bytes
    upper: tuple  # (table, what its first entry is) above the page directory

    @property
    def large_shift(self):
        return 22 if self.entry == 4 else 21

    def tables(self):
        """PT for the pages, a large page, and a window through which the tables are written."""
        words = dict(self.upper)
        words |= {PD: PT | TABLE, PD + self.entry: LARGE_FRAME | TABLE | LARGE}
        words |= {PD + 2 * self.entry: WINDOW | TABLE}
        for page in range(PAGES):
            words[PT + self.entry * page] = FRAMES + (page << 12) | TABLE
        for page in range(8):
            words[WINDOW + self.entry * page] = page << 12 | PRESENT | WRITABLE | ACCESSED | DIRTY
        return words


MODES = {
    "32-bit": Mode(PD, CR4_PSE, 0, 4, ()),
    "PAE": Mode(PDPT, CR4_PAE, 0, 8, ((PDPT, PD | PRESENT),)),
    "4-level": Mode(PML4, CR4_PAE, LONG, 8, ((PML4, PDPT | TABLE), (PDPT, PD | TABLE))),
    "5-level": Mode(
        PML5,
        CR4_PAE | CR4_LA57,
        LONG,
        8,
        ((PML5, PML4 | TABLE), (PML4, PDPT | TABLE), (PDPT, PD | TABLE)),
    ),
}

KINDS, PAGE = st.sampled_from(Kind), st.integers(0, PAGES)  # the last one is the large page
CPL = st.sampled_from([0, 3])
FLAGS = st.sets(st.sampled_from([PRESENT, PRESENT, WRITABLE, USER, ACCESSED, DIRTY, XD])).map(sum)
ACCESS = st.tuples(st.just("access"), CPL, KINDS, PAGE, st.integers(0, 255))
OPERATIONS = st.lists(
    st.one_of(
        ACCESS,
        ACCESS,
        ACCESS,
        st.tuples(st.just("pte"), st.integers(0, PAGES - 1), FLAGS),
        st.tuples(st.just("pte"), st.integers(0, PAGES - 1), FLAGS, st.just("MOV CR3")),
        st.tuples(st.just("pde"), st.integers(0, 1), FLAGS),
        st.tuples(st.just("toggle"), st.sampled_from(["WP", "WP", "SMEP", "SMAP", "NXE"])),
        st.tuples(st.just("cr3")),
        st.tuples(st.just("paging off"), CPL, KINDS, PAGE),
    ),
    min_size=4,
    max_size=60,
)


class _FaultedError(Exception):
    """The guest took a #PF; its program goes on behind the instruction."""


class Bare:
    """One bare guest under one design."""

    def __init__(self, mode, design):
        self.mode, self.seen = mode, []
        boot = Controls(
            cr0=CR0_PE | CR0_PG | CR0_WP, cr3=mode.cr3, cr4=mode.cr4, efer=mode.efer | EFER_NXE
        )
        if design == "native":
            self.vm, self.cpu = None, Cpu(Ram(MEMORY))
            self.write = self.cpu.ram.write
        else:
            host = Host(Ram(HOST_MEMORY), lambda _record: None)
            process = host.process()
            self.vm = Vm(host, process, lambda _record: None)
            self.vm.set_region(0, 0, MEMORY, process.mmap(MEMORY))
            self.write, self.cpu = self.vm.write, Cpu(host.ram)
        for gpa, word in mode.tables().items():
            self.write(gpa, word.to_bytes(mode.entry, "little"))
        self.cpu.page_fault_handler = self.page_fault
        if self.vm is None:
            self.cpu.start(boot)
        else:
            self.vcpu = Vcpu(self.cpu, boot, lambda vcpu: self.mmu(vcpu, boot, design))
        mov_cr3(self.cpu, mode.cr3)

    def mmu(self, vcpu, boot, design):
        if design == "ept":
            return EptMmu(self.vm, vcpu.vmcs, self.cpu)
        policy = next(one for one in POLICIES if one.name == design)
        return ShadowMmu(self.vm, vcpu.vmcs, self.cpu, boot, policy)

    def page_fault(self, fault):
        self.seen.append((fault.gva, fault.error_code, self.cpu.registers.cr0))
        raise _FaultedError

    def run(self, operations):
        """What the guest saw, and its memory at the end."""
        do = {
            "access": self.access,
            "pte": self.set_pte,
            "pde": self.set_pde,
            "toggle": self.toggle,
            "cr3": lambda: mov_cr3(self.cpu, self.mode.cr3),
            "paging off": self.paging_off,
        }
        for name, *arguments in operations:
            try:
                do[name](*arguments)
            except _FaultedError:
                self.cpu.cpl = 0
        return self.seen, self.memory()

    def memory(self):
        pages = [*range(PML5, WINDOW + 0x1000, 0x1000), LARGE_FRAME]
        pages += range(FRAMES, FRAMES + (PAGES << 12), 0x1000)
        if self.vm is None:
            return {gpa: self.cpu.ram.read(gpa, 4096) for gpa in pages}
        backed = {gpa: self.vm.back(gpa).host.address for gpa in pages}
        return {gpa: self.cpu.ram.read(hpa, 4096) for gpa, hpa in backed.items()}

    def access(self, cpl, kind, page, value):
        address = (page << 12) + 8 if page < PAGES else (1 << self.mode.large_shift) + 8
        self.touch(cpl, kind, address, value)

    def touch(self, cpl, kind, address, value=0):
        self.cpu.cpl = cpl
        if kind is Kind.FETCH:
            self.cpu.access(address, kind)
        elif kind is Kind.READ:
            self.seen.append(self.cpu.load(address, 4))
        else:
            self.cpu.store(address, value, 4)
        self.cpu.cpl = 0

    def set_pte(self, page, flags, flush="INVLPG"):
        self.store_entry(PT + self.mode.entry * page, FRAMES + (page << 12), flags)
        if flush == "INVLPG":
            invlpg(self.cpu, page << 12)
        else:
            mov_cr3(self.cpu, self.mode.cr3)

    def set_pde(self, number, flags):
        target = LARGE_FRAME | LARGE if number else PT
        self.store_entry(PD + self.mode.entry * number, target, flags)
        mov_cr3(self.cpu, self.mode.cr3)

    def store_entry(self, gpa, target, flags):
        flags = flags & ~XD if self.mode.entry == 4 else flags
        window = 2 << self.mode.large_shift
        self.cpu.store(window + gpa, target | flags, self.mode.entry)

    def toggle(self, name):
        seen = self.cpu.registers
        if name == "WP":
            mov_cr0(self.cpu, seen.cr0 ^ CR0_WP)
        elif name == "NXE":
            wrmsr_efer(self.cpu, seen.efer ^ EFER_NXE)
            mov_cr3(self.cpu, self.mode.cr3)
        else:
            mov_cr4(self.cpu, seen.cr4 ^ (CR4_SMEP if name == "SMEP" else CR4_SMAP))

    def paging_off(self, cpl, kind, page):
        """Outside long mode paging may go off for a while, and addresses be physical."""
        if self.mode.efer:
            return
        mov_cr0(self.cpu, self.cpu.registers.cr0 & ~CR0_PG)
        self.touch(cpl, kind, FRAMES + (page << 12) + 8)
        mov_cr0(self.cpu, self.cpu.registers.cr0 | CR0_PG)


READ_ONLY, KERNEL_WRITES = TABLE & ~WRITABLE, ("access", 0, Kind.WRITE, 0, 7)
ALTERNATING = [
    ("pte", 0, READ_ONLY),
    ("toggle", "WP"),
    *[KERNEL_WRITES, ("access", 3, Kind.READ, 0, 0), ("access", 3, Kind.WRITE, 0, 9)] * 2,
    ("access", 0, Kind.FETCH, 0, 0),
    ("toggle", "WP"),
    KERNEL_WRITES,
]
READ = ("access", 0, Kind.READ, 0, 0)
SMAP_AFTER = [("pte", 0, READ_ONLY), ("toggle", "WP"), KERNEL_WRITES, ("toggle", "SMAP"), READ]
OUT_OF_STEP = [READ, ("pte", 0, READ_ONLY), READ, ("pte", 0, USER, "MOV CR3"), READ]
XD_BECOMES_RESERVED = [("pte", 0, TABLE | DIRTY | XD), READ, ("toggle", "NXE"), READ]


@pytest.mark.parametrize("name", MODES)
@settings(max_examples=15)
@given(operations=OPERATIONS)
@example(operations=ALTERNATING)
@example(operations=[("toggle", "SMEP"), *ALTERNATING])
@example(operations=[("toggle", "WP"), KERNEL_WRITES, ("pde", 0, READ_ONLY), *ALTERNATING])
@example(operations=SMAP_AFTER)
@example(operations=XD_BECOMES_RESERVED)
@example(operations=OUT_OF_STEP)
def test_a_bare_guest_sees_the_same_on_every_design(name, operations):
    native = Bare(MODES[name], "native").run(operations)
    for design in ("ept", *(one.name for one in POLICIES)):
        assert Bare(MODES[name], design).run(operations) == native, design


def test_the_alternation_would_show_if_it_were_wrong():
    """With WP clear the kernel's stores arrive, and the user's are refused."""
    seen, memory = Bare(MODES["PAE"], "native").run(ALTERNATING)
    refused = PageFault(8, 7, Kind.WRITE, user=True)
    codes = [(one[0], one[1]) for one in seen if isinstance(one, tuple)]
    assert codes == [(8, refused.error_code)] * 2 + [(8, 3)]
    assert [one for one in seen if not isinstance(one, tuple)] == [7, 7]
    assert memory[FRAMES][8] == 7


DESIGNS = ("native", "ept", *(one.name for one in POLICIES))


@pytest.mark.parametrize("name", ["32-bit", "PAE"])
@pytest.mark.parametrize("design", DESIGNS)
def test_one_address_means_two_things_with_paging_on_and_off(name, design):
    """Nothing cached on one side is used on the other."""
    guest = Bare(MODES[name], design)
    guest.write(0, (5).to_bytes(4, "little"))
    guest.cpu.store(0, 7, 4)
    for _ in range(2):
        mov_cr0(guest.cpu, guest.cpu.registers.cr0 & ~CR0_PG)
        assert guest.cpu.load(0, 4) == 5
        mov_cr0(guest.cpu, guest.cpu.registers.cr0 | CR0_PG)
        assert guest.cpu.load(0, 4) == 7


@pytest.mark.parametrize("design", DESIGNS)
def test_paging_begins_with_the_pdptes_that_cr3_names_then(design):
    """SDM, "PDPTE Registers": loaded as PG is set; #GP if one has a reserved bit."""
    guest, other = Bare(MODES["PAE"], design), 0x9000
    words = {other: 0xA001, 0xA000: 0xB000 | TABLE, 0xB000: FRAMES + 0x1000 | TABLE}
    words |= {FRAMES: 1, FRAMES + 0x1000: 2, other + 8: 0xA000}
    for gpa, word in words.items():
        guest.write(gpa, word.to_bytes(8, "little"))
    assert guest.cpu.load(0, 4) == 1
    mov_cr0(guest.cpu, guest.cpu.registers.cr0 & ~CR0_PG)
    mov_cr3(guest.cpu, other)
    mov_cr0(guest.cpu, guest.cpu.registers.cr0 | CR0_PG)
    assert guest.cpu.load(0, 4) == 2
    mov_cr0(guest.cpu, guest.cpu.registers.cr0 & ~CR0_PG)
    guest.write(other + 8, (0xA003).to_bytes(8, "little"))
    faults = []
    guest.cpu.protection_fault_handler = faults.append
    mov_cr0(guest.cpu, guest.cpu.registers.cr0 | CR0_PG)
    assert "PDPTE 1 is 0xa003" in faults[0].why
    assert not guest.cpu.registers.paging


@pytest.mark.parametrize("design", DESIGNS)
def test_a_mov_to_cr4_that_exits_for_one_bit_flushes_for_another(design):
    """PGE drops global translations too, whatever else the same MOV changes."""
    guest = Bare(MODES["4-level"], design)
    for number in range(2):
        guest.write(FRAMES + (number << 12), number.to_bytes(8, "little"))
    mov_cr4(guest.cpu, guest.cpu.registers.cr4 | CR4_PGE | CR4_SMEP)
    guest.store_entry(PT, FRAMES, TABLE | DIRTY | GLOBAL)
    assert guest.cpu.load(0, 4) == 0
    guest.store_entry(PT, FRAMES + 0x1000, TABLE | DIRTY | GLOBAL)
    mov_cr4(guest.cpu, guest.cpu.registers.cr4 & ~(CR4_PGE | CR4_SMEP))
    assert guest.cpu.load(0, 4) == 1


@pytest.mark.parametrize("design", DESIGNS)
def test_lma_is_set_as_paging_begins_in_long_mode(design):
    guest = Bare(MODES["PAE"], design)
    guest.write(PML4, (PDPT | TABLE).to_bytes(8, "little"))
    mov_cr0(guest.cpu, guest.cpu.registers.cr0 & ~CR0_PG)
    wrmsr_efer(guest.cpu, guest.cpu.registers.efer | EFER_LME)
    mov_cr3(guest.cpu, PML4)
    assert not guest.cpu.registers.efer & EFER_LMA
    mov_cr0(guest.cpu, guest.cpu.registers.cr0 | CR0_PG)
    assert guest.cpu.registers.efer & EFER_LMA
