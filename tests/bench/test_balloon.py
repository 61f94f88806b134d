"""How long a guest of 1 GiB takes to build and to inflate, beside a fill of as many entries.

A fill is NumPy's, of one 8-byte entry for each page.  Both are measured by turns in one run and
the medians compared, so that a busy machine slows both.  pytest tests/bench/test_balloon.py -s
"""

import gc
import tracemalloc
from statistics import median
from time import process_time

import numpy as np
import pytest

from kvmlab.base.clock import SECOND
from kvmlab.machine import Machine
from tests.balloon_under_test import machine, qmp, resident

PAGES = 1 << 18  # of 1 GiB
MIB = 1 << 20
FIRST, AREA = 0x100, 0x1000_0000
pytestmark = pytest.mark.bench


def seconds(do):
    """Seconds that the processor spent on it."""
    start = process_time()
    do()
    return process_time() - start


def fill():
    """Seconds for writing as many 8-byte entries, into memory that is there.

    Fresh memory may take 16 times as long, if the C library had to ask the system for it.
    """
    entries = np.zeros(PAGES, np.int64)
    return seconds(lambda: [entries.fill(7) for _ in range(100)]) / 100


def fills(what, measure, rounds=5):
    """The seconds that ``measure`` returns, in fills; said in milliseconds too."""
    took, plain = [], [fill()]
    for _ in range(rounds):
        took.append(measure())
        plain.append(fill())
    ratio = median(took) / median(plain)
    print(f"\n{what}: {median(took) * 1e3:.1f} ms for 1 GiB, {ratio:.0f} x a fill")
    return ratio


# -- inflating ------------------------------------------------------------------------------


def inflate(made):
    before = resident(made)
    took = seconds(lambda: made.balloon.pages.inflate(np.arange(FIRST, FIRST + PAGES)))
    assert before - resident(made) == PAGES << 12
    return took


def test_the_device_gives_1_gib_of_host_memory_back():
    def measure():
        made = machine("1040M", driver=False)
        made.qemu.process.populate(made.vm.slots.find(0).hva, 1040 * MIB)
        return inflate(made)

    assert fills("inflating what the host backs, in one array", measure) < 2000


def test_the_device_gives_memory_back_that_ept_maps():
    def measure():
        made = machine("1040M", driver=False)
        made.vcpu.mmu.pre_fault(0, 1040 * MIB)
        return inflate(made)

    assert fills("inflating what EPT maps too, in one array", measure) < 3000


def test_driver_and_device_inflate_1_gib_by_1024_buffers_byte_for_byte():
    def measure():
        made = machine("1280M")
        qmp(made, "balloon", value=256 << 20)
        took = seconds(lambda: made.clock.sleep(5 * SECOND))
        assert made.balloon.actual == PAGES
        return took

    assert fills("inflating by 1024 buffers, over rings and exits", measure, rounds=3) < 100_000


# -- building -------------------------------------------------------------------------------


def backed():
    """A guest of which the host has all memory in place, and EPT nothing yet."""
    made = Machine(guest_memory="1280M", host_memory="1536M")
    made.qemu.process.populate(made.vm.slots.find(0).hva, 1280 * MIB)
    made.guest.switch(made.guest.spawn("demo"))
    return made


def map_both(made):
    """Map 1 GiB by guest tables, and what they and it lie in by EPT."""
    made.vcpu.mmu.pre_fault(0, 1280 * MIB)
    made.guest.current.mmap(AREA, PAGES << 12, populate=True)


def test_a_guest_with_1_gib_mapped_in_both_dimensions():
    def measure():
        made = backed()
        return seconds(lambda: map_both(made))

    assert fills("building guest tables and EPT", measure) < 3000


def test_the_host_backs_1_gib():
    def measure():
        made = Machine(guest_memory="1280M", host_memory="1536M")
        process, hva = made.qemu.process, made.vm.slots.find(0).hva
        return seconds(lambda: process.populate(hva, PAGES << 12))

    assert fills("the host's own table, frames and lists", measure) < 6000


def test_a_guest_with_1_gib_mapped_in_both_dimensions_takes_12_mib_at_most():
    """All of it: both parties' tables and the host's own, descriptors of frames, lists, objects.

    The guest has 1 GiB and what its tables take, the host that and what its own take.  What
    Python and NumPy load and keep for every machine (`numpy.ma`, 0.9 MiB) is not the guest's.
    """
    first = Machine(guest_memory="64M", host_memory="80M")
    first.vcpu.mmu.pre_fault(0, 64 * MIB)
    first.guest.switch(first.guest.spawn("demo"))
    first.guest.current.mmap(AREA, 48 * MIB, populate=True)
    tracemalloc.start()
    try:
        made = Machine(guest_memory="1032M", host_memory="1100M")
        made.guest.switch(made.guest.spawn("demo"))
        made.qemu.process.populate(made.vm.slots.find(0).hva, 1032 * MIB)
        made.vcpu.mmu.pre_fault(0, 1032 * MIB)
        before = tracemalloc.get_traced_memory()[0]
        made.guest.current.mmap(AREA, PAGES << 12, populate=True)
        gc.collect()  # what the batches left in cycles is nobody's
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(
        f"\nthe guest: {held / MIB:.1f} MiB, of which its tables {(held - before) / MIB:.1f}; "
        f"{peak / MIB:.1f} at the peak"
    )
    assert made.table_bytes()["guest"] > PAGES * 8
    assert made.table_bytes()["ept"] > PAGES * 8
    assert held < 12 * MIB
