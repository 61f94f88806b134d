"""What each instruction drops from the TLB: the minimum that the SDM demands, row by row."""

import pytest

from kvmlab.hardware import instructions
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    Controls,
)
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import ExitReason, Kind, PageFault, VmExit
from kvmlab.hardware.tlb import GLOBAL, UNIFIED, Tag, TlbEntry
from kvmlab.hardware.vmcs import Instruction, Vmcs
from tests.tlb_under_test import EPTPS

ROOT_A, ROOT_B = (EPTPS[name] & ~0xFFF for name in "AB")

PAGE, OTHER = 0x5000, 0x6000
HELD = {
    "own": (PAGE, Tag(1, 1, ROOT_A)),
    "own, other page": (OTHER, Tag(1, 1, ROOT_A)),
    "other PCID": (PAGE, Tag(1, 2, ROOT_A)),
    "PCID 0": (PAGE, Tag(1, 0, ROOT_A)),
    "global": (PAGE, Tag(1, GLOBAL, ROOT_A)),
    "global, other page": (OTHER, Tag(1, GLOBAL, ROOT_A)),
    "other EPT root": (PAGE, Tag(1, 1, ROOT_B)),
    "without EPT": (PAGE, Tag(1, 1, 0)),
    "other VPID": (PAGE, Tag(2, 1, ROOT_A)),
    "other VPID, global": (PAGE, Tag(2, GLOBAL, ROOT_A)),
    "host": (PAGE, Tag(0, 1, 0)),
    "host, global": (PAGE, Tag(0, GLOBAL, 0)),
}
GUEST = {name for name, (_, tag) in HELD.items() if tag.vpid == 1}
GLOBALS = {"global", "global, other page"}
COMBINED = {name for name, (_, tag) in HELD.items() if tag.ept_root}
ROOT_A_ALONE = COMBINED - {"other EPT root"}
PCID_1 = {"own", "own, other page", "other EPT root", "without EPT"}
PAGE_OF_VPID_1 = GUEST - {"own, other page", "global, other page"}
PAGE_OF_PCID_1 = PCID_1 - {"own, other page"}
LONG = {"cr0": CR0_PE | CR0_PG, "efer": EFER_LME | EFER_LMA}
CR4 = CR4_PAE | CR4_PGE


def exit_and_enter(cpu):
    cpu.exit(VmExit(ExitReason.CR_ACCESS, 0, 0, 0), Instruction(Kind.READ, 0, 8))


def fault(cpu):
    assert isinstance(cpu.attempt(PAGE, Kind.WRITE), PageFault)


OPERATIONS = [
    ("INVLPG", lambda c: instructions.invlpg(c, PAGE), PAGE_OF_PCID_1 | {"global"}),
    ("INVLPG, not canonical", lambda c: instructions.invlpg(c, 1 << 63 | PAGE), set()),
    ("MOV CR3 to PCID 2", lambda c: instructions.mov_cr3(c, 0x1002), {"other PCID"}),
    ("MOV CR3, bit 63", lambda c: instructions.mov_cr3(c, 1 << 63 | 0x1002), set()),
    ("INVPCID 0", lambda c: instructions.invpcid(c, 0, 1, PAGE), PAGE_OF_PCID_1),
    ("INVPCID 0, other PCID", lambda c: instructions.invpcid(c, 0, 2, PAGE), {"other PCID"}),
    ("INVPCID 1", lambda c: instructions.invpcid(c, 1, 1), PCID_1),
    ("INVPCID 2", lambda c: instructions.invpcid(c, 2), GUEST),
    ("INVPCID 3", lambda c: instructions.invpcid(c, 3), GUEST - GLOBALS),
    ("MOV CR4, PGE", lambda c: instructions.mov_cr4(c, CR4_PAE | CR4_PCIDE), GUEST),
    ("MOV CR4, PCIDE 1 to 0", lambda c: instructions.mov_cr4(c, CR4), GUEST),
    ("MOV CR4, SMEP", lambda c: instructions.mov_cr4(c, CR4 | CR4_PCIDE | CR4_SMEP), PCID_1),
    ("#PF", fault, PAGE_OF_PCID_1 | {"global"}),
    ("VM exit and entry", exit_and_enter, set()),
    ("INVVPID 0", lambda c: instructions.invvpid(c, 0, 1, PAGE), PAGE_OF_VPID_1),
    ("INVVPID 1", lambda c: instructions.invvpid(c, 1, 1), GUEST),
    ("INVVPID 2", lambda c: instructions.invvpid(c, 2), set(HELD) - {"host", "host, global"}),
    ("INVVPID 3", lambda c: instructions.invvpid(c, 3, 1), GUEST - GLOBALS),
    ("INVEPT 1", lambda c: instructions.invept(c, 1, ROOT_A | 0x1E), ROOT_A_ALONE),
    ("INVEPT 2", lambda c: instructions.invept(c, 2), COMBINED),
]


def guest_cpu(**vmcs):
    """A guest in PCID 1 over empty memory, so that each of its walks ends in a #PF."""
    cpu = Cpu(Ram(1 << 30), geometry=UNIFIED)
    controls = Controls(cr3=0x1001, cr4=CR4 | CR4_PCIDE, **LONG)
    cpu.enter(Vmcs(lambda _exit: None, controls, **vmcs))
    for gva, tag in HELD.values():
        allows = 0  # so that an access does not hit
        cpu.tlb.fill(TlbEntry(gva >> 12, 0, 12, 0xF, allows, 0, tag, span=12), fetch=False)
    return cpu


@pytest.mark.parametrize("name, operation, dropped", OPERATIONS, ids=[one[0] for one in OPERATIONS])
def test_an_operation_drops_what_it_must_and_nothing_else(name, operation, dropped):
    # EPT would refuse the guest's tables before there is a #PF.  The SDM asks it to drop the
    # mappings of the current EPT root; that it drops those of all roots, as INVLPG, is allowed.
    cpu = guest_cpu(vpid=1, eptp=None if name == "#PF" else EPTPS["A"])
    operation(cpu)
    left = {(one.vpn << 12, one.tag) for one in cpu.tlb.entries()}
    gone = {held for held, kept in HELD.items() if kept not in left}
    assert gone == dropped


def test_without_vpid_a_transition_drops_all_of_vpid_0_and_nothing_else():
    cpu = guest_cpu(vpid=0)
    exit_and_enter(cpu)
    assert {one.tag.vpid for one in cpu.tlb.entries()} == {1, 2}


def test_mov_cr3_without_pcids_drops_pcid_0_alone():
    cpu = guest_cpu(vpid=1)
    cpu.controls.cr4, cpu.controls.cr3 = CR4, 0x1000
    cpu.refresh()
    instructions.mov_cr3(cpu, 0x1000)
    left = {(one.vpn << 12, one.tag) for one in cpu.tlb.entries()}
    assert {name for name, kept in HELD.items() if kept not in left} == {"PCID 0"}


def test_entering_paging_drops_what_was_cached_without_it():
    """Under EPT a linear address is guest-physical then: no translation by the guest's tables."""
    cpu = guest_cpu(vpid=1)
    cpu.controls.cr0, cpu.controls.cr4 = CR0_PE, CR4
    cpu.refresh()
    instructions.mov_cr0(cpu, CR0_PE | CR0_PG)
    assert {one.tag.vpid for one in cpu.tlb.entries()} == {0, 2}


def test_leaving_paging_drops_everything_of_the_guest():
    cpu = guest_cpu(vpid=1)
    cpu.controls.cr4, cpu.controls.cr3 = CR4, 0x1000
    cpu.refresh()
    instructions.mov_cr0(cpu, CR0_PE)
    assert {one.tag.vpid for one in cpu.tlb.entries()} == {0, 2}
