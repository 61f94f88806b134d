"""A guest's process: what it may map, and what happens where it has not."""

import pytest

from kvmlab.base.errors import (
    BadAddress,
    BadSize,
    MachineCheck,
    OutOfMemory,
    Overlap,
    SegmentationFault,
)
from kvmlab.guest.records import DemandFault
from kvmlab.hardware.records import Kind, PageFault
from kvmlab.machine import MMUS, Machine

AREA = 0x7F12_3440_0000


@pytest.fixture(params=MMUS)
def machine(request):
    machine = Machine(request.param)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "64K")
    return machine


@pytest.mark.parametrize(
    "gva, length, page, error, text",
    [
        (AREA + 0x1000, "4K", "4K", Overlap, "overlaps the one at 0x7f1234400000"),
        (AREA - 0x1000, "8K", "4K", Overlap, "0x7f12343ff000"),
        (AREA + 0x123, "4K", "4K", BadAddress, "0x7f1234400123 is not aligned to 4K"),
        (0x7000_0010_0000, "2M", "2M", BadAddress, "not aligned to 2M"),
        (0x8000_0000_0000, "4K", "4K", BadAddress, "0x800000000000 is not canonical"),
        (0xFFFF_8880_0000_0000, "4K", "4K", BadAddress, "is not in user space"),
        (0x7FFF_FFFF_F000, "8K", "4K", BadAddress, "user addresses end at"),
        ("somewhere", "4K", "4K", BadAddress, "'somewhere' is no address"),
        (0x1000, "5000", "4K", BadSize, "no multiple of the page of 4K"),
        (0x1000, "4K", "8K", BadSize, "there are 4K, 2M, 1G"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_and_nothing_changes(
    machine, gva, length, page, error, text
):
    process = machine.guest.current
    before = list(process.vmas)
    with pytest.raises(error) as refused:
        process.mmap(gva, length, page=page)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)
    assert process.vmas == before


def test_an_access_outside_every_mapping_is_sigsegv_and_the_guest_lives_on(machine):
    with pytest.raises(SegmentationFault, match=r"SIGSEGV: read of 0x7f1234410000 by demo"):
        machine.guest.load(AREA + 0x1_0000)
    machine.guest.store(AREA, 42)
    assert machine.guest.load(AREA) == 42


def test_a_non_canonical_address_is_sigsegv_by_gp(machine):
    with pytest.raises(SegmentationFault, match="0x800000000000"):
        machine.guest.load(0x8000_0000_0000)


def test_user_mode_may_not_touch_the_kernels_half(machine):
    with pytest.raises(SegmentationFault, match="error code 0x5"):
        machine.guest.load(machine.guest.direct_map)


def test_a_data_page_cannot_be_executed(machine):
    machine.guest.store(AREA, 1)
    with pytest.raises(SegmentationFault, match="error code 0x15"):
        machine.guest.touch(AREA, Kind.FETCH)


def test_a_write_to_a_read_only_mapping_is_sigsegv(machine):
    machine.guest.store(AREA, 1)
    machine.guest.current.mprotect(AREA, write=False)
    assert machine.guest.load(AREA) == 1
    with pytest.raises(SegmentationFault, match="error code 0x7"):
        machine.guest.store(AREA, 2)


def test_a_page_appears_at_its_first_touch_and_reads_as_zero(machine):
    records = []
    machine.guest.memory._tap = machine.cpu.tap = records.append
    assert machine.guest.load(AREA + 0x3000) == 0
    assert machine.guest.load(AREA + 0x3008) == 0
    assert len([one for one in records if isinstance(one, DemandFault)]) == 1
    (fault,) = [one for one in records if isinstance(one, PageFault)]
    assert (fault.gva, fault.error_code) == (AREA + 0x3000, 4)


def test_a_recycled_frame_comes_back_zeroed(machine):
    process = machine.guest.current
    machine.guest.store(AREA, 0xDEAD)
    gpa = machine.chain(AREA).gpa
    process.munmap(AREA)
    process.mmap(AREA, "64K")
    assert machine.guest.load(AREA) == 0
    assert machine.chain(AREA).gpa == gpa  # the very same frame


def test_a_guest_that_runs_out_of_memory_says_so():
    machine = Machine("native", guest_memory="2M")
    process = machine.guest.spawn("hog")
    machine.guest.switch(process)
    process.mmap(AREA, "4M")

    def fill():
        for page in range(1024):
            machine.guest.store(AREA + page * 4096, 1)

    with pytest.raises(OutOfMemory, match="no block of 1 free frames"):
        fill()


def test_a_cpu_without_a_handler_shuts_down():
    machine = Machine("native")
    machine.cpu.page_fault_handler = None
    with pytest.raises(MachineCheck, match="triple fault: #PF at 0x1234"):
        machine.cpu.load(0x1234)


def test_the_chain_names_all_four_addresses_and_changes_nothing():
    machine = Machine("ept")
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "64K")
    assert machine.chain(AREA).gpa is None  # nothing is mapped before the first touch
    machine.guest.store(AREA + 0x678, 0x1234)
    image = machine.ram.image()
    chain = machine.chain(AREA + 0x678)
    assert machine.ram.load(chain.hpa) == 0x1234
    slot = machine.vm.slots.find(chain.gpa)
    assert chain.hva == slot.hva + chain.gpa - slot.gpa
    assert {one & 0xFFF for one in (chain.gva, chain.gpa, chain.hva, chain.hpa)} == {0x678}
    assert machine.ram.image() == image
