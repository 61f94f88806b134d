"""The device against drivers that are not ours: what it gives back, and what it never believes."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.base.clock import SECOND
from kvmlab.hardware.records import VmExit
from kvmlab.kvm.memslots import READONLY
from kvmlab.qemu.balloon_stats import UNKNOWN
from kvmlab.qemu.machine import VIRTIO_MMIO
from kvmlab.qemu.records import BalloonServed, DeviceBroken, PfnRefused
from kvmlab.virtio.balloon import pack_pfns, unpack_stats
from kvmlab.virtio.device_status import ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET
from kvmlab.virtio.driver_queue import DriverQueue
from kvmlab.virtio.mmio import CONFIG, Register
from kvmlab.virtio.ring import Layout, Segment
from tests.balloon_under_test import (
    AREA,
    leaves,
    machine,
    poll_every,
    process_with,
    resident,
    resize,
    stats,
)
from tests.kvm.test_invariants import check_frames

RINGS, PAYLOAD = 0x20_0000, 0x40_0000  # where the tests' own driver keeps its things
INFLATE, DEFLATE, STATS = 0, 1, 2


class Raw:
    """A driver made of single stores: it can do what no honest one would."""

    def __init__(self, memory="16M", queues=3, features=1 << 32 | 0b10, **options):
        self.records = []
        self.machine = machine(memory, driver=False, tap=self.records.append, **options)
        self.registers = self.machine.guest.ioremap(VIRTIO_MMIO, 0x200)
        self.cpu = self.machine.guest.cpu
        self.start(queues, features)

    def start(self, queues=3, features=1 << 32 | 0b10):
        for status in (0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER):
            self.set(Register.STATUS, status)
        for half in (0, 1):
            self.set(Register.DRIVER_FEATURES_SEL, half)
            self.set(Register.DRIVER_FEATURES, features >> 32 * half & 0xFFFFFFFF)
        self.set(Register.STATUS, self.get(Register.STATUS) | FEATURES_OK)
        self.queues = [self.queue(number) for number in range(queues)]
        self.set(Register.STATUS, self.get(Register.STATUS) | DRIVER_OK)

    def queue(self, number, size=128, base=None):
        layout = Layout.contiguous(size, RINGS + number * 0x10000 if base is None else base)
        if base is None:
            self.write(layout.descriptors, bytes(layout.end - layout.descriptors))
        self.set(Register.QUEUE_SEL, number)
        self.set(Register.QUEUE_NUM, size)
        for register, area in (
            (0x80, layout.descriptors),
            (0x90, layout.avail),
            (0xA0, layout.used),
        ):
            self.set(register, area & 0xFFFFFFFF)
            self.set(register + 4, area >> 32)
        self.set(Register.QUEUE_READY, 1)
        return DriverQueue(self, layout, event_idx=False)

    def get(self, register):
        return self.cpu.load(self.registers + register, 4)

    def set(self, register, value):
        self.cpu.store(self.registers + register, value, 4)

    def read(self, gpa, size):
        number = self.cpu.load(self.machine.guest.direct_map + gpa, size)  # within one page
        return number.to_bytes(size, "little")

    def write(self, gpa, data):
        while data:
            part = data[: 4096 - gpa % 4096]
            self.cpu.store_bytes(self.machine.guest.direct_map + gpa, part)
            gpa, data = gpa + len(part), data[len(part) :]

    def send(self, number, data, into=()):
        """Send one buffer; whether the device gave it back."""
        self.write(PAYLOAD, data)
        self.queues[number].offer([Segment(PAYLOAD, len(data))] if data else [], into)
        self.set(Register.QUEUE_NOTIFY, number)
        return self.queues[number].collect() is not None

    def said(self, kind):
        return [one for one in self.records if isinstance(one, kind)]

    @property
    def broken(self):
        return bool(self.get(Register.STATUS) & NEEDS_RESET)


def touch(raw, pfns):
    for pfn in pfns:
        raw.write(pfn << 12, b"x")


def test_the_first_registers_say_what_it_is():
    raw = Raw()
    assert [raw.get(offset) for offset in (0, 4, 8)] == [0x74726976, 2, 5]
    assert raw.get(Register.STATUS) == 15
    assert [raw.get(CONFIG), raw.get(CONFIG + 4)] == [0, 0]


def test_each_pfn_is_judged_and_the_rest_of_the_buffer_served():
    raw = Raw()
    raw.machine.vm.set_region(9, 0x8000_0000, 0x1000, raw.machine.vm.slots.find(0).hva, READONLY)
    touch(raw, [0x600, 0x601])
    pfns = [0x600, 0x1000, 0xFFFFFFFF, 0x8_0000, 0x600, 0x601, 0x602]
    assert raw.send(INFLATE, pack_pfns(pfns))
    refused = [(one.pfn, one.why) for one in raw.said(PfnRefused)]
    assert refused == [(0x1000, "hole"), (0xFFFFFFFF, "hole"), (0x8_0000, "ROM")]
    (served,) = raw.said(BalloonServed)
    assert (served.pfns, served.refused, served.freed) == (7, 3, 2 * 4096)  # 0x602 was not backed
    assert raw.read(0x600 << 12, 1) == b"\0"
    assert not raw.broken
    check_frames(raw.machine)


def test_a_page_that_is_ballooned_already_gives_nothing_more():
    raw = Raw()
    touch(raw, [0x600])
    for freed in (4096, 0):
        raw.records.clear()
        assert raw.send(INFLATE, pack_pfns([0x600, 0x600]))
        assert [one.freed for one in raw.said(BalloonServed)] == [freed]
    check_frames(raw.machine)


def test_deflating_brings_no_memory():
    raw = Raw()
    touch(raw, [0x600])
    raw.send(INFLATE, pack_pfns([0x600]))
    before = resident(raw.machine)
    assert raw.send(DEFLATE, pack_pfns([0x600, 0xFFFFFF]))
    assert [one.pfn for one in raw.said(PfnRefused)] == [0xFFFFFF]
    assert resident(raw.machine) == before


@pytest.mark.parametrize(
    "order, freed",
    [
        (range(512), 2 << 20),
        ([*range(511, -1, -1)], 2 << 20),
        ([*range(511), 5], 0),  # one piece twice, one never
        ([*range(256), 512, *range(256, 512)], 0),  # a piece of another page in between
    ],
)
def test_a_large_host_page_goes_when_its_512_pieces_come_in_one_buffer(order, freed):
    raw = Raw(host_page="2M")
    touch(raw, [0x800])
    raw.write(PAYLOAD, b"x")
    free = raw.machine.host.hugetlb[21].free
    assert raw.send(INFLATE, pack_pfns(0x800 + piece for piece in order))
    assert [one.freed for one in raw.said(BalloonServed)] == [freed]
    assert raw.machine.host.hugetlb[21].free - free == freed >> 21
    assert raw.read(0x800 << 12, 1) == (b"\0" if freed else b"x")


def test_what_was_gathered_ends_with_the_buffer():
    raw = Raw(host_page="2M")
    touch(raw, [0x800])
    for half in (range(256), range(256, 512)):
        assert raw.send(INFLATE, pack_pfns(0x800 + piece for piece in half))
    assert {one.freed for one in raw.said(BalloonServed)} == {0}


@pytest.mark.parametrize("length", [1, 2, 3, 5, 1025])
def test_a_rest_of_fewer_than_four_bytes_is_no_pfn(length):
    raw = Raw()
    assert raw.send(INFLATE, bytes(length))
    assert [one.pfns for one in raw.said(BalloonServed)] == [length // 4]
    assert not raw.broken


def test_statistics_arrive_with_known_tags_and_the_buffer_stays():
    raw = Raw()
    data = struct.pack("<HQHQHQ", 4, 1 << 20, 99, 5, 1, UNKNOWN - 1) + b"rest"
    assert unpack_stats(data) == [(4, 1 << 20), (99, 5), (1, UNKNOWN - 1)]
    assert not raw.send(STATS, data)  # kept until the next poll
    known = {name: value for name, value in stats(raw.machine)[0].items() if value != UNKNOWN}
    assert known == {"stat-free-memory": 1 << 20, "stat-swap-out": UNKNOWN - 1}
    poll_every(raw.machine, 5)
    raw.machine.clock.sleep(0)
    assert raw.queues[STATS].collect() == (0, 0)
    assert not raw.send(STATS, struct.pack("<HQ", 5, 7))
    known = {name: value for name, value in stats(raw.machine)[0].items() if value != UNKNOWN}
    assert known == {"stat-total-memory": 7}


def test_a_second_statistics_buffer_sends_the_first_one_back():
    raw = Raw()
    assert not raw.send(STATS, bytes(10))
    assert raw.send(STATS, bytes(10))


def test_features_that_were_not_offered_are_refused():
    raw = Raw(features=1 << 32 | 1 << 40)
    assert not raw.get(Register.STATUS) & (FEATURES_OK | DRIVER_OK)
    assert not raw.send(INFLATE, pack_pfns([0x600]))  # nothing is served
    legacy = Raw(features=0b10)
    assert not legacy.get(Register.STATUS) & FEATURES_OK


@pytest.mark.parametrize(
    "size, base", [(256, None), (3, None), (0, None), (128, 0xF_FFFF_F000), (128, 0xFF_F000)]
)
def test_a_queue_that_cannot_be_stops_the_device_until_it_is_reset(size, base):
    raw = Raw()
    raw.set(Register.QUEUE_SEL, INFLATE)
    raw.set(Register.QUEUE_READY, 0)
    layout = Layout.contiguous(128, RINGS if base is None else base)
    raw.set(Register.QUEUE_NUM, size)
    raw.set(Register.QUEUE_DESC_LOW, layout.descriptors & 0xFFFFFFFF)
    raw.set(Register.QUEUE_DESC_HIGH, layout.descriptors >> 32)
    raw.set(Register.QUEUE_DEVICE_LOW, layout.used & 0xFFFFFFFF)
    raw.set(Register.QUEUE_DEVICE_HIGH, layout.used >> 32)
    raw.set(Register.QUEUE_READY, 1)
    assert raw.broken
    assert len(raw.said(DeviceBroken)) == 1
    raw.start()
    assert not raw.broken
    assert raw.send(INFLATE, pack_pfns([0x600]))


def test_a_broken_ring_stops_the_device_and_not_the_vmm():
    raw = Raw()
    raw.write(raw.queues[INFLATE].layout.avail, struct.pack("<HH", 0, 200))
    raw.set(Register.QUEUE_NOTIFY, INFLATE)
    assert raw.broken
    assert "more than the ring's 128" in raw.said(DeviceBroken)[0].why
    assert not raw.send(DEFLATE, pack_pfns([0x600]))  # nothing is served any more
    raw.start()
    assert raw.send(DEFLATE, pack_pfns([0x600]))


def test_a_guest_may_discard_the_very_rings_it_uses():
    raw = Raw()
    pages = [gpa >> 12 for gpa in range(RINGS, RINGS + 0x30000, 4096)]
    raw.send(INFLATE, pack_pfns(pages))
    check_frames(raw.machine)
    raw.start()
    assert raw.send(INFLATE, pack_pfns([0x600]))


def test_actual_is_the_guests_word_and_the_target_is_not():
    raw = Raw()
    raw.set(CONFIG + 4, 0xFFFFFFFF)
    raw.set(CONFIG, 77)  # the host's field
    raw.set(CONFIG + 12, 0xAA)
    assert raw.machine.balloon.num_pages == 0
    answer = raw.machine.qemu.monitor.execute({"execute": "query-balloon"})
    assert answer == {"return": {"actual": (16 << 20) - (0xFFFFFFFF << 12)}}
    assert raw.machine.balloon.poison == 0xAA


@settings(max_examples=10)
@given(st.integers(0, 1 << 32))
def test_a_hostile_driver_never_costs_the_host_a_frame(seed):
    """Random stores to rings, registers and configuration: the VMM goes on, and can be reset."""
    choose = random.Random(seed)
    raw = Raw(
        queues=5,
        features=1 << 32 | 1 << 28 | 0b101010,
        free_page_hint=True,
        iothread=True,
        free_page_reporting=True,
    )
    for _ in range(60):
        action, number = choose.random(), choose.randrange(5)
        layout = raw.queues[number].layout
        if action < 0.35:
            fields = (
                choose.choice([RINGS, PAYLOAD, 0x60_0000, choose.getrandbits(64)]),
                choose.choice([4, 10, 1024, 4096, 1 << 21, choose.getrandbits(32)]),
                choose.choice([0, 0, 1, 2, 3, 4, 5]),
                choose.randrange(9),
            )
            raw.write(layout.descriptor(choose.randrange(8)), struct.pack("<QIHH", *fields))
        elif action < 0.6:
            index = int.from_bytes(raw.read(layout.avail + 2, 2), "little")
            raw.write(layout.avail_entry(index), struct.pack("<H", choose.randrange(9)))
            raw.write(
                layout.avail + 2,
                struct.pack("<H", (index + choose.choice([1, 1, 1, 2, 200])) & 0xFFFF),
            )
        elif action < 0.85:
            raw.set(Register.QUEUE_NOTIFY, number)
        elif action < 0.9:
            raw.write(PAYLOAD, choose.randbytes(64))
        else:
            offset = choose.choice([*Register, CONFIG, CONFIG + 4, CONFIG + 12, 0x1FC, 0x0F0])
            raw.set(offset, choose.choice([0, 1, choose.randrange(256), choose.getrandbits(32)]))
        if raw.broken or choose.random() < 0.05:
            raw.start(queues=5, features=1 << 32 | 1 << 28 | 0b101010)
    check_frames(raw.machine)
    raw.start()
    assert raw.send(INFLATE, pack_pfns([0x600]))


@pytest.mark.parametrize(
    "mmu, levels",
    [("ept", 2), ("ept", 3), ("ept", 5), ("shadow", 2), ("shadow", 4), ("agile", 4)],
)
def test_the_balloon_works_under_every_design(mmu, levels):
    made = machine("64M", mmu, guest_levels=levels)
    process = made.guest.spawn("demo")
    made.guest.switch(process)
    assert resize(made, 48 << 20) == 48 << 20
    assert resize(made, 60 << 20) == 60 << 20
    check_frames(made)


@pytest.mark.parametrize("mmu", ["npt", "l2-ept", "l2-shadow"])
def test_a_page_in_the_balloon_of_a_nested_guest_is_its_hypervisors_again(mmu):
    made = machine("16M", mmu, host="128M")
    process_with(made, 256).munmap(AREA)
    free = made.vm.host.buddy.free_frames
    assert resize(made, 12 << 20) == 12 << 20
    assert made.vm.host.buddy.free_frames - free > 240
    assert resize(made, 15 << 20) == 15 << 20


def test_one_buffer_costs_one_bell_and_what_the_interrupt_takes():
    """Exits of one inflate buffer: the notification, status and acknowledgment of the interrupt."""
    raw = []
    made = machine("64M", tap=lambda one: raw.append(one) if isinstance(one, VmExit) else None)
    resize(made, 63 << 20)
    raw.clear()
    resize(made, 61 << 20)
    registers = [one.gpa - VIRTIO_MMIO for one in raw if VIRTIO_MMIO <= one.gpa < VIRTIO_MMIO + 512]
    assert registers.count(Register.QUEUE_NOTIFY) == 2
    assert registers.count(Register.INTERRUPT_STATUS) == 3  # two acknowledgments, one new target


def test_hints_name_all_large_free_blocks_and_cost_the_guest_nothing():
    made = machine("64M", free_page_hint=True, iothread=True)
    buddy, hints = made.guest.frames.buddy, made.balloon.hints
    free = buddy.free_frames
    hints.start()
    made.clock.sleep(SECOND)
    hinted = sum(block.length for block in hints.hinted)
    assert 48 << 20 <= hinted < 64 << 20
    assert buddy.free_frames == free - (hinted >> 12)
    assert hints.round.value == "stopped"  # the guest ended its list
    hints.done()
    made.clock.sleep(SECOND)
    assert buddy.free_frames == free
    assert len(leaves(made)) == resident(made) >> 12
