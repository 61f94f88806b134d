"""Guest programs: the same operations for every design, and an end that is the same too."""

from itertools import islice

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.guest.records import Executed, Exited, Forked, PageCopied, SystemCall
from kvmlab.hardware.records import Kind
from kvmlab.machine import MMUS, Machine
from kvmlab.workloads.programs import (
    HEAP,
    PAGE,
    Fork,
    Mmap,
    Munmap,
    Runner,
    Switch,
    Touch,
    boot_storm,
    populate,
    random_access,
    remap,
)


def test_a_seed_makes_a_program_and_another_seed_another():
    first, again, other = (list(boot_storm(seed, 5)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kpti", [False, True])
def test_a_boot_storm_forks_executes_and_ends_and_leaves_nothing(mmu, kpti):
    records = []
    runner = Runner(Machine(mmu, kpti=kpti, tap=records.append))
    kernel = runner._kernel
    runner.run(boot_storm(1, 0))
    before = kernel.frames.buddy.free_frames
    records.clear()
    program = islice(boot_storm(1, 3), BEGINNING, None)
    done = runner.run(program)
    count = {kind: sum(isinstance(one, kind) for one in records) for kind in KINDS}
    assert {kind: count[kind] for kind in (Forked, Executed, Exited)} == dict.fromkeys(KINDS[:3], 3)
    assert 1 <= count[PageCopied] <= 3  # the shell's page, unless it was copied already
    assert count[SystemCall] > 3 * 10 * 4
    assert done > 200
    assert [one.name for one in kernel.processes] == ["init", "logger", "udev"]
    assert before - kernel.frames.buddy.free_frames <= 3  # copies that the shell has of its pages


BEGINNING = 1 + 16 + 2  # of the shell: its heap, its daemons
KINDS = (Forked, Executed, Exited, PageCopied, SystemCall)


def test_random_access_stays_in_its_area_and_reaches_all_of_it():
    touched = {one.gva // PAGE for one in random_access(3, HEAP, 16 * PAGE, 400)}
    assert touched == set(range(HEAP // PAGE, HEAP // PAGE + 16))


def test_populate_touches_each_page_once_and_remap_unmaps():
    assert list(populate(HEAP, 2 * PAGE)) == [
        Mmap(HEAP, 2 * PAGE),
        Touch(HEAP, Kind.WRITE),
        Touch(HEAP + PAGE, Kind.WRITE),
    ]
    assert list(remap(HEAP, 1, populate=True))[-1] == Munmap(HEAP)


def test_a_process_that_is_not_alive_is_named_with_those_that_are():
    runner = Runner(Machine("native"))
    with pytest.raises(BadChoice, match="no process 'ghost' is alive; there are init, child"):
        runner.run([Fork("child"), Switch("ghost")])
