"""What a full scan of KSM costs where nothing changed, beside a plain pass over the same words.

The pass is NumPy's sum.  Both are measured by turns in one run and the medians compared, so that
a busy machine slows both.  pytest tests/bench/test_ksm.py -s
"""

from statistics import median
from time import process_time

import numpy as np
import pytest

from kvmlab.base.tap import silent
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.host.ksm import RUN

MIB, PAGES = 1 << 20, 4096
pytestmark = pytest.mark.bench


def seconds(do):
    """Seconds that the processor spent on it."""
    start = process_time()
    do()
    return process_time() - start


def full_scan(ksm):
    goal = ksm.full_scans + 1
    while ksm.full_scans < goal:
        ksm.scan(10_000)


def test_a_scan_of_pages_that_did_not_change_costs_little_more_than_reading_them():
    host = Host(Ram(32 * MIB), silent)
    space = host.process()
    hva = space.mmap(PAGES << 12)
    space.advise_mergeable(hva, wanted=True)
    space.populate(hva, PAGES << 12)
    for number, leaf in enumerate(space.table.between(hva, hva + (PAGES << 12)), 1):
        host.ram.store(leaf.pfn << 12, number)
    host.ksm.run = RUN
    for _ in range(3):
        full_scan(host.ksm)
    assert host.ksm.pages_unshared == PAGES
    words = np.ones((PAGES, 512), np.int64)
    scans, passes = [], []
    for _ in range(7):
        scans.append(seconds(lambda: full_scan(host.ksm)))
        passes.append(seconds(lambda: [words.sum(1) for _ in range(5)]) / 5)
    assert host.ksm.pages_unshared == PAGES
    ratio = median(scans) / median(passes)
    print(f"\n{PAGES} pages in {median(scans) * 1e3:.1f} ms: {ratio:.1f} x a sum of their words")
    assert ratio < 30
