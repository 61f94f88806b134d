"""Memslots: GPA -> HVA is arithmetic, and slots do not overlap."""

import pytest

from kvmlab.base.errors import BadAddress, BadSize, Overlap
from kvmlab.hardware.records import Kind
from kvmlab.kvm.memslots import Memslot, Memslots
from kvmlab.machine import Machine


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
