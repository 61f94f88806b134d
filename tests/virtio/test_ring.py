"""The split virtqueue: the specification's bytes, and both sides against each other."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadSize, OutOfMemory, RingError
from kvmlab.virtio.device_queue import DeviceQueue
from kvmlab.virtio.driver_queue import DriverQueue
from kvmlab.virtio.ring import Descriptor, Layout, Segment, need_event

SIZE = 0x10000


class Flat:
    """Guest memory as a plain array of bytes."""

    def __init__(self):
        self.bytes = bytearray(SIZE)

    def read(self, gpa, size):
        return bytes(self.bytes[gpa : gpa + size])

    def write(self, gpa, data):
        self.bytes[gpa : gpa + len(data)] = data

    def reaches(self, gpa, size):
        return gpa + size <= SIZE


def pair(entries=8, event_idx=False, indirect=True):
    memory = Flat()
    layout = Layout.contiguous(entries, 0x1000)
    driver = DriverQueue(memory, layout, event_idx=event_idx)
    device = DeviceQueue(memory, layout, memory.reaches, event_idx=event_idx, indirect=indirect)
    return memory, layout, driver, device


@pytest.mark.parametrize(
    "entries, avail, used, end",
    # vring_size(num, 4096): 16 * num, 2 * (3 + num), up to a page, 6 + 8 * num
    [(128, 2048, 4096, 5126), (1024, 16384, 20480, 28678), (32, 512, 4096, 4358)],
)
def test_the_areas_lie_as_linux_lays_them_out(entries, avail, used, end):
    layout = Layout.contiguous(entries, 0x7000)
    assert (layout.avail, layout.used, layout.end) == (0x7000 + avail, 0x7000 + used, 0x7000 + end)


@pytest.mark.parametrize("entries", [0, 3, 65536, -8])
def test_a_queue_has_a_power_of_two_of_entries(entries):
    with pytest.raises(BadSize, match=f"up to 32768: {entries}"):
        Layout.contiguous(entries, 0)


def test_one_buffer_byte_for_byte():
    memory, layout, driver, device = pair()
    driver.offer([Segment(0x4000, 1024)], [Segment(0x5000, 16)])
    assert memory.read(0x1000, 32) == (
        struct.pack("<QIHH", 0x4000, 1024, 1, 1) + struct.pack("<QIHH", 0x5000, 16, 2, 0)
    )
    assert memory.read(layout.avail, 6) == struct.pack("<HHH", 0, 1, 0)
    chain = device.pop()
    assert (chain.out, chain.into) == ([(0x4000, 1024)], [(0x5000, 16)])
    device.push(chain, 9)
    assert memory.read(layout.used, 12) == struct.pack("<HHII", 0, 1, 0, 9)
    assert driver.collect() == (0, 9)
    assert driver.collect() is None
    assert device.pop() is None


@given(st.booleans(), st.integers(0, 1 << 30))
def test_both_sides_agree_for_longer_than_the_indices_count(event_idx, seed):
    """Buffers of one to three parts, used out of order, past several turns of a ring of eight."""
    choose = random.Random(seed)
    _, _, driver, device = pair(8, event_idx)
    offered, held, back = {}, [], 0
    for _ in range(60):
        if choose.random() < 0.6:
            parts = [Segment(choose.randrange(1, 99) * 64, 64) for _ in range(choose.randint(1, 3))]
            cut = choose.randint(0, len(parts))
            try:
                head = driver.offer(parts[:cut], parts[cut:])
            except OutOfMemory:
                assert sum(map(len, offered.values())) + len(parts) > 8
            else:
                assert head not in offered
                offered[head] = parts
                assert driver.wants_kick()  # the device asked to hear of the next one
        if chain := device.pop():
            assert chain.out + chain.into == offered[chain.head]
            held.append(chain)
        if held and choose.random() < 0.5:
            chain = held.pop(choose.randrange(len(held)))
            device.push(chain, back)
            assert device.wants_interrupt()
            assert driver.collect() == (chain.head, back)
            del offered[chain.head]
            back += 1
        assert set(driver._chains) == set(offered)


def test_indices_wrap_at_two_to_the_sixteen():
    memory, layout, driver, device = pair(2)
    for n in range(0x10002):
        assert driver.offer([Segment(0x4000 + n % 7, 1)]) in (0, 1)
        chain = device.pop()
        assert chain.out[0].gpa == 0x4000 + n % 7
        device.push(chain, 0)
        assert driver.collect() == (chain.head, 0)
    assert memory.read(layout.avail + 2, 2) == b"\x02\x00"


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0x8000))
def test_an_event_is_due_when_its_index_was_passed(event, old, steps):
    passed = {(old + n) & 0xFFFF for n in range(steps)}
    assert need_event(event, old + steps & 0xFFFF, old) == (event in passed)


def test_a_side_that_asks_for_silence_is_not_disturbed():
    memory, layout, driver, device = pair()
    driver.silence()
    driver.offer([Segment(0x4000, 4)])
    device.push(device.pop(), 0)
    assert not device.wants_interrupt()
    memory.write(layout.used, b"\x01\x00")
    driver.collect()
    driver.offer([Segment(0x4000, 4)])
    assert not driver.wants_kick()


def test_the_driver_does_not_believe_a_buffer_that_it_never_offered():
    memory, layout, driver, _ = pair()
    driver.offer([Segment(0x4000, 4)])
    memory.write(layout.used + 2, struct.pack("<HII", 1, 5, 0))
    with pytest.raises(RingError, match="buffer 0x5, which it does not have"):
        driver.collect()


def descriptor(memory, layout, index, *fields):
    memory.write(layout.descriptor(index), Descriptor(*fields).pack())


@pytest.mark.parametrize(
    "entries, message",
    [
        ([(0x4000, 4, 1, 8)], "descriptor 0x8 is beyond a table of 8"),
        ([(0x4000, 4, 1, 1), (0x4000, 4, 1, 0)], "more than 8 descriptors runs in a circle"),
        ([(0x4000, 4, 1, 0)], "runs in a circle"),
        ([(SIZE - 2, 4, 0, 0)], "0x4 bytes at 0xfffe are no guest memory"),
        ([((1 << 64) - 1, 4, 0, 0)], "are no guest memory"),
        ([(0x4000, 0xFFFFFFFF, 0, 0)], "are no guest memory"),
        ([(0x4000, 0, 0, 0)], "0x0 bytes at 0x4000 are no guest memory"),
        ([(0x4000, 4, 3, 1), (0x5000, 4, 0, 0)], "to read follows one to write, at 0x5000"),
        ([(0x4000, 16, 5, 1)], "may not be indirect, with 0x5"),
        ([(0x4000, 17, 4, 0)], "an indirect table of 0x11 bytes at 0x4000"),
        ([(0x4000, 16 * 9, 4, 0)], "an indirect table of 0x90 bytes"),
        ([(0x1000, 16, 4, 0)], "may not be indirect"),  # the table is itself: a table in a table
    ],
)
def test_what_no_honest_driver_writes_is_refused(entries, message):
    memory, layout, _, device = pair()
    for index, fields in enumerate(entries):
        descriptor(memory, layout, index, *fields)
    memory.write(layout.avail, struct.pack("<HHH", 0, 1, 0))
    with pytest.raises(RingError, match=message):
        device.pop()


def test_an_indirect_table_stands_for_its_chain_if_that_was_negotiated():
    memory, layout, _, device = pair()
    table = Descriptor(0x6000, 4, 1, 1).pack() + Descriptor(0x7000, 8, 2, 0).pack()
    memory.write(0x4000, table)
    descriptor(memory, layout, 3, 0x4000, 32, 4, 0)
    memory.write(layout.avail, struct.pack("<HHH", 0, 1, 3))
    chain = device.pop()
    assert (chain.head, chain.out, chain.into) == (3, [(0x6000, 4)], [(0x7000, 8)])
    _, _, _, plain = pair(indirect=False)
    plain._memory = memory
    with pytest.raises(RingError, match="may not be indirect"):
        plain.pop()


def test_an_index_that_jumps_and_a_head_that_is_none_are_refused():
    memory, layout, _, device = pair()
    memory.write(layout.avail, struct.pack("<HHH", 0, 9, 0))
    with pytest.raises(RingError, match="from 0x0 to 0x9: more than the ring's 8"):
        device.pop()
    memory.write(layout.avail, struct.pack("<HHH", 0, 1, 0x8000))
    with pytest.raises(RingError, match="descriptor 0x8000 is beyond"):
        device.pop()


def test_a_queue_outside_memory_is_refused():
    memory = Flat()
    for base in (SIZE - 64, 1 << 63):
        with pytest.raises(RingError, match="is no memory"):
            DeviceQueue(
                memory, Layout.contiguous(8, base), memory.reaches, event_idx=False, indirect=False
            )


@given(st.binary(min_size=400, max_size=400), st.binary(min_size=32, max_size=32), st.booleans())
def test_random_bytes_in_the_rings_give_buffers_in_memory_or_a_refusal(table, avail, event_idx):
    memory, layout, _, device = pair(8, event_idx)
    memory.write(0x1000, table)
    memory.write(layout.avail, avail)
    try:
        while chain := device.pop():
            for part in chain.out + chain.into:
                assert 0 < part.length <= SIZE - part.gpa
            device.push(chain, 0)
    except RingError:
        pass
