"""The pictures of tables that a learner builds: trees, bits, and an access told step by step."""

import re

import pytest

from kvmlab.figures.bits import bits_scene
from kvmlab.figures.builder import builder_scene, changes_table, machine_scene
from kvmlab.figures.tree import MOST_ROWS, draw, read_key
from kvmlab.machine import Machine
from kvmlab.study.builder import VERBS, Builder
from kvmlab.study.builder_machine import usual_deeds
from kvmlab.study.tree import entries, entry_at, guest_tables, guest_tree
from kvmlab.text import speaking


def built(mmu="ept", levels=4, deeds=(), **options):
    builder = Builder(mmu, levels=levels, **options)
    for verb, *values in [*usual_deeds(levels), *deeds]:
        VERBS[verb].act(builder, *values)
    return builder


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_every_entry_is_in_the_drawing_and_in_the_table(levels):
    builder = built(levels=levels)
    scene = builder_scene(builder)
    shown = {read_key(key) for key in re.findall(r'data-key="(L[^"]+)"', scene.svg)}
    assert shown == {(one.level, one.address) for one in entries(builder.tree)}
    values = {row[3].replace("_", "") for row in scene.steps[0].rows}
    assert values == {hex(one.value) for one in entries(builder.tree)}


def test_neighbours_that_map_neighbouring_pages_are_one_row():
    builder = built(deeds=[("map", "0x40000000", 64, "4K", "0x200000", "wu")])
    drawn = draw(builder.tree, guest_tables(builder.machine))
    rows = {drawn.keys[1, 0x40000000 + (n << 12)] for n in range(64)}
    assert len(rows) == 1
    assert any("×64" in row[1] for row in builder_scene(builder).steps[0].rows)
    builder.flip(1, "0x40005000", 6, True)
    drawn = draw(builder.tree, guest_tables(builder.machine))
    assert len({drawn.keys[1, 0x40000000 + (n << 12)] for n in range(64)}) == 3


def test_a_tree_that_is_too_large_is_cut_and_says_so():
    deeds = [("map", hex(n << 30), 1, "4K", "", "wu") for n in range(1, 60)]
    scene = builder_scene(built("native", deeds=deeds))
    assert len(re.findall("kvm-el", scene.svg)) <= MOST_ROWS
    assert "more entries are not drawn" in scene.caption


def test_the_steps_of_an_access_end_in_its_error_code():
    builder = built()
    scene = builder_scene(builder)
    assert [step.ask is not None for step in scene.steps] == [False, True, *[False] * 4, True]
    outcome, code = scene.steps[1].ask, scene.steps[-1].ask
    assert outcome.choices[outcome.answer] == "#PF: a right is missing"
    assert code.choices[code.answer] == "0x7: P + W/R + U/S"
    for ask in (outcome, code):
        assert len(set(ask.choices)) == len(ask.choices) == len(ask.feedback) == 4
        assert len(set(ask.feedback)) == 4
        assert ask.feedback[ask.answer].startswith("Right")
    assert scene.steps[1].lit["L1.0x400000"] == "fault"
    assert [row[2] for row in scene.steps[-1].detail.rows] == ["1", "1", "1", "0", "0", "0"]


def test_who_looks_at_the_leaf_alone_is_told_so():
    builder = built(deeds=[("flip", 3, "0x402000", 1, True)])
    builder.access("0x402000", "write", True, True)
    ask = builder_scene(builder).steps[1].ask
    assert "all levels" in ask.feedback[0]
    assert "L3" in ask.feedback[0]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("mmu", ["native", "shadow", "ept"])
def test_every_kind_of_end_is_told_with_questions_that_differ(mmu, levels, language):
    wide = levels > 2
    cases = [
        ("0x402000", [], "read"),
        ("0x500000", [], "read"),
        ("0x402000", [("flip", 1, "0x402000", 51 if wide else 2, True)], "write"),
        ("0x402000", [("set", 1, "0x402000", "0x7ffff007", True)], "write"),
        ("0x402000", [("set", 1, "0x402000", "0x7ffff007", True)], "fetch"),
    ]
    if wide:
        cases += [("0x8000000000000000", [], "read")]
        cases += [("0x402000", [("flip", 2, "0x402000", 63, True)], "fetch")]
    ends = set()
    for gva, deeds, kind in cases:
        builder = built(mmu, levels, deeds)
        builder.access(gva, kind, True, True)
        with speaking(language):
            scene = builder_scene(builder)
        ends.add(builder.tried.end)
        for step in scene.steps:
            assert step.sentence
            if step.ask:
                assert len(set(step.ask.choices)) == len(step.ask.choices)
    assert {"mapped", "page_fault"} <= ends
    assert wide is ("general_protection" in ends)
    assert mmu == "native" or {"mmio", "machine_check"} <= ends


def test_supervisor_refusals_name_smep_and_smap():
    builder = built(switches=("wp", "smep", "smap"))
    for kind, name in (("fetch", "SMEP"), ("write", "SMAP")):
        builder.access("0x402000" if kind == "write" else "0x400000", kind, False, True)
        assert f"CR4.{name}" in builder_scene(builder).steps[1].sentence


@pytest.mark.parametrize("levels, width", [(2, 32), (3, 64), (5, 64)])
def test_an_entry_is_drawn_bit_by_bit(levels, width):
    builder = built(levels=levels)
    tables = guest_tables(builder.machine)
    entry = entry_at(builder.tree, tables, 1, 0x400000)
    step = bits_scene(entry, tables).steps[0]
    keys = re.findall(r'data-key="bit\.(\d+)"', bits_scene(entry, tables).svg)
    assert sorted(map(int, keys)) == list(range(width))
    assert sum(1 << int(key[4:]) for key in step.lit) == entry.value


def test_a_reserved_bit_that_is_set_is_a_fault_in_the_picture():
    builder = built(deeds=[("flip", 1, "0x400000", 51, True)])
    tables = guest_tables(builder.machine)
    entry = entry_at(builder.tree, tables, 1, 0x400000)
    assert bits_scene(entry, tables).steps[0].lit["bit.51"] == "fault"


def test_what_a_deed_wrote_is_in_a_table_before_and_after():
    builder = built(deeds=[("protect", "0x402000", 1, "4K", "u", True)])
    (row,) = changes_table(builder).rows
    assert row[:2] == ["L1", "0x40_2000"]
    assert int(row[2], 16) ^ int(row[3], 16) == 2
    assert builder_scene(builder).steps[0].lit == {"L1.0x402000": "now"}


def test_a_process_with_a_hostile_name_is_text():
    machine = Machine("ept")
    machine.guest.switch(machine.guest.spawn("<img src=x onerror=alert(1)>"))
    scene = machine_scene(machine)
    assert "<img" not in scene.svg
    assert guest_tree(machine).entries == []


def test_what_hardware_marked_is_not_shown_before_the_question_is_answered():
    builder = built()
    builder.access("0x402000", "write", True, True)
    scene = builder_scene(builder)
    first = dict(re.findall(r'data-text="(used\.L1[^"]+)">([^<]*)<', scene.svg))
    assert first["used.L1.0x402000"] == "--"
    assert scene.steps[0].texts == {}
    assert scene.steps[1].texts["used.L1.0x402000"] == "AD"
    assert scene.steps[1].texts["used.L1.0x403000"] == "--"
