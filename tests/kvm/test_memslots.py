"""Memslots: GPA -> HVA is arithmetic, and slots do not overlap."""

import pytest

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, KvmlabError, MachineCheck, Overlap
from kvmlab.hardware.records import Kind
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, READONLY, Memslot, Memslots
from kvmlab.machine import Machine
from tests.memslots_under_test import MemslotsUnderTest


def test_hva_is_the_slots_base_plus_the_offset():
    slots = Memslots()
    slots.set_region(0, 0x10_0000, 0x20_0000, 0x7F00_0000_0000)
    assert slots.find(0x12_3456).hva_of(0x12_3456) == 0x7F00_0002_3456
    assert slots.find(0xF_FFFF) is None
    assert slots.find(0x30_0000) is None


@pytest.mark.parametrize("start, size", [(0x10_0000, 1), (0x2F_F000, 1), (0, 0x101), (0, 0x400)])
def test_an_overlapping_slot_is_refused_and_changes_nothing(start, size):
    slots = Memslots()
    slots.set_region(0, 0x10_0000, 0x20_0000, 0x7F00_0000_0000)
    with pytest.raises(Overlap, match=r"overlaps slot 0 at 0x100000 to 0x2fffff"):
        slots.set_region(1, start, size * 4096, 0x7E00_0000_0000)
    assert [one.slot for one in slots] == [0]


def test_adjacent_slots_are_fine():
    slots = Memslots()
    slots.set_region(0, 0x10_0000, 0x1000, 0x7F00_0000_0000)
    slots.set_region(1, 0x10_1000, 0x1000, 0x7E00_0000_0000)
    assert slots.find(0x10_1000).slot == 1


def test_misaligned_slots_are_refused():
    slots = Memslots()
    with pytest.raises(BadAddress, match="0x123"):
        slots.set_region(0, 0x123, 0x1000, 0)
    with pytest.raises(BadSize, match="0x800"):
        slots.set_region(0, 0, 0x800, 0)


@pytest.mark.parametrize(
    "gpa, size, hva, shift, large",
    [
        (0, 1 << 30, 0x4000_0000, 21, True),
        (0, 1 << 30, 0x4000_0000, 30, True),
        (0, 1 << 30, 0x4000_1000, 21, False),  # guest frame and HVA are not congruent
        (0x20_0000, 0x20_0000, 0x20_0000, 21, True),
        (0x20_0000, 0x1F_F000, 0x20_0000, 21, False),  # the slot ends inside the large page
    ],
)
def test_a_large_leaf_needs_congruence_and_the_whole_range_in_the_slot(
    gpa, size, hva, shift, large
):
    assert Memslot(0, gpa, size, hva).allows_large(gpa + 0x5000, shift) is large


def test_memory_above_the_pcs_hole_lies_above_4_gib():
    machine = Machine("ept", guest_memory="4G", host_memory="8G", guest_page="2M", host_page="2M")
    assert [(one.gpa, one.size) for one in machine.vm.slots] == [(0, 3 << 30), (4 << 30, 1 << 30)]


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_a_read_outside_every_slot_gives_all_ones_and_a_write_is_lost(mmu):
    machine = Machine(mmu)
    process = machine.guest.spawn("driver")
    machine.guest.switch(process)
    hole = 0xFEB0_0000
    machine.guest.tables.map(process.root, 0x5000_0000, hole, 12, 0x67)
    machine.guest.store(0x5000_0000, 0x1234)
    assert machine.guest.load(0x5000_0000) == (1 << 64) - 1
    machine.guest.touch(0x5000_0000, Kind.READ)


@pytest.mark.parametrize(
    "request_, error",
    [
        ((1, 0, 0, 0), BadChoice),  # nothing to delete
        ((0, 0x10_0000, 0x20_0000, 0x7F00_0000_0000, READONLY), BadChoice),
        ((0, 0x10_0000, 0x30_0000, 0x7F00_0000_0000), BadChoice),
        ((1, 1 << 52, 0x1000, 0), BadAddress),
        ((1, 0, 0x1000, 1 << 47), BadAddress),
        ((32764, 0, 0x1000, 0), BadChoice),
        ((2 << 16, 0, 0x1000, 0), BadChoice),
        ((1, 0, 0x1000, 0, 4), BadChoice),
        ((1, 1 << 44, 1 << 43, 0), BadSize),
    ],
)
def test_a_refused_request_changes_nothing(request_, error):
    slots = Memslots()
    slots.set_region(0, 0x10_0000, 0x20_0000, 0x7F00_0000_0000)
    before = list(slots)
    with pytest.raises(error) as refused:
        slots.set_region(*request_)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, KvmlabError)
    assert list(slots) == before


def test_a_slot_moves_is_logged_and_is_deleted():
    slots = Memslots()
    assert slots.set_region(0, 0, 0x1000, 0x7F00_0000_0000) is None
    assert slots.set_region(0, 0, 0x1000, 0x7F00_0000_0000, LOG_DIRTY_PAGES) is None
    assert slots.set_region(0, 0x1000, 0x1000, 0x7F00_0000_0000).gpa == 0
    assert slots.find(0) is None
    assert slots.set_region(0, 0, 0, 0).gpa == 0x1000
    assert list(slots) == []


def test_address_spaces_do_not_overlap():
    slots = Memslots()
    slots.set_region(0, 0, 0x1000, 0x7F00_0000_0000)
    slots.set_region(1 << 16, 0, 0x1000, 0x7F00_0000_1000)
    assert slots.find(0).slot == 0
    assert slots.find(0, space=1).slot == 1 << 16


SLOT = {"slot": 0, "gpa": "0x0", "size": "0x2000000", "hva": "0x7f0000000000", "flags": 0}
OTHER = {"slot": 1, "gpa": "0x3000000", "size": "0x1000", "hva": "0x7f0002000000", "flags": 0}


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_what_was_mapped_of_a_slot_goes_with_it(mmu):
    machine = MemslotsUnderTest([SLOT, OTHER], mmu)
    assert machine.guest_write("0x3000000", "0x7")["exit"] is None
    assert machine.set_region(**OTHER | {"gpa": "0x4000000"}) == {"errno": None}
    assert machine.guest_read("0x3000000")["exit"] == "KVM_EXIT_MMIO"
    machine.touch(lambda cpu: cpu.load(0x400_0000))
    assert machine.cpu.load(0x400_0000) == 7  # the same host memory at its new place
    assert machine.set_region(**OTHER | {"size": "0x0"}) == {"errno": None}
    assert machine.guest_read("0x4000000")["exit"] == "KVM_EXIT_MMIO"
    assert machine.guest_read("0x1000000")["exit"] is None


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_a_readonly_slot_is_read_from_memory_and_written_by_user_space(mmu):
    machine = MemslotsUnderTest([SLOT, OTHER | {"flags": READONLY}], mmu)
    assert machine.guest_read("0x3000000")["exit"] is None
    for _ in range(2):
        told = machine.guest_write("0x3000000", "0x5")
        assert (told["exit"], told["is_write"]) == ("KVM_EXIT_MMIO", 1)
    assert machine.cpu.load(0x300_0000) == 0


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_no_instruction_is_fetched_from_a_hole(mmu):
    machine = MemslotsUnderTest([SLOT], mmu)
    machine.power_on()
    with pytest.raises(MachineCheck, match="0x80000000"):
        machine.cpu.access(0x8000_0000, Kind.FETCH)
