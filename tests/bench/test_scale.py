"""What a study costs as a whole, and how that grows.

pytest tests/bench -s
"""

import lzma
import resource
import subprocess
import sys
from importlib.resources import files
from time import process_time

import numpy as np
import pytest

from kvmlab.hardware.batch_tlb import BatchTlb
from kvmlab.hardware.batch_walk import translate
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ram import Ram
from tests.bench import data

pytestmark = pytest.mark.bench


def test_two_million_records_are_compared_in_three_seconds_and_400_mib(tmp_path):
    """The whole command, start of Python included; time of the process, whatever else runs."""
    packed = (files("kvmlab.workloads") / "data" / "sort.lackey.xz").read_bytes()
    trace = tmp_path / "twice.lackey"
    trace.write_bytes(2 * lzma.decompress(packed))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "kvmlab", "compare", trace, "--json"]
    done = subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\n{seconds:.2f} s, {after.ru_maxrss / 1024:.0f} MiB")
    assert done.stdout.count(b'"mmu"') == 3
    assert seconds <= 3
    assert after.ru_maxrss <= 400 << 10


def per_access(count):
    """Nanoseconds of a TLB lookup and a nested walk, the best of three."""
    one = data.uniform("16 MiB", 16 << 20, count)
    cpu, times = one.machine(nested=True), []
    for _ in range(3):
        start = process_time()
        BatchTlb().lookups(one.gva)
        translate(cpu, one.gva, one.kinds, one.user)
        times.append(process_time() - start)
    return min(times) / count * 1e9


def test_the_cost_grows_with_the_accesses_and_not_faster():
    counts = (10_000, 100_000, 1_000_000, 10_000_000)
    costs = [per_access(count) for count in counts]
    print("\n" + ", ".join(f"{n:,}: {cost:.0f} ns" for n, cost in zip(counts, costs, strict=True)))
    assert costs[-1] < 1.5 * costs[-2] < 1.5 * 1.5 * costs[-3]
    # Seconds against accesses: a straight line leaves almost nothing unexplained.
    seconds = np.array(costs) * counts
    line = np.polyval(np.polyfit(counts, seconds, 1), counts)
    explained = 1 - ((seconds - line) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    print(f"a straight line explains {explained:.4f} of the seconds")
    assert explained > 0.99


def test_the_cost_does_not_grow_with_the_memory():
    one = data.uniform("16 MiB", 16 << 20, 200_000)
    near, times = one.machine(nested=False), []
    far = Cpu(Ram(1 << 45))  # 32 TiB, with the same tables
    for pfn in near.ram.image():
        far.ram.write(pfn << 12, near.ram.read(pfn << 12, 4096))
    far.start(near.controls)
    for cpu in (near, far, near, far):
        start = process_time()
        translate(cpu, one.gva, one.kinds, one.user)
        times.append(process_time() - start)
    print(f"\n{times[2] * 1e3:.1f} ms in {near.ram.size >> 20} MiB, {times[3] * 1e3:.1f} in 32 TiB")
    assert times[3] < 2 * times[2]
