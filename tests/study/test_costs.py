"""Costs in cycles: sums of counted events at prices that each name a source."""

import pytest

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.hardware.records import (
    ExitReason,
    NestedTlbLookup,
    Step,
    TlbLookup,
    Verdict,
    VmEntry,
    VmExit,
    WalkCacheLookup,
)
from kvmlab.study.compare import compare
from kvmlab.study.costs import GRADED, MODELS, model_named
from kvmlab.study.counters import Counters
from kvmlab.workloads import shipped


def nested_walk():
    """The 24 references of a complete miss with 4 levels on 4: 5 EPT walks, 4 guest entries."""
    for level in (4, 3, 2, 1):
        yield from (("ept", one) for one in (4, 3, 2, 1))
        yield "guest", level
    yield from (("ept", one) for one in (4, 3, 2, 1))


def tally(references=(), exits=(), cached=()):
    counters = Counters()
    counters(TlbLookup(0, 1, True, "miss"))
    for table, level in references:
        counters(Step(table, level, 0, 0, 0, 0, Verdict.TABLE))
    for record in cached:
        counters(record)
    for reason in exits:
        counters(VmExit(reason, 0, 0, 0))
        counters(VmEntry(None))
    return counters.total


@pytest.mark.parametrize(
    "model, cycles", [("l1", 24 * 4), ("dram", 24 * 200), ("graded", 6 * (54 + 14 + 4 + 4))]
)
def test_a_nested_walk_costs_its_24_references(model, cycles):
    found = model_named(model).cycles(tally(nested_walk()))
    assert found.total == found.walks == cycles
    assert found.references["ept"] * 1 == found.references["guest"] * 5


def test_all_in_l1_is_near_what_the_artifact_measured():
    """SagePTE's smoke test: 9548 nested walks, 108.84 cycles on average with all in L1."""
    assert model_named("l1").cycles(tally(nested_walk())).total == pytest.approx(108.84, rel=0.15)


def test_in_the_graded_model_the_leaf_costs_most_as_sagepte_found():
    """Shares of the last host walk by level, GUPS: 34.3, 7.8, 1.2 and 0.9 % from the leaf up."""
    prices = [GRADED.rows[f"reference.{level}"].cycles for level in (1, 2, 3, 4)]
    shares = [one / sum(prices) for one in prices]
    measured = [one / 44.2 for one in (34.3, 7.8, 1.2, 0.9)]
    assert shares == pytest.approx(measured, abs=0.07)


def test_exits_cost_a_round_trip_each_or_what_their_reason_costs():
    exits = [ExitReason.EPT_VIOLATION] * 3 + [ExitReason.CR_ACCESS] * 2
    assert GRADED.cycles(tally(exits=exits)).exits == {
        "CR_ACCESS": 2 * 1360,
        "EPT_VIOLATION": 3 * 1360,
    }
    pkvm = model_named("alder-lake").cycles(tally(exits=exits))
    assert pkvm.exits == {"CR_ACCESS": 2 * 1360, "EPT_VIOLATION": 3 * 7000}
    assert model_named("arrow-lake").exit("EPT_VIOLATION").cycles == 16_000
    assert model_named("boot-log").exit("INVLPG").cycles == 13_436_425_563 // 583_999 + 1


def test_what_caches_answer_costs_one_cycle():
    hits = [WalkCacheLookup(0, 2), NestedTlbLookup(0, True)]
    misses = [WalkCacheLookup(0, 0), NestedTlbLookup(0, False)]
    found = GRADED.cycles(tally(cached=[*hits, *misses]))
    assert (found.cached, found.total) == (2, 2)


def test_every_price_names_its_source():
    for model in MODELS:
        assert {f"reference.{level}" for level in range(1, 6)} | {"cached", "exit"} <= {*model.rows}
        for row, cost in model.rows.items():
            assert cost.cycles > 0, row
            assert any(mark in cost.source for mark in ("DMT", "20", "pKVM")), row


def test_one_number_can_be_replaced_and_the_table_says_so():
    edited = GRADED.edit("exit.INVLPG", 10).edit("reference.1", 100)
    assert edited.edited == {"exit.INVLPG": 10, "reference.1": 100}
    assert edited.cycles(tally([("guest", 1)], [ExitReason.INVLPG])).total == 110
    assert edited.rows["reference.1"].source == "set by the user"
    assert GRADED.edited == {}
    assert GRADED.cycles(tally([("guest", 1)], [ExitReason.INVLPG])).total == 54 + 1360


@pytest.mark.parametrize(
    "row, cycles, error, complaint",
    [
        ("exit.COFFEE", 1, BadChoice, "'exit.COFFEE'"),
        ("reference.6", 1, BadChoice, "reference.5"),
        ("exit", -1, BadSize, "-1"),
        ("exit", 1 << 50, BadSize, str(1 << 50)),
    ],
)
def test_what_cannot_be_is_refused(row, cycles, error, complaint):
    with pytest.raises(error, match=complaint):
        GRADED.edit(row, cycles)


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(BadChoice, match=r"'free'.*graded"):
        model_named("free")


def test_a_row_has_the_cycles_of_its_counts():
    table = GRADED.edit("exit", 2000)
    (row,) = compare(shipped("ls").head(3000), ["shadow"], prices=table)
    found = row.to_json()
    assert found["costs"] == {"model": "graded", "edited": {"exit": 2000}}
    assert found["cycles_of"]["exits"] == {
        reason: 2000 * number for reason, number in found["exits"].items()
    }
    parts = found["cycles_of"]
    sums = sum(parts["references"].values()) + parts["cached"] + sum(parts["exits"].values())
    assert found["cycles"] == sums > 0
