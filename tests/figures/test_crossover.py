"""The crossing of two designs as curves, a table and a sentence that say the same."""

import pytest

from kvmlab.figures.crossover import caption, chart, crossover_page, curves, sentence, table
from kvmlab.study.costs import GRADED
from kvmlab.study.crossover import Plan, crossover
from kvmlab.text import LANGUAGES, speaking
from kvmlab.workloads.steady import Steady


@pytest.fixture(scope="module")
def found():
    plan = Plan("remaps", 0, 8, Steady(pages=64), tlb="16x4", walk_caches="on", rounds=1)
    return crossover(plan)


def test_curves_are_the_slowdowns_of_the_points_under_letters(found):
    drawn = curves(found)
    assert list(drawn.xs) == [point.x for point in found.points]
    assert [one.name for one in drawn.curves] == ["H: shadow paging", "H: EPT", "G: native paging"]
    for curve, mmu in zip(drawn.curves, ("shadow", "ept", "native"), strict=True):
        assert curve.values == [point.slowdown(mmu, GRADED) for point in found.points]
    assert set(drawn.curves[2].values) == {1.0}
    assert drawn.x_axis == "pages remapped per thousand accesses"


def test_the_sentence_and_the_drawing_name_the_bracket(found):
    told = sentence(found)
    assert f"shadow paging is cheaper up to {found.low} pages remapped" in told
    assert f"EPT from {found.high} on" in told
    assert f"they cross between {found.low} and {found.high}" in chart(found)


def test_the_table_has_a_line_for_each_point(found):
    lines = table(found)
    assert [row[0] for row in lines.rows] == [str(point.x) for point in found.points]
    assert all(len(row) == len(lines.columns) == 1 + 2 * 4 for row in lines.rows)
    last = found.points[-1].runs["shadow"].total
    assert f"{last.all_exits:,}" in lines.rows[-1]


def test_the_caption_says_what_ran_at_which_prices_and_how_it_was_counted(found):
    told = caption(found)
    for words in (
        "a working set of 64 pages, seed 1; TLB 16x4, walk caches on",
        "“graded”",
        "4 cycles an access",
        "every table write traps",
        "A reference is one page-table-entry read",
    ):
        assert words in told
    assert "process switches" not in told


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_speaks_every_language_and_has_its_twin(found, language):
    with speaking(language):
        text = crossover_page(found)
        assert sentence(found) in text
    assert f'<html lang="{language}">' in text
    assert text.count("<svg") == text.count("<table") == 1
