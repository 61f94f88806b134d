"""What no memory answers: notes in entries, devices in user space, doorbells, ports."""

import pytest

from kvmlab.base.errors import Overlap
from kvmlab.hardware.instructions import invlpg, mov_cr3
from kvmlab.hardware.io import hlt, port_in, port_out
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.records import ExitReason, VmExit
from kvmlab.kvm import mmio_sptes
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, READONLY
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.records import Doorbell, IoExit, MmioExit, MmioSpteSet
from kvmlab.machine import Machine
from tests.small_guest import DESIGNS, DIRECT, PT, ROOT, TABLE, WINDOW, Fault, SmallGuest

HOLE = 0xFEB0_0000
CACHING = (*DIRECT, "today")
REFUSED = {"ept": ExitReason.EPT_MISCONFIG, "npt": ExitReason.NPF, "today": ExitReason.EXCEPTION}


class Registers:
    """A device that keeps what is written to it."""

    def __init__(self):
        self.values, self.seen = {}, []

    def read(self, offset, size):
        self.seen.append((offset, size))
        return self.values.get(offset, 0xAB)

    def write(self, offset, value, size):
        self.values[offset] = value
        self.seen.append((offset, size))


def with_hole(design, gpa=HOLE, **options):
    """A guest that maps its page 0 to ``gpa``."""
    guest = SmallGuest(design, **options)
    guest.cpu.store(WINDOW + PT, gpa | TABLE)
    guest.records.clear()
    return guest


def reasons(guest):
    return [one.reason for one in guest.of(VmExit)]


# -- the note in the entry ------------------------------------------------------------------


@pytest.mark.parametrize("design", CACHING)
def test_the_first_access_is_a_fault_and_the_next_are_refused_by_a_note(design):
    guest = with_hole(design)
    first = guest.counted(lambda: guest.cpu.load(0))
    assert first["pf_mmio_spte_created"] == first["pf_emulate"] == first["mmio_exits"] == 1
    assert first["insn_emulation"] == 1
    guest.records.clear()
    second = guest.counted(lambda: guest.cpu.load(0x18))
    assert second == {"exits": 1, "mmio_exits": 1, "insn_emulation": 1}
    assert reasons(guest) == [REFUSED[design.split()[0]]]
    assert guest.counted(lambda: guest.cpu.store(8, 1)) == second
    (exit_,) = guest.of(MmioExit)[1:]
    assert (exit_.gpa, exit_.is_write, exit_.data[0]) == (HOLE + 8, True, 1)


@pytest.mark.parametrize("design", CACHING)
def test_a_change_of_the_slots_makes_notes_stale(design):
    guest = with_hole(design)
    guest.cpu.load(0)
    hva = guest.process.mmap(1 << 20)
    guest.vm.set_region(7, 1 << 32, 1 << 20, hva)
    again = guest.counted(lambda: guest.cpu.load(0))
    assert again["pf_taken"] == again["pf_mmio_spte_created"] == 1
    guest.vm.set_region(8, HOLE, 1 << 20, hva)
    guest.cpu.store(0, 5)
    assert guest.cpu.load(0) == 5
    guest.vm.set_region(8, 0, 0, 0)
    assert guest.cpu.load(0) == (1 << 64) - 1


@pytest.mark.parametrize("design", DESIGNS)
def test_writes_to_a_readonly_slot_leave_no_note(design):
    guest = with_hole(design)
    hva = guest.process.mmap(1 << 20)
    guest.vm.set_region(1, HOLE, 1 << 20, hva, READONLY)
    guest.vm.write(HOLE, b"\x07")
    for _ in range(2):
        assert guest.cpu.load(0) == 7
        counted = guest.counted(lambda: guest.cpu.store(0, 1))
        assert counted["mmio_exits"] == counted["pf_taken"] == 1
    assert guest.of(MmioSpteSet) == []


@pytest.mark.parametrize("design", ["npt", "today", "ept"])
def test_with_52_bits_of_physical_address_only_ept_has_a_bit_to_refuse_with(design):
    guest = with_hole(design, processor=Processor(maxphyaddr=52))
    for _ in range(2):
        assert guest.cpu.load(0) == (1 << 64) - 1
    assert len(guest.of(MmioSpteSet)) == int(design == "ept")


def test_caching_can_be_switched_off():
    guest = with_hole("ept", parameters=Parameters(mmio_caching=False))
    guest.cpu.load(0)
    assert guest.counted(lambda: guest.cpu.load(0))["pf_taken"] == 1
    assert guest.of(MmioSpteSet) == []


@pytest.mark.parametrize("design", CACHING)
def test_when_the_generation_wraps_all_entries_go(design):
    guest = with_hole(design)
    guest.cpu.load(0)
    guest.vm.slots.generation = mmio_sptes.GENERATIONS - 1  # as after half a million changes
    guest.log()
    assert guest.vm.slots.generation % mmio_sptes.GENERATIONS == 0
    assert guest.statistics.values()["pages_4k"] == 0
    assert guest.counted(lambda: guest.cpu.load(0))["pf_mmio_spte_created"] == 1


def test_an_identical_request_is_no_change():
    guest = SmallGuest("ept")
    before = guest.vm.slots.generation
    slot = guest.vm.slots.get(0)
    guest.vm.set_region(0, slot.gpa, slot.size, slot.hva, slot.flags)
    assert guest.vm.slots.generation == before
    guest.vm.set_region(0, slot.gpa, slot.size, slot.hva, LOG_DIRTY_PAGES)
    assert guest.vm.slots.generation == before + 1


@pytest.mark.parametrize("generation", [0, 1, 0xFF, 0x100, 0x7FFFF])
@pytest.mark.parametrize("pattern", [6, mmio_sptes.PAGING])
def test_a_note_keeps_page_and_generation_apart_in_19_bits(generation, pattern):
    spte = mmio_sptes.make(pattern, 0x7_FEB0_1234, generation)
    assert mmio_sptes.generation_of(spte) == generation
    assert mmio_sptes.gpa_of(spte) == 0x7_FEB0_1000
    assert not spte >> 63
    assert mmio_sptes.make(pattern, 0x7_FEB0_1234, generation + (1 << 19)) == spte


@pytest.mark.parametrize("design", CACHING)
def test_a_note_opens_no_page_that_the_guest_keeps_closed(design):
    for flags, cpl, store in ((TABLE & ~4, 3, False), (TABLE & ~2, 3, True)):
        guest = with_hole(design)
        guest.cpu.store(WINDOW + PT, HOLE | flags)
        for _ in range(2):
            guest.cpu.load(0)
            guest.cpu.cpl = cpl
            with pytest.raises(Fault):
                guest.cpu.store(0, 1) if store else guest.cpu.load(0)
            guest.cpu.cpl = 0
        assert guest.statistics.values()["mmio_exits"] == 2


@pytest.mark.parametrize("design", CACHING)
@pytest.mark.parametrize("flush", [lambda cpu: invlpg(cpu, 0), lambda cpu: mov_cr3(cpu, ROOT)])
def test_a_guest_that_maps_memory_in_place_of_the_hole_finds_it(design, flush):
    guest = with_hole(design)
    guest.cpu.load(0)
    guest.cpu.store(WINDOW + PT, 0x10_1000 | TABLE)
    flush(guest.cpu)
    guest.cpu.store(0x1000, 77)
    assert guest.cpu.load(0) == 77


# -- devices --------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_a_device_answers_the_guests_loads_and_takes_its_stores(design):
    guest, device = with_hole(design), Registers()
    guest.vm.mmio.attach(HOLE, 0x100, device)
    for _ in range(2):
        assert guest.cpu.load(0x20, 4) == 0xAB
        guest.cpu.store(0x20, 0x1234_5678, 4)
        assert guest.cpu.load(0x20, 4) == 0x1234_5678
        device.values.clear()
    assert set(device.seen) == {(0x20, 4)}
    assert guest.cpu.load(0x100, 4) == 0xFFFF_FFFF  # beyond the device
    guest.cpu.store(0x100, 1, 4)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_doorbell_is_rung_without_an_exit_to_user_space(design):
    guest, rung = with_hole(design), []
    guest.vm.mmio.doorbell(HOLE + 0x50, rung.append)
    for queue in (0, 1, 1):
        guest.cpu.store(0x50, queue, 2)
    assert rung == [0, 1, 1]
    assert len(guest.of(Doorbell)) == 3
    assert guest.of(MmioExit) == []
    assert guest.cpu.load(0x50, 2) == 0xFFFF  # only writes ring
    assert len(guest.of(MmioExit)) == 1


def test_two_cannot_answer_at_one_address():
    bus = SmallGuest("ept").vm.mmio
    bus.attach(HOLE, 0x1000, Registers())
    with pytest.raises(Overlap, match=r"0xfeb00800 to 0xfeb017ff overlaps .* 0xfeb00000"):
        bus.attach(HOLE + 0x800, 0x1000, Registers())
    bus.attach(HOLE + 0x1000, 0x1000, Registers())
    bus.doorbell(HOLE, print)
    with pytest.raises(Overlap, match="0xfeb00000"):
        bus.doorbell(HOLE, print)


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_qemu_maps_devices_where_there_is_no_memory(mmu):
    machine, device = Machine(mmu), Registers()
    with pytest.raises(Overlap, match="memslot 0"):
        machine.qemu.map_device(0x1000, 0x1000, device)
    machine.qemu.map_device(HOLE + 0x10_0000, 0x1000, device)
    process = machine.guest.spawn("driver")
    machine.guest.switch(process)
    machine.guest.tables.map(process.root, 0x5000_0000, HOLE + 0x10_0000, 12, 0x67)
    machine.guest.store(0x5000_0010, 3, 4)
    assert machine.guest.load(0x5000_0010, 4) == 3


# -- ports and HLT --------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["ept", "npt", "today"])
def test_in_and_out_reach_the_device_at_the_port(design):
    guest, device = SmallGuest(design), Registers()
    guest.vm.ports.attach(0xC000, 32, device)
    counted = guest.counted(lambda: port_out(guest.cpu, 0xC010, 0x12, 2))
    assert counted == {"exits": 1, "io_exits": 1}
    assert port_in(guest.cpu, 0xC010, 2) == 0x12
    assert port_in(guest.cpu, 0xC100, 1) == 0xFF
    exits = [(one.port, one.is_write, one.data) for one in guest.of(IoExit)]
    assert exits == [(0xC010, True, b"\x12\0"), (0xC010, False, b""), (0xC100, False, b"")]
    codes = [one.qualification for one in guest.of(VmExit) if one.reason is ExitReason.IO]
    assert codes == [0xC010_0001, 0xC010_0009, 0xC100_0008]  # SDM: size, direction, port


def test_a_port_can_be_a_doorbell():
    guest, rung = SmallGuest("ept"), []
    guest.vm.ports.doorbell(0xC010, rung.append)
    port_out(guest.cpu, 0xC010, 0x1_0002, 2)  # DX:AX, of which AX goes out
    assert rung == [2]
    assert guest.of(IoExit) == []
    assert guest.statistics.values()["io_exits"] == 1


def test_hlt_exits_and_the_guest_goes_on():
    guest = SmallGuest("ept")
    assert guest.counted(lambda: hlt(guest.cpu)) == {"exits": 1, "halt_exits": 1}
    assert reasons(guest)[-1] is ExitReason.HLT


def test_on_the_metal_no_port_answers_and_nothing_exits():
    records = []
    machine = Machine("native", tap=records.append)
    records.clear()
    port_out(machine.cpu, 0x80, 1, 1)
    hlt(machine.cpu)
    assert port_in(machine.cpu, 0x80, 2) == 0xFFFF
    assert records == []
