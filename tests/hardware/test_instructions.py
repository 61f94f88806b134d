"""Privileged instructions: what they refuse, and when they load the PDPTE registers."""

import pytest

from kvmlab.base.errors import BadAddress, MachineCheck
from kvmlab.hardware import instructions
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
from kvmlab.hardware.ram import ALL_ONES
from kvmlab.hardware.records import (
    ControlWrite,
    ExitReason,
    GeneralProtection,
    Kind,
    PageFault,
    VmExit,
)
from kvmlab.hardware.vmcs import Vmcs
from tests.recorded_cpu import ON, ROOT, Recorded, long_mode, pae

PF_RESERVED = 9  # with P, which goes with it


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
    assert f"{value:#x}" in fault.why
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
    assert cpu.controls.pdptes == (0, 0, 0, 0)  # memory has changed, the registers have not

    instruction(cpu, value)
    assert cpu.controls.pdptes == (0x3001, 0, 0, 0)

    cpu.ram.store(ROOT, 0x3003)
    before = cpu.controls.cr0, cpu.controls.cr4
    instruction(cpu, value ^ (CR0_CD if instruction is instructions.mov_cr0 else CR4_SMEP))
    assert len(cpu.faults) == 1
    assert (cpu.controls.cr0, cpu.controls.cr4) == before
    assert cpu.controls.pdptes == (0x3001, 0, 0, 0)


def test_a_change_of_wp_does_not_load_the_pdptes():
    cpu = Recorded(**pae())
    instructions.mov_cr3(cpu, ROOT)
    cpu.ram.store(ROOT, 0x3001)
    instructions.mov_cr0(cpu, ON | CR0_WP)
    assert cpu.controls.pdptes == (0, 0, 0, 0)


def test_amd_under_nested_paging_reads_the_pdpte_on_each_walk():
    cpu = Recorded(processor=Processor(vendor="amd", pdptes_in_memory=True), **pae())
    instructions.mov_cr3(cpu, ROOT)
    cpu.cpl = 3
    cpu.ram.store(ROOT, 0x2001)
    cpu.ram.store(0x2000, 0x3007)
    cpu.ram.store(0x3000, 0x4007)
    assert cpu.attempt(0, Kind.WRITE) == 0x4000  # a PDPTE takes no rights away
    assert [one.level for one in cpu.steps()] == [3, 2, 1]
    assert cpu.ram.load(ROOT) == 0x2001  # and has no A bit
    cpu.cpl = 0
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
    assert cpu.vmcs is None
    assert cpu.attempt(0x123, Kind.READ) == 0x123


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
