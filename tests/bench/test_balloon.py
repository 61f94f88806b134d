"""How long inflating takes, beside a plain NumPy fill of as many 8-byte entries.

pytest tests/bench/test_balloon.py -s
"""

from time import process_time

import numpy as np
import pytest

from kvmlab.base.clock import SECOND
from kvmlab.hardware.records import ExitReason, VmExit
from tests.balloon_under_test import machine, qmp, resident

GIB = 1 << 18  # pages
FIRST = 0x100
pytestmark = pytest.mark.bench


def fill(pages):
    """Seconds for writing as many 8-byte entries."""
    start = process_time()
    for _ in range(50):
        np.full(pages, 7, dtype=np.int64)
    return (process_time() - start) / 50


def report(what, pages, took):
    ratio = took / fill(pages)
    print(f"\n{what}: {took * 1e3:.1f} ms for {pages >> 8} MiB, {ratio:.0f} x a fill")
    return ratio


def test_the_device_gives_1_gib_of_host_memory_back():
    made = machine("1280M", driver=False)
    slot = made.vm.slots.find(0)
    for page in range(FIRST, FIRST + GIB):
        made.vm.vmm.fault_in(slot.hva_of(page << 12))
    before = resident(made)
    pfns = np.arange(FIRST, FIRST + GIB)
    start = process_time()
    made.balloon.pages.inflate(pfns)
    took = process_time() - start
    assert before - resident(made) == GIB << 12
    assert report("backed by the host, in one array", GIB, took) < 1500


def test_the_device_gives_memory_back_that_ept_maps():
    made = machine("320M", driver=False)
    pages = GIB // 4
    for page in range(FIRST, FIRST + pages):
        made.vcpu.mmu.handle(VmExit(ExitReason.EPT_VIOLATION, 2, 0, page << 12))
    before = resident(made)
    start = process_time()
    made.balloon.pages.inflate(np.arange(FIRST, FIRST + pages))
    took = process_time() - start
    assert before - resident(made) == pages << 12
    assert report("mapped by EPT too, in one array", pages, took) < 10_000


def test_driver_and_device_inflate_1_gib_by_1024_buffers_byte_for_byte():
    made = machine("1280M")
    qmp(made, "balloon", value=256 << 20)
    start = process_time()
    made.clock.sleep(5 * SECOND)
    took = process_time() - start
    assert made.balloon.actual == GIB
    assert report("by 1024 buffers, over rings and exits", GIB, took) < 40_000
