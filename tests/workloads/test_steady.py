"""A guest in its steady state: as many accesses, remaps and switches as were asked for."""

from itertools import islice

import numpy as np
import pytest

from kvmlab.base.errors import BadSize
from kvmlab.workloads.programs import HEAP, PAGE, Mmap, Munmap, Switch, Touch
from kvmlab.workloads.steady import ROUND, Steady


def parts(program, count):
    """The accesses of so many rounds as one array, and the operations between them."""
    steps = [step for one in islice(program.rounds(), count) for step in one]
    arrays = [step for step in steps if isinstance(step, np.ndarray)]
    return np.concatenate(arrays), [step for step in steps if not isinstance(step, np.ndarray)]


@pytest.mark.parametrize("switches", [0, 1, 7, 600, 1000])
@pytest.mark.parametrize("remaps", [0, 3, 100])
def test_a_round_is_a_thousand_accesses_with_its_remaps_and_switches(remaps, switches):
    accesses, between = parts(Steady(8, remaps, switches), 3)
    kinds = [type(one) for one in between]
    assert len(accesses) == 3 * ROUND
    for kind in (Munmap, Mmap, Touch):
        assert kinds.count(kind) == 3 * remaps
    back = switches % 2  # an odd number of switches ends in the other process
    assert kinds.count(Switch) == 3 * (switches + back)


def test_accesses_are_words_spread_over_all_pages_of_the_working_set():
    accesses, _ = parts(Steady(16), 4)
    pages, counts = np.unique((accesses - np.uint64(HEAP)) // np.uint64(PAGE), return_counts=True)
    assert pages.tolist() == list(range(16))
    assert counts.min() > 0.7 * 4000 / 16
    assert not (accesses % np.uint64(8)).any()


def test_a_seed_is_a_program():
    one, same, other = (parts(Steady(16, seed=seed), 1)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_switches_alternate_between_two_processes():
    _, between = parts(Steady(4, 0, 4), 1)
    assert [one.to for one in between] == ["other", "init", "other", "init"]


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"pages": 0}, "0 pages are out of range; choose 1 to 32768"),
        ({"pages": 1 << 20}, "1048576 pages"),
        ({"remaps": 1001}, "1001 remaps"),
        ({"switches": -1}, "-1 switches"),
    ],
)
def test_what_cannot_be_run_is_refused(values, complaint):
    with pytest.raises(BadSize, match=complaint):
        Steady(**values)
