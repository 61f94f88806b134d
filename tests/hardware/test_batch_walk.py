"""A batch of accesses: each outcome, every count and all of memory as if walked one by one."""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.hardware.batch_walk import NOWHERE, translate
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR4_PAE, EFER_LME, Controls
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import ExitReason, Kind, Step, VmExit
from kvmlab.hardware.vmcs import Vmcs
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


def entangled():
    """EPT's root is the guest's too, and its 1 GiB leaf is the guest's 1 GiB page.

    The guest's A bit, set in the root, is a reserved bit to EPT: the walk of the page itself then
    finds a misconfiguration.
    """
    root, below = 0x1000, 0x2000
    ram = Ram(1 << 31)
    ram.store(root, below | 7)
    ram.store(below, 0x80 | 6 << 3 | 7)
    controls = Controls(cr0=CR0_PE | CR0_PG, cr3=root, cr4=CR4_PAE, efer=EFER_LME)
    cpu = Cpu(ram)
    cpu.enter(Vmcs(lambda _exit: None, controls, eptp=root | 0x1E))
    return cpu


def test_an_entry_of_both_dimensions_is_walked_access_by_access():
    accesses = np.array([0x5000], np.uint64), np.array([1], np.uint8), np.array([True])
    (expected,), references = one_by_one(cpu := entangled(), *accesses)
    assert isinstance(expected, VmExit)
    assert expected.reason is ExitReason.EPT_MISCONFIG
    walked = translate(other := entangled(), *accesses)
    assert walked.outcome(0) == expected
    assert (+walked.references, other.ram.image()) == (references, cpu.ram.image())
