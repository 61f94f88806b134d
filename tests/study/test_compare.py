"""What a comparison says: true to the records, equal where designs must agree."""

import json

import numpy as np
import pytest

from kvmlab import workloads
from kvmlab.base.errors import BadChoice, TraceError
from kvmlab.hardware.records import Kind
from kvmlab.study.compare import Options, compare, study
from kvmlab.workloads import Trace

EXCEPTION = "EXCEPTION"
KEYS = {"trace", "mmu", "accesses", "tlb_misses", "references", "exits", "table_bytes"}


def pages(count, kind=Kind.WRITE, rounds=1):
    """A program that touches ``count`` pages, one after the other, ``rounds`` times."""
    addresses = np.tile(0x10_0000 + (np.arange(count, dtype=np.uint64) << np.uint64(12)), rounds)
    size = len(addresses)
    return Trace("pages", np.full(size, kind, np.uint8), addresses, np.full(size, 8, np.uint16))


@pytest.fixture(scope="module")
def rows():
    """The beginning of `sort` under the three designs."""
    return {row.mmu: row for row in compare(workloads.shipped("sort").head(20_000))}


def test_designs_come_in_the_order_asked_for():
    assert [row.mmu for row in compare(pages(1), ("ept", "native"))] == ["ept", "native"]


def test_the_program_makes_the_same_accesses_and_faults_under_every_design(rows):
    assert len({row.accesses for row in rows.values()}) == 1
    assert len({row.total.page_faults for row in rows.values()}) == 1
    assert len({row.table_bytes["guest"] for row in rows.values()}) == 1


def test_each_design_reads_its_own_tables(rows):
    read = {
        mmu: {name for name, count in row.total.references.items() if count}
        for mmu, row in rows.items()
    }
    assert read == {"native": {"guest"}, "shadow": {"shadow"}, "ept": {"guest", "ept"}}


def test_there_is_no_exit_without_a_hypervisor(rows):
    assert rows["native"].total.all_exits == 0
    assert set(rows["shadow"].total.by_reason) == {"EXCEPTION"}
    assert set(rows["ept"].total.by_reason) == {"EPT_VIOLATION"}


def test_every_guest_fault_is_reflected_and_its_table_write_trapped_under_shadow(rows):
    shadow = rows["shadow"].total
    assert shadow.by_deed["reflected"] == shadow.by_deed["trapped"] == shadow.page_faults


def test_a_page_fault_costs_three_exits_under_shadow():
    """Linux commit 0028425f647b: the #PF, the write of the PTE, the retry.

    100 pages are there already, so that the next one needs no new table.
    """
    (few,), (more,) = (compare(pages(count), ["shadow"]) for count in (100, 101))
    extra = more.total.exits - few.total.exits
    assert more.total.page_faults - few.total.page_faults == 1
    assert extra == {(EXCEPTION, deed): 1 for deed in ("reflected", "trapped", "filled")}
    assert more.program.exits.total() - few.program.exits.total() == 2
    assert more.kernel.exits.total() - few.kernel.exits.total() == 1  # the write of the PTE


def test_a_first_touch_costs_one_ept_violation():
    (few,), (more,) = (compare(pages(count), ["ept"]) for count in (100, 101))
    assert more.total.all_exits - few.total.all_exits == 1


def test_a_warm_tlb_costs_no_reference():
    (once,), (again,) = (compare(pages(30, rounds=n), ["ept"]) for n in (1, 2))
    assert again.total.references == once.total.references
    hits = [one.total.lookups["L1"] + one.total.lookups["L2"] for one in (once, again)]
    assert hits[1] - hits[0] == 30


def test_counting_starts_when_the_process_runs():
    (row,) = compare(pages(1), ["native"])
    assert sum(row.program.lookups.values()) == 2  # one access, tried again after its page fault


def test_shadow_pages_are_counted_to_their_peak(rows):
    shadow = rows["shadow"]
    assert shadow.shadow_bytes_peak >= shadow.table_bytes["shadow"] > 0
    assert rows["ept"].shadow_bytes_peak == rows["native"].shadow_bytes_peak == 0


def test_the_json_has_the_keys_that_others_build_on(rows):
    for row in rows.values():
        found = json.loads(json.dumps(row.to_json()))
        assert found.keys() >= KEYS
        assert set(found["references"]) == set(found["table_bytes"]) == {"guest", "ept", "shadow"}
        sides = found["program"]["tlb_misses"] + found["kernel"]["tlb_misses"]
        assert found["tlb_misses"] == sides == row.total.lookups["miss"]
        assert sum(found["exits"].values()) == sum(found["exits_served"].values())


def test_the_same_comparison_gives_the_same_numbers(rows):
    again = compare(workloads.shipped("sort").head(20_000))
    assert [row.to_json() for row in again] == [row.to_json() for row in rows.values()]


def test_progress_is_told_from_none_to_all():
    told = []
    compare(pages(3), ["ept"], lambda *heard: told.append(heard))
    assert told == [("ept", 0, 3), ("ept", 3, 3)]


def test_raising_from_progress_stops():
    class Enough(Exception):
        pass

    def stop(_mmu, done, _total):
        if done:
            raise Enough

    with pytest.raises(Enough):
        compare(pages(6000, rounds=4), progress=stop)


def test_a_study_goes_on_only_when_asked():
    run = study(pages(6000, rounds=1), "native")
    assert [next(run), next(run)] == [(0, 6000), (5000, 6000)]
    run.close()


@pytest.mark.parametrize("page", ["2M", "1G"])
def test_large_pages_need_fewer_faults_and_levels(page):
    options = Options(
        guest_page=page, host_page=page, guest_memory="3G", host_memory="8G", host_levels=5
    )
    small, large = (compare(pages(50), ["ept"], **one)[0] for one in (Options(), options))
    assert large.total.page_faults == 1 < small.total.page_faults
    assert large.program.all_references < small.program.all_references


def test_five_levels_read_more():
    four, five = (compare(pages(9), guest_levels=n, host_levels=n) for n in (4, 5))
    for shallow, deep in zip(four, five, strict=True):
        assert deep.total.all_references > shallow.total.all_references


def test_an_unknown_design_is_refused_before_anything_runs():
    told = []
    with pytest.raises(BadChoice, match="'tdp'"):
        compare(pages(1), ("ept", "tdp"), lambda *heard: told.append(heard))
    assert told == []


def test_an_empty_trace_is_refused():
    with pytest.raises(TraceError, match="no records"):
        compare(pages(1).head(0))


@pytest.mark.long
def test_the_whole_sort_is_compared_within_a_minute():
    rows = compare(workloads.shipped("sort"))
    assert {row.accesses for row in rows} == {1_025_292}
