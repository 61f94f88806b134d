"""Roots and tables that point outside memory or at themselves, and addresses that fit nowhere."""

import pytest

from kvmlab.hardware import instructions
from kvmlab.hardware.processor import CR0_PE, CR4_LA57, CR4_PAE, CR4_PSE, EFER_NXE, Controls
from kvmlab.hardware.ram import ALL_ONES
from kvmlab.hardware.records import AccessedDirty, GeneralProtection, Kind, PageFault, VmExit
from kvmlab.hardware.vmcs import Vmcs
from tests.recorded_cpu import LONG, ON, ROOT, Recorded, long_mode, pae

VA = 0x40_3123
PF_RESERVED = 9  # with P, which goes with it


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
    changes = [one.new & 0xFF for one in cpu.records if isinstance(one, AccessedDirty)]
    assert changes == [0x23, 0x63]


def test_an_accessed_bit_that_was_set_by_another_name_need_not_be_set():
    """The same table at two guest-physical addresses; EPT lets nobody write at the second."""
    first, second, host = 0x1000, 0x2000, 0x8000
    cpu = Recorded(cr0=CR0_PE)
    for level in range(3):
        cpu.ram.store(0x10_0000 + level * 0x1000, 0x10_1000 + level * 0x1000 | 7)
    cpu.ram.store(0x10_3000 + first // 512, host | 0x37)
    cpu.ram.store(0x10_3000 + second // 512, host | 0x35)
    cpu.ram.store(host, second | 3)
    cpu.enter(Vmcs(lambda _exit: None, Controls(**long_mode(cr3=first)), eptp=0x10_001E))

    assert cpu.attempt(0x123, Kind.READ) == host | 0x123
    assert cpu.ram.load(host) == second | 0x23
    # without the first name, the second one refuses
    cpu.ram.store(host, second | 3)
    cpu.flush_tlb()
    cpu.controls.cr3 = second
    cpu.refresh()
    refused = cpu.attempt(0x123, Kind.READ)
    assert isinstance(refused, VmExit)
    assert (refused.qualification, refused.gpa) == (0xAB, second)


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
