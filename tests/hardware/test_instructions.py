"""Privileged instructions: what they refuse, and what odd tables do on real hardware."""

import pytest

from kvmlab.base.errors import BadAddress, MachineCheck
from kvmlab.hardware import instructions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ept import decode_eptp
from kvmlab.hardware.processor import (
    CR0_CD,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Controls,
    Processor,
)
from kvmlab.hardware.ram import ALL_ONES, Ram
from kvmlab.hardware.records import (
    ControlWrite,
    ExitReason,
    GeneralProtection,
    Kind,
    PageFault,
    Step,
    VmExit,
)
from kvmlab.hardware.vmcs import Vmcs

ON, LONG = CR0_PE | CR0_PG, EFER_LME | EFER_LMA
ROOT, VA = 0x1000, 0x40_3123
PF_RESERVED = 9  # with P, which goes with it


class Recorded(Cpu):
    """A CPU that lists what it emits and its #GPs."""

    def __init__(self, ram_size=1 << 30, *, processor=None, **controls):
        self.records, self.faults = [], []
        super().__init__(Ram(ram_size), processor, tap=self.records.append)
        self.protection_fault_handler = self.faults.append
        self.start(Controls(**controls))

    def steps(self):
        return [one for one in self.records if isinstance(one, Step)]


def long_mode(**more):
    return {"cr0": ON, "cr3": ROOT, "cr4": CR4_PAE, "efer": LONG} | more


def pae(**more):
    return {"cr0": ON, "cr3": ROOT, "cr4": CR4_PAE} | more


# ----- impossible combinations: #GP(0), and nothing has changed -----------------------------

REFUSED = [
    ("PG without PE", {}, instructions.mov_cr0, CR0_PG),
    ("long mode without PAE", {"efer": EFER_LME}, instructions.mov_cr0, ON),
    ("leaving paging with PCIDE", long_mode(cr4=CR4_PAE | CR4_PCIDE), instructions.mov_cr0, CR0_PE),
    ("LA57 changes in long mode", long_mode(), instructions.mov_cr4, CR4_PAE | CR4_LA57),
    ("LA57 goes in long mode", long_mode(cr4=CR4_PAE | CR4_LA57), instructions.mov_cr4, CR4_PAE),
    ("PAE goes in long mode", long_mode(), instructions.mov_cr4, CR4_PGE),
    ("PCIDE outside long mode", pae(), instructions.mov_cr4, CR4_PAE | CR4_PCIDE),
    ("PCIDE in PCID 1", long_mode(cr3=ROOT | 1), instructions.mov_cr4, CR4_PAE | CR4_PCIDE),
    ("LME changes while paging", long_mode(), instructions.wrmsr_efer, EFER_NXE),
    ("LME comes while paging", pae(), instructions.wrmsr_efer, EFER_LME),
    ("CR3 beyond MAXPHYADDR", long_mode(), instructions.mov_cr3, 1 << 46 | ROOT),
    ("CR3 bit 63 without PCIDE", long_mode(), instructions.mov_cr3, 1 << 63 | ROOT),
]


@pytest.mark.parametrize(
    "controls, instruction, value",
    [pytest.param(*one[1:], id=one[0]) for one in REFUSED],
)
def test_an_impossible_value_is_refused_with_a_gp(controls, instruction, value):
    cpu = Recorded(**controls)
    before, key = Controls(**controls), cpu.context.key
    instruction(cpu, value)

    [fault] = cpu.faults
    assert isinstance(fault, GeneralProtection)
    assert f"{value:#x}" in fault.why or "EFER.LME is set and CR4.PAE is not" in fault.why
    assert cpu.controls == before
    assert cpu.context.key == key
    assert not [one for one in cpu.records if isinstance(one, ControlWrite)]


def test_without_a_handler_a_gp_is_the_end_and_says_why():
    cpu = Recorded(**long_mode())
    cpu.protection_fault_handler = None
    with pytest.raises(MachineCheck, match="CR3 0x400000001000 has bits beyond MAXPHYADDR 46"):
        instructions.mov_cr3(cpu, 1 << 46 | ROOT)


def test_la57_without_long_mode_waits_for_it():
    """The bit may be set before paging starts; PAE paging takes no notice of it."""
    cpu = Recorded(cr0=CR0_PE, cr3=ROOT)
    instructions.mov_cr4(cpu, CR4_PAE | CR4_LA57)
    instructions.mov_cr0(cpu, ON)
    assert (cpu.controls.mode, cpu.context.width, cpu.faults) == ("PAE", 32, [])

    instructions.mov_cr0(cpu, CR0_PE)
    instructions.wrmsr_efer(cpu, EFER_LME)
    assert not cpu.controls.efer & EFER_LMA
    instructions.mov_cr0(cpu, ON)
    assert (cpu.controls.mode, cpu.context.width, cpu.faults) == ("5-level", 57, [])
    assert cpu.controls.efer & EFER_LMA


def test_the_five_modes_are_entered_by_their_bits():
    modes = {}
    for cr4 in (0, CR4_PAE, CR4_PAE | CR4_LA57):
        for efer in (0, EFER_LME):
            cpu = Recorded(cr0=CR0_PE, cr3=ROOT, cr4=cr4, efer=efer)
            assert cpu.controls.mode == "none"
            instructions.mov_cr0(cpu, ON)
            modes[cr4, efer] = cpu.controls.mode
    assert modes == {
        (0, 0): "32-bit",
        (0, EFER_LME): "none",  # refused
        (CR4_PAE, 0): "PAE",
        (CR4_PAE, EFER_LME): "4-level",
        (CR4_PAE | CR4_LA57, 0): "PAE",
        (CR4_PAE | CR4_LA57, EFER_LME): "5-level",
    }


# ----- the PDPTE registers ------------------------------------------------------------------


@pytest.mark.parametrize("bit", [1, 2, 5, 6, 7, 8, 46, 52, 63])
def test_a_reserved_bit_of_a_pdpte_is_a_gp_of_the_instruction_that_loads_it(bit):
    cpu = Recorded(**pae())
    cpu.ram.store(0x2018, 0x3001 | 1 << bit)
    instructions.mov_cr3(cpu, 0x2000)

    [fault] = cpu.faults
    assert fault.why == f"PDPTE 3 is {0x3001 | 1 << bit:#x}: a reserved bit is set"
    assert cpu.controls.cr3 == ROOT


def test_an_absent_pdpte_may_hold_anything():
    cpu = Recorded(**pae())
    cpu.ram.store(0x2008, ALL_ONES - 1)
    instructions.mov_cr3(cpu, 0x2000)
    assert cpu.faults == []
    assert cpu.attempt(0x4000_0000, Kind.READ) == PageFault(0x4000_0000, 0, Kind.READ, user=False)
    assert cpu.steps() == []  # a PDPTE costs no reference


@pytest.mark.parametrize(
    "instruction, value",
    [
        pytest.param(instructions.mov_cr0, ON | CR0_CD, id="CR0.CD"),
        pytest.param(instructions.mov_cr4, CR4_PAE | CR4_PGE, id="CR4.PGE"),
        pytest.param(instructions.mov_cr4, CR4_PAE | CR4_PSE, id="CR4.PSE"),
        pytest.param(instructions.mov_cr4, CR4_PAE | CR4_SMEP, id="CR4.SMEP"),
    ],
)
def test_changes_of_control_registers_load_the_pdptes_again(instruction, value):
    cpu = Recorded(**pae())
    instructions.mov_cr3(cpu, ROOT)
    cpu.ram.store(ROOT, 0x3001)
    assert cpu.pdptes == (0, 0, 0, 0)  # memory has changed, the registers have not

    instruction(cpu, value)
    assert cpu.pdptes == (0x3001, 0, 0, 0)

    cpu.ram.store(ROOT, 0x3003)
    before = cpu.controls.cr0, cpu.controls.cr4
    instruction(cpu, value ^ (CR0_CD if instruction is instructions.mov_cr0 else CR4_SMEP))
    assert len(cpu.faults) == 1
    assert (cpu.controls.cr0, cpu.controls.cr4) == before
    assert cpu.pdptes == (0x3001, 0, 0, 0)


def test_a_change_of_wp_does_not_load_the_pdptes():
    cpu = Recorded(**pae())
    instructions.mov_cr3(cpu, ROOT)
    cpu.ram.store(ROOT, 0x3001)
    instructions.mov_cr0(cpu, ON | CR0_WP)
    assert cpu.pdptes == (0, 0, 0, 0)


def test_amd_under_nested_paging_reads_the_pdpte_on_each_walk():
    cpu = Recorded(processor=Processor(vendor="amd", pdptes_in_memory=True), **pae())
    instructions.mov_cr3(cpu, ROOT)
    cpu.ram.store(ROOT, 0x2001)
    cpu.ram.store(0x2000, 0x3003)
    cpu.ram.store(0x3000, 0x4003)
    assert cpu.attempt(0, Kind.READ) == 0x4000
    assert [one.level for one in cpu.steps()] == [3, 2, 1]
    cpu.ram.store(ROOT, 0x2003)  # bit 1 is reserved: here a #PF of the walk
    cpu.flush_tlb()
    assert cpu.attempt(0, Kind.READ) == PageFault(0, PF_RESERVED, Kind.READ, user=False)


def test_loading_pdptes_under_ept_may_exit_without_a_linear_address():
    exits = []

    def hypervisor(reason):
        exits.append(reason)
        assert cpu.vmcs is not None
        cpu.ram.store(0x10_0000, 0x10_1000 | 7)  # and down to a page of 1 GiB
        cpu.ram.store(0x10_1000, 0xB7)

    cpu = Recorded(cr0=CR0_PE)
    cpu.enter(Vmcs(hypervisor, Controls(**pae()), eptp=0x10_001E))
    instructions.mov_cr3(cpu, 0x2000)

    assert exits == [VmExit(ExitReason.EPT_VIOLATION, 1, 0, 0x2000)]
    assert cpu.controls.cr3 == 0x2000


# ----- odd tables: what hardware does -------------------------------------------------------


def test_nxe_off_makes_bit_63_reserved():
    refused = PageFault(VA, PF_RESERVED, Kind.READ, user=False)
    for efer, expected in ((LONG, refused), (LONG | EFER_NXE, 0x8123)):
        cpu = Recorded(**long_mode(efer=efer))
        for level in range(3):
            index = VA >> 39 - 9 * level & 511
            cpu.ram.store(ROOT + level * 0x1000 + index * 8, ROOT + (level + 1) * 0x1000 | 7)
        cpu.ram.store(ROOT + 0x3000 + (VA >> 12 & 511) * 8, 1 << 63 | 0x8007)
        assert cpu.attempt(VA, Kind.READ) == expected


@pytest.mark.parametrize("mode", [long_mode(), pae(), {"cr0": ON, "cr4": CR4_PSE}])
def test_a_root_outside_memory_reads_all_ones_so_reserved_bits_fault(mode):
    """Nobody answers on the bus.  In PAE mode the PDPTEs are read, and refused, beforehand."""
    cpu = Recorded(1 << 20, **mode)
    instructions.mov_cr3(cpu, 0x4000_0000)
    if cpu.controls.mode == "PAE":
        assert [one.why for one in cpu.faults] == [
            "PDPTE 0 is 0xffffffffffffffff: a reserved bit is set"
        ]
        return
    assert cpu.attempt(VA, Kind.READ) == PageFault(VA, PF_RESERVED, Kind.READ, user=False)
    [step] = cpu.steps()
    assert step.entry == (ALL_ONES if step.hpa % 8 == 0 and cpu.controls.long_mode else 0xFFFF_FFFF)


def test_a_table_outside_memory_does_so_too():
    cpu = Recorded(1 << 20, **long_mode())
    cpu.ram.store(ROOT, 0x4000_0007)
    assert cpu.attempt(VA, Kind.WRITE) == PageFault(VA, PF_RESERVED | 2, Kind.WRITE, user=False)
    assert [one.level for one in cpu.steps()] == [4, 3]
    assert cpu.ram.load(ROOT) == 0x4000_0007  # a faulting walk changes nothing


def test_32_bit_tables_outside_memory_lead_to_the_last_page_without_pse():
    """All ones is then a sound entry: present, writable, for users."""
    cpu = Recorded(1 << 20, cr0=ON, cr3=0x4000_0000)
    assert cpu.attempt(VA, Kind.READ) == 0xFFFF_F123


def test_a_page_outside_memory_is_the_business_of_the_access_not_of_the_walk():
    cpu = Recorded(1 << 20, **long_mode())
    for level in range(3):
        cpu.ram.store(ROOT + level * 0x1000, ROOT + (level + 1) * 0x1000 | 7)
    cpu.ram.store(ROOT + 0x3000, 0x4000_0007)
    assert cpu.load(0x8) == ALL_ONES
    cpu.store(0x8, 1)
    assert cpu.load(0x8) == ALL_ONES


def test_a_table_that_points_at_itself_ends_with_its_levels():
    """The recursive slot of some kernels: the root serves as every table, then as the page."""
    cpu = Recorded(**long_mode())
    cpu.ram.store(ROOT + 511 * 8, ROOT | 3)
    assert cpu.attempt(ALL_ONES - 7, Kind.WRITE) == ROOT + 0xFF8
    assert [(one.level, one.hpa) for one in cpu.steps()] == (
        [(level, ROOT + 511 * 8) for level in (4, 3, 2, 1)]
    )
    # one entry was table and page at once: A and D are both in it, set once each
    assert cpu.ram.load(ROOT + 511 * 8) == ROOT | 0x63


def test_an_ept_that_points_at_itself_ends_too():
    cpu = Recorded(cr0=CR0_PE)
    cpu.enter(Vmcs(lambda _exit: None, Controls(cr0=CR0_PE), eptp=ROOT | 0x1E))
    cpu.ram.store(ROOT, ROOT | 7)  # memory type 0: sound as a leaf, too
    assert cpu.attempt(0x123, Kind.READ) == ROOT | 0x123
    assert len(cpu.steps()) == 4


@pytest.mark.parametrize("width, gva", [(48, 0x8000_0000_0000), (57, 1 << 56), (48, 1 << 63)])
def test_a_non_canonical_address_is_a_gp_and_reads_nothing(width, gva):
    cr4 = CR4_PAE | (CR4_LA57 if width == 57 else 0)
    cpu = Recorded(**long_mode(cr4=cr4))
    assert cpu.attempt(gva, Kind.READ) == GeneralProtection(gva, "the address is not canonical")
    assert cpu.records == []
    assert cpu.controls.cr2 == 0


def test_linear_addresses_have_32_bits_outside_long_mode():
    cpu = Recorded(cr0=CR0_PE)
    assert cpu.attempt(0x1_0000_5123, Kind.READ) == 0x5123


# ----- invalidation that is refused, or does nothing ----------------------------------------


@pytest.mark.parametrize(
    "controls, arguments, text",
    [
        (long_mode(), (0, 5), "INVPCID names PCID 0x5 while CR4.PCIDE is 0"),
        (long_mode(), (4,), "INVPCID type 4, PCID 0x0"),
        (long_mode(cr4=CR4_PAE | CR4_PCIDE), (1, 0x1000), "INVPCID type 1, PCID 0x1000"),
        (long_mode(), (0, 0, 1 << 63), "INVPCID address 0x8000000000000000 is not canonical"),
    ],
)
def test_invpcid_refuses_what_it_cannot_mean(controls, arguments, text):
    cpu = Recorded(**controls)
    instructions.invpcid(cpu, *arguments)
    assert [one.why.startswith(text) for one in cpu.faults] == [True]
    assert cpu.records == cpu.faults


def test_every_address_of_32_bits_is_canonical_to_invpcid():
    cpu = Recorded(cr0=ON, cr3=ROOT)
    instructions.invpcid(cpu, 0, 0, 0xC000_0000)
    assert cpu.faults == []


@pytest.mark.parametrize("arguments", [(0, 0), (1, 0), (3, 0), (4, 1), (0, 1, 1 << 63)])
def test_invvpid_fails_for_vpid_0_and_for_what_does_not_exist(arguments):
    assert not instructions.invvpid(Recorded(), *arguments)


@pytest.mark.parametrize("kind", [0, 3])
def test_invept_fails_for_types_that_do_not_exist(kind):
    assert not instructions.invept(Recorded(), kind)


# ----- misuse -------------------------------------------------------------------------------


@pytest.mark.parametrize("eptp", [0x10_0019, 0x10_0016, 0x10_002E, 0x10_011E, 1 << 46 | 0x1E])
def test_an_eptp_that_fails_vm_entry_is_named_in_hex(eptp):
    with pytest.raises(MachineCheck, match=f"EPTP {eptp:#x} needs"):
        decode_eptp(eptp, Processor(maxphyaddr=46))
    cpu = Recorded(cr0=CR0_PE)
    with pytest.raises(MachineCheck, match=f"EPTP {eptp:#x} needs"):
        cpu.enter(Vmcs(lambda _exit: None, Controls(), eptp=eptp))


def test_a_store_to_a_misaligned_entry_is_misuse():
    cpu = Recorded()
    with pytest.raises(BadAddress, match="0x1003"):
        cpu.ram.store(0x1003, 7)
    with pytest.raises(BadAddress, match="0x1002"):
        cpu.ram.store4(0x1002, 7)
    assert cpu.ram.image() == {}


def test_an_exit_outside_a_vm_is_misuse():
    with pytest.raises(MachineCheck, match="outside VMX non-root"):
        Recorded().exit(VmExit(ExitReason.INVLPG, 0, 0, 0), None)
