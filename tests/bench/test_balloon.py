"""How long a guest of 1 GiB takes to build and to inflate, beside a fill of as many entries.

A fill is NumPy's, of one 8-byte entry for each page.  What is compared is measured by turns in
one run, and the median counts, so that a busy machine slows both.  pytest tests/bench -s
"""

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
ROUNDS = 5
pytestmark = pytest.mark.bench


def seconds(do):
    """Seconds that the processor spent on it."""
    start = process_time()
    do()
    return process_time() - start


def fill():
    """Seconds for writing as many 8-byte entries: as long as it takes at all, not a moment."""
    return seconds(lambda: [np.full(PAGES, 7, dtype=np.int64) for _ in range(50)]) / 50


def ratio(what, prepare, measure, rounds=ROUNDS):
    """``measure`` of what ``prepare`` made, in fills; said in milliseconds too."""
    took, fills = [], []
    for _ in range(rounds):
        made = prepare()
        fills.append(fill())
        took.append(seconds(lambda made=made: measure(made)))
        fills.append(fill())
    found = median(took) / median(fills)
    print(f"\n{what}: {median(took) * 1e3:.1f} ms for 1 GiB, {found:.0f} x a fill")
    return found


def pre_faulted():
    """A guest whose memory the host backs and EPT maps."""
    made = machine("1040M", driver=False)
    made.vcpu.mmu.pre_fault(0, 1040 * MIB)
    return made


def inflate(made):
    before = resident(made)
    took = seconds(lambda: made.balloon.pages.inflate(np.arange(FIRST, FIRST + PAGES)))
    assert before - resident(made) == PAGES << 12
    return took


def inflated(what, prepare):
    """As `ratio`, for inflating; counting what is resident takes longer than that."""
    took, fills = [], []
    for _ in range(ROUNDS):
        made = prepare()
        fills.append(fill())
        took.append(inflate(made))
        fills.append(fill())
    found = median(took) / median(fills)
    print(f"\n{what}: {median(took) * 1e3:.1f} ms for 1 GiB, {found:.0f} x a fill")
    return found
