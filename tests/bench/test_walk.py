"""How long one cold two-dimensional walk takes, beside the plainest loop over as many words.

pytest tests/bench -s
"""

from statistics import median
from time import perf_counter

import pytest

from kvmlab.hardware.records import Kind, Step
from kvmlab.machine import Machine

GVA, ROUNDS, REPEATS = 0x7F12_3456_7000, 200, 9
pytestmark = pytest.mark.bench


def microseconds(action):
    """Median time of one call, over several rounds."""
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        for _ in range(ROUNDS):
            action()
        times.append((perf_counter() - start) / ROUNDS * 1e6)
    return median(times)


def test_a_24_step_walk_with_its_records_costs_at_most_50_plain_loops():
    records = []
    machine = Machine("ept", tap=records.append)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(GVA, "4K")
    machine.guest.touch(GVA, Kind.READ)
    cpu = machine.cpu
    cpu.cpl = 3

    def walk():
        records.clear()
        cpu.forget(GVA, "INVLPG")  # so that the next attempt is a complete miss
        cpu.attempt(GVA, Kind.READ)

    walk()
    assert len([one for one in records if isinstance(one, Step)]) == 24
    addresses = [one.hpa for one in records if isinstance(one, Step)]
    words, slots = machine.ram._words, machine.ram._base

    def loop():
        """The same 24 words, read in the order of the walk, and nothing else."""
        return [words[slots[hpa >> 12] + (hpa >> 3 & 511)] for hpa in addresses]

    assert loop() == [machine.ram.load(hpa) for hpa in addresses]

    walking, looping = microseconds(walk), microseconds(loop)
    print(
        f"\n24-step walk {walking:.1f} us, plain loop {looping:.2f} us: {walking / looping:.0f} x"
    )
    assert walking / looping < 50
