"""The first traps of a program, with both trees after each; and where designs cross."""

from itertools import pairwise

import pytest

from kvmlab import workloads
from kvmlab.base.errors import BadChoice
from kvmlab.figures.traps import deed_of, most_exits, traps_scene
from kvmlab.hardware.records import ExitReason
from kvmlab.kvm.records import ShadowPageMade, SpteSet
from kvmlab.study.compare import compare
from kvmlab.study.costs import GRADED
from kvmlab.study.crossing import CALM, crossing
from kvmlab.study.traps import first_traps


@pytest.fixture(scope="module")
def trace():
    return workloads.shipped("sort").head(400)


@pytest.fixture(scope="module")
def traps(trace):
    return first_traps(trace)


def test_the_first_traps_are_those_that_a_comparison_counts(trace, traps):
    row = compare(trace, ["shadow"])[0]
    few = first_traps(trace, most=10**6)
    assert len(traps) == 12
    assert len(few) == row.total.all_exits
    assert {one.exit.reason for one in traps} == {ExitReason.EXCEPTION}


def test_the_trees_of_a_program_in_huge_pages_end_a_level_higher(trace):
    found = first_traps(trace, guest_page="2M")
    assert found
    assert min(level for trap in found for level, _ in trap.guest) == 2  # tables of PDEs


def test_a_demand_fault_is_handed_on_then_stored_then_filled(traps):
    deeds = [deed_of(one) for one in traps]
    assert deeds[0] == "reflected"
    assert deeds.index("reflected") < deeds.index("trapped") < deeds.index("filled", 4)


def test_the_shadow_tree_grows_by_what_the_records_say(traps):
    """Every shadow page that was made is a table more, and no table comes without a record."""
    for before, now in pairwise(traps):
        made = sum(isinstance(one, ShadowPageMade) for one in now.records)
        assert len(now.shadow) - len(before.shadow) == made
        entries = [sum(one.entries for one in tree.shadow.values()) for tree in (before, now)]
        filled = sum(isinstance(one, SpteSet) for one in now.records)
        assert entries[1] - entries[0] <= filled


def test_every_table_but_the_root_hangs_on_another(traps):
    for one in traps:
        for tree in (one.guest, one.shadow):
            roots = [node for node, held in tree.items() if held.parent is None]
            assert [level for level, _ in roots] == [4]
            assert all(held.parent in tree for held in tree.values() if held.parent)


def test_the_scene_lights_what_changed_and_asks_what_kvm_does(traps):
    scene = traps_scene(traps, "before", None)
    assert [step.ask is None for step in scene.steps[:2]] == [True, False]
    now = [key for key, role in scene.steps[7].lit.items() if role == "now"]
    assert [key for key in now if key.startswith("shadow")]
    assert len(scene.steps) == len(traps) + 1
    for step in scene.steps[1:]:
        assert len(set(step.ask.choices)) == 3


def test_nobody_is_asked_for_the_most_exits_where_two_have_them():
    assert most_exits(["a", "b"], [3, 3]) is None
    assert most_exits([], []) is None
    asked = most_exits(["a", "b"], [3, 4])
    assert asked.choices[asked.answer] == "b"


def test_shadow_paging_wins_where_tables_rest_and_ept_where_they_change():
    cycles = {
        mmu: [GRADED.cycles(crossing(mmu, calm)).total for calm in (CALM[0], CALM[-1])]
        for mmu in ("shadow", "ept", "native")
    }
    assert cycles["native"][0] < cycles["ept"][0] < cycles["shadow"][0]
    assert cycles["native"][1] < cycles["shadow"][1] < cycles["ept"][1]


def test_the_same_seed_is_the_same_program():
    assert crossing("ept", 32, seed=5) == crossing("ept", 32, seed=5)
    assert crossing("ept", 64, seed=5) != crossing("ept", 64, seed=6)


def test_another_number_of_accesses_is_refused():
    with pytest.raises(BadChoice, match="one of 1, 2, 4"):
        crossing("ept", 3)
