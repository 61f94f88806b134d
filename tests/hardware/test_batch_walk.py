"""A batch of accesses: each outcome, every count and all of memory as if walked one by one."""

import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.hardware.batch_walk import NOWHERE, translate
from kvmlab.hardware.records import Kind, Step
from tests.tables_shared import MODES, shared

SEEDS = st.integers(0, 1 << 32)
EXAMPLES = settings(max_examples=int(os.environ.get("KVMLAB_CASES", "15")))


def one_by_one(cpu, addresses, kinds, user):
    """The scalar path, each access on a complete miss: outcomes and references."""
    references, outcomes = Counter(), []

    def count(record):
        if isinstance(record, Step):
            references[record.table, record.level] += 1

    cpu.tap = count
    for gva, kind, by_user in zip(addresses.tolist(), kinds.tolist(), user.tolist(), strict=True):
        cpu.flush_tlb()
        cpu.cpl = 3 if by_user else 0
        outcomes.append(cpu.attempt(gva, Kind(kind)))
    return outcomes, references


def check(seed, mode, second, **how):
    cpu, *accesses = shared(seed, mode, second, **how)
    expected, references = one_by_one(cpu, *accesses)
    other, *_ = shared(seed, mode, second, **how)
    walked = translate(other, *accesses)
    assert [walked.outcome(n) for n in range(len(expected))] == expected
    assert +walked.references == references
    assert other.ram.image() == cpu.ram.image()
    for n, outcome in enumerate(expected):
        assert int(walked.hpa[n]) == (outcome if isinstance(outcome, int) else NOWHERE)
    return {type(one) for one in expected}


@pytest.mark.parametrize("second", ["", "ept", "npt"])
@pytest.mark.parametrize("mode", MODES)
@EXAMPLES
@given(seed=SEEDS)
def test_a_batch_is_many_single_walks(mode, second, seed):
    check(seed, mode, second)


@pytest.mark.parametrize("second", ["", "ept", "npt"])
@pytest.mark.parametrize("mode", ["32bit", "pae", "4level"])
@EXAMPLES
@given(seed=SEEDS)
def test_also_where_tables_contain_one_another(mode, second, seed):
    check(seed, mode, second, tangled=True)
