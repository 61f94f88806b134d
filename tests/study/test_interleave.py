"""Processes and VMs that take turns: each one's counts, and memory, as access by access."""

import numpy as np
import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.records import Kind
from kvmlab.hardware.tlb import SKYLAKE, TINY, UNIFIED
from kvmlab.host.records import HostSwappedOut
from kvmlab.machine import Machine, Server
from kvmlab.study import batches
from kvmlab.study.replay import Accesses, ByProcess, Task, areas, interleave

SLICE = 700


def program(seed, pages, count=3000):
    """A working set that moves: most accesses repeat one of the last pages."""
    rng = np.random.default_rng(seed)
    near = rng.geometric(0.1, count) + np.arange(count) * pages // count
    page = np.where(rng.random(count) < 0.1, rng.integers(0, pages, count), near % pages)
    kinds = rng.choice([1, 2, 4], count, p=(0.6, 0.3, 0.1)).astype(np.uint8)
    return Accesses(kinds, (0x40_0000 + (page << 12) + 8).astype(np.uint64))


def one_by_one(tasks, time_slice):
    """The same schedule by the scalar path."""
    rows = []
    for task in tasks:
        process = task.machine.guest.spawn(task.name)
        for area in areas(task.what):
            process.mmap(area.start, area.length, write=area.write, execute=area.execute)
        rows.append((task.machine.guest, process, task.what))
    for start in range(0, max(len(what) for *_, what in rows), time_slice):
        part = slice(start, start + time_slice)
        for guest, process, what in rows:
            if start < len(what):
                if guest.current is not process:
                    guest.switch(process)
                for kind, gva in zip(
                    what.kinds[part].tolist(), what.addresses[part].tolist(), strict=False
                ):
                    guest.touch(gva, Kind(kind))


def cached(cpu):
    sets = [ways for array in cpu.tlb.arrays() for ways in array.sets]
    sets += cpu.walk_caches.held.values() if cpu.walk_caches else []
    sets += cpu.nested_tlb.array.sets if cpu.nested_tlb else []
    return [list(ways.items()) for ways in sets]


def state(taps, machines):
    counts = [{name: (one.program, one.kernel) for name, one in tap.of.items()} for tap in taps]
    return counts, [cached(one.cpu) for one in machines], machines[0].ram.image()


def check(monkeypatch, make, time_slice=SLICE):
    """``make`` gives taps, machines and tasks, fresh ones on each call; returns the counts."""
    monkeypatch.setattr(batches, "_LEAST", 20)
    monkeypatch.setattr(batches, "_PLANNED", 300)
    taps, machines, tasks = make()
    *_, done = interleave(tasks, time_slice)
    assert done == sum(len(task.what) for task in tasks)
    fast = state(taps, machines)
    taps, machines, tasks = make()
    one_by_one(tasks, time_slice)
    assert fast == state(taps, machines)
    return fast[0]


@pytest.mark.parametrize("options", [{}, {"pcid": True, "kpti": True}], ids=str)
@pytest.mark.parametrize(
    "mmu, geometry", [("native", TINY), ("shadow", UNIFIED), ("ept", SKYLAKE), ("npt", TINY)]
)
def test_processes_of_one_kernel_take_turns(mmu, geometry, options, monkeypatch):
    def make():
        tap = ByProcess()
        machine = Machine(mmu, geometry=geometry, tap=tap, **options)
        lengths = {"a": 2000, "b": 900, "c": 1500}
        return (
            [tap],
            [machine],
            [
                Task(machine, program(seed, 40 + 30 * seed, length), name)
                for seed, (name, length) in enumerate(lengths.items())
            ],
        )

    (counts,) = check(monkeypatch, make)
    assert set(counts) == {"", "a", "b", "c"}
    lookups = {name: sum(program.lookups.values()) for name, (program, _) in counts.items()}
    assert lookups[""] == 0
    assert 2000 <= lookups["a"] < 2500  # and the retries after faults


def test_a_pcid_keeps_translations_over_a_switch(monkeypatch):
    def misses(**options):
        tap = ByProcess()
        machine = Machine("ept", tap=tap, **options)
        list(interleave([Task(machine, program(n, 20), str(n)) for n in range(2)], 200))
        return sum(tap.of[str(n)].program.lookups["miss"] for n in range(2))

    assert misses(pcid=True) < misses() / 2


def crowded(mmus, swapped=None):
    """VMs that together touch more than their host has."""
    taps = [ByProcess() for _ in mmus]
    server = Server("9M", swap="64M", tap=lambda one: swapped is not None and swapped.append(one))
    machines = [
        Machine(mmu, server=server, guest_memory="16M", tap=tap)
        for mmu, tap in zip(mmus, taps, strict=True)
    ]
    tasks = [
        Task(machine, program(n, 800, 1200), name)
        for n, machine in enumerate(machines)
        for name in ("a", "b")
    ]
    return taps, machines, tasks


def test_vms_take_turns_and_take_memory_from_one_another(monkeypatch):
    records = []
    counts = check(monkeypatch, lambda: crowded(("ept", "shadow"), records), time_slice=600)
    assert any(isinstance(one, HostSwappedOut) for one in records)
    for of in counts:
        assert of["a"][0].all_exits > 0


def test_a_schedule_without_accesses_is_refused():
    with pytest.raises(BadChoice, match="a time slice of 0 accesses never ends"):
        next(interleave([], 0))
    assert list(interleave([])) == [0]
