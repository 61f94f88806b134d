"""Bars, table and sentence say what the rows say; no number is made here."""

from collections import Counter

import pytest

from kvmlab.figures import modes
from kvmlab.study.compare import Row
from kvmlab.study.counters import Tally

FAULT, VIOLATION = "EXCEPTION", "EPT_VIOLATION"


def row(mmu, references, exits=(), **more):
    tables = {"guest": 0, "ept": 0, "shadow": 0}
    tally = Tally(references=tables | references, exits=Counter(dict(exits)), page_faults=2)
    values = {"table_bytes": tables | {"guest": 4096}, "shadow_bytes_peak": 0} | more
    return Row("made", mmu, 10, 1100, tally, Tally(), **values)


NATIVE = row("native", {"guest": 40})
SHADOW = row(
    "shadow",
    {"shadow": 1200},
    {(FAULT, "reflected"): 5, (FAULT, "trapped"): 6, (FAULT, "filled"): 700},
    shadow_bytes_peak=8192,
)
EPT = row("ept", {"guest": 400, "ept": 2000}, {(VIOLATION, "filled"): 9})
ALL = [NATIVE, SHADOW, EPT]


def cells(rows):
    return {name: values for name, *values in modes.table(rows).rows}


def test_references_are_stacked_by_whose_table_was_read():
    chart = modes.references(ALL)
    assert chart.bars == ["native paging", "shadow paging", "EPT"]
    assert {one.party: one.values for one in chart.series} == {
        "guest": [40, 0, 400],
        "host": [0, 0, 2000],
        "shadow": [0, 1200, 0],
    }
    assert chart.totals == [40, 1200, 2400]


def test_exits_have_a_bar_for_each_reason_and_one_for_a_design_without():
    chart = modes.exits(ALL)
    assert chart.bars == ["native paging", "shadow paging: #PF", "EPT: EPT violation"]
    assert chart.totals == [0, 711, 9]


def test_exits_are_stacked_by_what_was_done_about_them():
    series = {one.party: one.values for one in modes.exits([SHADOW]).series}
    assert series == {"guest": [5], "shadow": [6], "host": [700], "quiet": [0]}


def test_axes_say_what_they_count():
    assert modes.references(ALL).axis == "page-table entries read"
    assert modes.exits(ALL).axis == "VM exits"


def test_the_table_has_a_column_for_each_design_and_the_numbers_of_the_chart():
    table, found = modes.table(ALL), cells(ALL)
    assert table.columns == ["What is counted", "native paging", "shadow paging", "EPT"]
    assert found["References"] == ["40", "1,200", "2,400"]
    assert found["VM exits"] == ["0", "711", "9"]
    assert found["… of EPT"] == ["0", "0", "2,000"]
    assert found["… write to a guest table emulated"] == ["0", "6", "0"]


def test_rows_about_what_no_design_has_are_left_out():
    assert "… of EPT" in cells(ALL)
    assert "… of EPT" not in cells([NATIVE, SHADOW])
    assert not any("hadow" in name for name in cells([NATIVE, EPT]))


def test_the_caption_gives_the_convention_and_names_the_shadow_policy_if_there_is_one():
    assert "A reference is one page-table-entry read" in modes.caption([EPT])
    assert "every table write traps" in modes.caption(ALL)
    assert "every table write traps" not in modes.caption([NATIVE, EPT])


def test_the_sentence_says_which_design_costs_more_of_what():
    assert modes.sentence(ALL) == (
        "Most references are read under EPT (EPT 2,400, shadow paging 1,200, native paging 40), "
        "most VM exits happen under shadow paging (shadow paging 711, EPT 9, native paging 0)."
    )


def test_one_design_may_cost_the_most_of_both():
    assert modes.sentence([NATIVE, SHADOW]).endswith("come with shadow paging.")


def test_designs_that_are_equal_are_both_named():
    twin = row("ept", {"guest": 40}, {(VIOLATION, "filled"): 1})
    assert "are read under native paging and EPT (" in modes.sentence([NATIVE, twin])


@pytest.mark.parametrize(
    "rows, said",
    [([], "Choose at least one"), ([EPT], "EPT needs 2,400 references and 9 VM exits")],
)
def test_with_less_than_two_designs_it_asks_for_more(rows, said):
    assert modes.sentence(rows).startswith(said)
