"""Programs that call their kernel, compared: the same operations, at each design's price."""

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.machine import DESIGNS
from kvmlab.study.compare import compare, study
from kvmlab.workloads.synthetic import make


@pytest.fixture(scope="module")
def rows():
    return {row.mmu: row for row in compare(make("mmap:rounds=12,pages=6"), DESIGNS)}


def test_every_design_makes_the_same_accesses_and_faults(rows):
    """A page that was mapped anew faults once, whatever translates."""
    program = make("mmap:rounds=12,pages=6")
    touches = len(program) - 2 * 12
    assert {(row.records, row.accesses) for row in rows.values()} == {(len(program), touches)}
    assert {row.total.page_faults for row in rows.values()} == {touches}


def test_remapping_costs_exits_under_shadow_paging_and_few_under_ept(rows):
    """Frames that come back are mapped by EPT already; a shadow entry is made anew each time."""
    assert sum(rows["native"].total.by_reason.values()) == 0
    shadow, ept = (sum(rows[mmu].total.by_reason.values()) for mmu in ("shadow", "ept"))
    assert shadow > 10 * ept > 0


def test_forks_cost_most_exits_under_shadow_paging():
    rows = {row.mmu: row for row in compare(make("fork:forks=6,pages=12,touched=3"))}
    shadow, ept = (sum(rows[mmu].total.by_reason.values()) for mmu in ("shadow", "ept"))
    assert shadow > 5 * ept
    assert rows["shadow"].shadow_bytes_peak > 0


def test_a_server_runs_under_every_design_to_the_same_faults():
    program = make("server:workers=2,requests=12,pages=24")
    rows = compare(program, ("native", "shadow", "ept", "agile"))
    assert len({row.total.page_faults for row in rows}) == 1


def test_progress_counts_operations_to_the_last():
    program = make("mmap:rounds=60,pages=40")
    told = []
    compare(program, ["ept"], lambda mmu, done, total: told.append((done, total)))
    assert told[0] == (0, len(program))
    assert told[-1] == (len(program), len(program))
    assert len(told) > 2


def test_it_can_be_run_a_slice_at_a_time_and_left(rows):
    run = study(make("mmap:rounds=12,pages=6"), "ept")
    assert next(run) == (0, rows["ept"].records)
    run.close()


def test_its_mappings_are_of_small_pages_only():
    with pytest.raises(BadChoice, match="mmap maps pages of 4K; other sizes are for traces"):
        compare(make("mmap"), ["ept"], guest_page="2M")
