"""The engine against the reference on random tables, in one and two dimensions.

Which accessed bits a walk that faults leaves behind is the processor's choice.  Both choices are
tried: none (the engine's default, and KVM's), and those of the upper entries that were read (as
QEMU sets them; the engine's option).  ``KVMLAB_SEED`` repeats a seed and ``KVMLAB_CASES`` takes
another number of cases; a difference names its case, which `tests.tables` makes again from it.
"""

import os

import pytest

from tests import reference, tables
from tests.engine_against_reference import SEED, differences, say, warm_differences
from tests.engine_under_test import ask

CASES = int(os.environ.get("KVMLAB_CASES", "100"))
MODES = ["nopaging", "32bit", "pae", "4level", "5level"]
ORDERS = [reference.AT_END, reference.DESCENDING]


def check(cases, order):
    results = set()
    for case in cases:
        outcome, found = compare(case, order)
        assert not found, f"{case['id']}: (reference, engine) {found} in {case}"
        results.add(outcome.result)
    return results


def compare(case, order):
    controls, memory, access, nested = reference.from_case(case)
    eager = order == reference.DESCENDING
    answer, engine = ask(controls, memory, access, nested, eager=eager)
    outcome = reference.translate(controls, memory, access, nested, accessed=order)
    found = differences(engine, answer, outcome, memory)
    return outcome, found | warm_differences(engine, access, outcome)


def one_processor(case, host):
    """Guest and host on one processor: but for MAXPHYADDR, which a guest may be shown smaller."""
    guest, other = case["ctrl"], case[host]
    if host == "npt":
        guest |= {"vendor": other["vendor"], "gbpages": 1}
        other["efer_nxe"] = 1
    return case


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
def test_random_tables(mode, order, capsys):
    results = check(tables.walk_cases(mode, SEED, CASES), order)
    assert "ok" in results
    say(capsys, f"random {mode}, accessed bits {order}: {CASES} cases")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", MODES)
def test_random_tables_under_ept(mode, order, capsys):
    cases = (one_processor(one, "ept") for one in tables.ept_cases(mode, SEED, CASES))
    results = check(cases, order)
    assert {"ok", "ept_violation", "ept_misconfig"} <= results
    say(capsys, f"random {mode} under EPT, accessed bits {order}: {CASES} cases")


@pytest.mark.parametrize("order", ORDERS)
def test_random_tables_under_nested_paging_of_amd(order, capsys):
    cases = (one_processor(one, "npt") for one in tables.npt_cases(SEED, CASES))
    results = check(cases, order)
    assert {"ok", "npf"} <= results
    say(capsys, f"random 4level under NPT, accessed bits {order}: {CASES} cases")
