"""Synthetic programs: what each one's name promises, and the very same bytes everywhere."""

import hashlib
from collections import Counter
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import workloads
from kvmlab.base.errors import BadChoice, TraceError
from kvmlab.guest.records import Exited, Forked
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.workloads import Scenario, Trace
from kvmlab.workloads.dice import Dice, below, permutation, words
from kvmlab.workloads.programs import HEAP, PAGE, Fork, Mmap, Munmap, Runner, Switch, Touch
from kvmlab.workloads.synthetic import RECIPES, make

# SHA-256 of each with its defaults, as `digest` takes it.
GOLDEN = {
    "sequential": "a7ebb7c98ef0e8c431477a618b41143b",
    "strided": "a3179ad54ecb7c4eb5929f33fa2653d4",
    "random": "d8ccbb6e60108a83cb2454838c89a324",
    "zipf": "30e250115fbcee60f78b9c6afe1bd344",
    "chase": "2b1939591ddf4f6b9b4fdfa10f789086",
    "matmul": "03bf72bf4ba1f139c9f3815488b74b7f",
    "gups": "974b29b87481de0fbc73fe58ca1841dd",
    "fork": "a35431dcb6677a0526d58e30c843f001",
    "mmap": "308fa80e0207a78d3bd3032353e582fd",
    "server": "7bd170883b2826fcf782eb4beff02fb6",
}


def digest(program):
    """Of the columns in little-endian order; of operations, of their names and values."""
    made = hashlib.sha256()
    if isinstance(program, Trace):
        for column in (program.kinds, program.addresses, program.sizes):
            made.update(column.astype(column.dtype.newbyteorder("<")).tobytes())
    else:
        for operation in program.operations():
            values = [getattr(operation, one.name) for one in fields(operation)]
            plain = [int(one) if isinstance(one, int) else one for one in values]
            made.update(f"{type(operation).__name__}{plain}".encode())
    return made.hexdigest()[:32]


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_parameters_give_the_same_bytes_everywhere(name):
    assert digest(make(name)) == GOLDEN[name]


@pytest.mark.parametrize("name", [one for one in RECIPES if "seed" in RECIPES[one].parameters])
def test_another_seed_gives_another_program(name):
    assert digest(make(f"{name}:seed=1")) == digest(make(name))
    assert digest(make(f"{name}:seed=2")) != digest(make(name))


# -- random numbers ---------------------------------------------------------------------------


def splitmix(seed, count):
    """SplitMix64 as its paper has it, one number after the other."""
    mask, state = (1 << 64) - 1, seed
    for _ in range(count):
        state = state + 0x9E3779B97F4A7C15 & mask
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        yield z ^ z >> 31


def test_the_first_words_are_those_that_others_publish():
    """From seed 1234567, as in the test vectors of many implementations of SplitMix64."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert words(1234567, 3).tolist() == published


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 40), st.integers(0, 39))
def test_words_are_splitmix64_from_wherever_they_are_taken(seed, count, first):
    assert words(seed, count, first).tolist() == list(splitmix(seed, first + count))[first:]


@given(st.integers(0, 1 << 32), st.integers(1, 1 << 32))
def test_dice_throw_the_numbers_of_the_array(seed, limit):
    dice = Dice(seed)
    thrown = [dice.below(limit) for _ in range(1030)]
    assert thrown == below(seed, 1030, limit).tolist()
    assert 0 <= min(thrown) <= max(thrown) < limit


@given(st.integers(0, 1 << 32), st.integers(0, 300))
def test_a_permutation_has_every_number_once(seed, count):
    assert sorted(permutation(seed, count).tolist()) == list(range(count))


# -- patterns ---------------------------------------------------------------------------------


def offsets(text):
    trace = make(text)
    found = trace.addresses.astype(np.int64) - HEAP
    assert (found % 8 == 0).all()
    assert found.min() >= 0
    return found


@pytest.mark.parametrize("name", ["sequential", "strided", "random", "zipf", "chase", "gups"])
def test_a_pattern_stays_in_its_pages_and_has_its_length(name):
    found = offsets(f"{name}:pages=5,count=3000")
    assert len(found) == 3000
    assert found.max() < 5 * PAGE
    assert set((found // PAGE).tolist()) == set(range(5))


def test_sequential_takes_every_word_in_order_and_begins_again():
    assert offsets("sequential:pages=1,count=600").tolist() == [8 * (n % 512) for n in range(600)]


def test_strided_takes_a_word_every_stride():
    assert offsets("strided:pages=4,count=5,stride=4096").tolist() == [0, 4096, 8192, 12288, 0]
    assert offsets("strided:pages=4,count=3,stride=12").tolist() == [0, 8, 24]


@pytest.mark.parametrize("name, share", [("random", 30), ("zipf", 30), ("sequential", 30)])
def test_so_many_per_cent_are_writes(name, share):
    trace = make(f"{name}:count=20000,writes={share}")
    assert abs((trace.kinds == Kind.WRITE).mean() - share / 100) < 0.02


def test_random_takes_all_pages_alike():
    pages = np.bincount(offsets("random:pages=8,count=80000") // PAGE)
    assert abs(pages / 10_000 - 1).max() < 0.05


@pytest.mark.parametrize("skew", [50, 100, 200])
def test_zipf_takes_the_k_th_page_in_proportion_to_a_power_of_k(skew):
    pages = np.bincount(offsets(f"zipf:pages=50,count=200000,skew={skew}") // PAGE, minlength=50)
    weights = np.arange(1, 51) ** -(skew / 100)
    expected = 200_000 * weights / weights.sum()
    found = np.sort(pages)[::-1]
    assert (abs(found - expected) < 6 * np.sqrt(expected) + 3).all()
    assert found.tolist() != pages.tolist(), "popular pages lie anywhere"


def test_zipf_without_skew_takes_all_pages_alike():
    pages = np.bincount(offsets("zipf:pages=8,count=80000,skew=0") // PAGE)
    assert abs(pages / 10_000 - 1).max() < 0.05


def test_chase_visits_every_page_once_a_round_in_the_same_random_order():
    found = offsets("chase:pages=100,count=250")
    rounds = found[:100].tolist(), found[100:200].tolist(), found[200:].tolist()
    assert rounds[0] == rounds[1]
    assert rounds[2] == rounds[0][:50]
    assert len({one // PAGE for one in rounds[0]}) == 100
    assert sum(b == a + PAGE for a, b in pairwise(found)) < 10
    assert set(make("chase:pages=3").kinds.tolist()) == {Kind.READ}


def test_matmul_accesses_what_the_three_loops_do():
    size, expected = 3, []
    for i in range(size):
        for j in range(size):
            for k in range(size):
                expected += [(Kind.READ, 8 * (i * size + k))]
                expected += [(Kind.READ, 8 * (size * size + k * size + j))]
            expected += [(Kind.WRITE, 8 * (2 * size * size + i * size + j))]
    trace = make("matmul:size=3")
    found = (trace.addresses.astype(np.int64) - HEAP).tolist()
    assert list(zip(trace.kinds.tolist(), found, strict=True)) == expected
    assert len(make("matmul:size=3,count=10")) == 10


def test_gups_writes_words_at_random():
    trace = make("gups:pages=8,count=8000")
    assert set(trace.kinds.tolist()) == {Kind.WRITE}
    assert np.bincount(offsets("gups:pages=8,count=8000") // PAGE).min() > 800


# -- programs that call their kernel ------------------------------------------------------------


def kinds(text):
    return Counter(type(one) for one in make(text).operations())


def test_a_fork_storm_forks_as_often_as_asked_and_leaves_nobody():
    records = []
    machine = Machine("native", tap=records.append)
    runner = Runner(machine)
    program = make("fork:forks=5,touched=3,pages=16")
    assert runner.run(program.operations()) == len(program)
    count = Counter(type(one) for one in records)
    assert (count[Forked], count[Exited]) == (5, 5)


def test_an_mmap_storm_unmaps_all_that_it_maps():
    machine = Machine("native")
    runner = Runner(machine)
    runner.run(make("mmap:rounds=3,pages=9").operations())
    held = machine.guest.frames.buddy.free_frames
    count = kinds("mmap:rounds=40,pages=9")
    assert count[Mmap] == count[Munmap] == 40
    assert 40 <= count[Touch] <= 40 * 9
    runner.run(make("mmap:rounds=40,pages=9,seed=5").operations())
    assert abs(machine.guest.frames.buddy.free_frames - held) < 20, "tables at most"


def test_a_server_spreads_its_requests_over_its_workers():
    count = kinds("server:workers=3,requests=90")
    assert count[Fork] == 3
    assert count[Switch] == 90
    to = Counter(one.to for one in make("server:workers=3,requests=90").operations()
                 if isinstance(one, Switch))  # fmt: skip
    assert min(to.values()) > 15
    runner = Runner(Machine("ept"))
    runner.run(make("server:workers=3,requests=20,pages=32").operations())


def test_a_scenario_runs_again_from_its_beginning_and_can_be_cut():
    program = make("server:requests=5")
    assert list(program.operations()) == list(program.operations())
    assert len(program.head(7)) == 7
    assert list(program.head(7).operations()) == list(program.operations())[:7]
    assert len(program.head(10**9)) == len(program)


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, why",
    [
        ("zapf", "no program 'zapf' is made up; choose one of: sequential, strided, "),
        ("zipf:", "zipf: '' is not KEY=VALUE; its keys are pages, count, skew, writes, seed"),
        ("zipf:sede=3", "zipf: 'sede=3' is not KEY=VALUE; its keys are pages, "),
        ("zipf:seed", "zipf: 'seed' is not KEY=VALUE"),
        ("zipf:seed=1,seed=2", "zipf: seed is given twice"),
        ("zipf:pages=0", "zipf: pages=0 is not possible; write 1 to 65,536"),
        ("zipf:pages=-1", "zipf: pages=-1 is not possible"),
        ("zipf:pages=x", "zipf: pages=x is not possible"),
        ("gups:count=99999999999999", "gups: count=99999999999999 is not possible; write 1 to 10,"),
        ("mmap:rounds=²", "mmap: rounds=² is not possible"),
    ],
)
def test_a_name_that_cannot_be_made_is_one_line(text, why):
    with pytest.raises(BadChoice) as caught:
        make(text)
    assert str(caught.value).startswith(why)


@given(st.text("zipf:seed=,12-", max_size=20))
def test_any_text_is_a_program_or_one_line(text):
    try:
        said = make(f"chase:{text}").name
    except BadChoice as error:
        said = str(error)
    assert said.isprintable()


def test_a_program_is_found_by_what_a_person_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert workloads.named("sort", 5).name == "sort"
    assert len(workloads.named("zipf:count=50", 5)) == 5
    assert isinstance(workloads.named("fork"), Scenario)
    (tmp_path / "zipf").write_text(" L 10,1\n")
    assert len(workloads.named("./zipf")) == 1
    with pytest.raises(TraceError, match=r"^zapf cannot be opened"):
        workloads.named("zapf")


def test_who_takes_accesses_only_says_so():
    assert len(workloads.trace_named("gups:count=9")) == 9
    with pytest.raises(BadChoice, match="fork calls its kernel; only a trace can be taken here"):
        workloads.trace_named("fork")
