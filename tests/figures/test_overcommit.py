"""What is drawn, said and asked of a crowded day is what its ticks hold."""

import json
from dataclasses import asdict
from functools import cache
from xml.etree import ElementTree as ET

import pytest

from kvmlab.figures.overcommit import (
    CELLS,
    costs,
    day_scene,
    memory_curves,
    placed_sentence,
    price_sentences,
    states,
    traffic_curves,
    vm_table,
)
from kvmlab.figures.overcommit_asks import HOUR_CHOICES, hour_ask, nova_ask, worst_of
from kvmlab.study.overcommit import PAGE_MIB, SATA_MIB, Day, Setting, placement
from kvmlab.text import speaking


@cache
def day(**chosen):
    made = Day(Setting(**chosen))
    for _tick in made.run():
        pass
    return made


def scene(made):
    return day_scene(made.setting, made.placed, made.ticks)


CROWDED = {"ratio": 3.0, "wanted": 24}


def test_each_hour_is_a_step_with_the_numbers_of_its_tick():
    made = day()
    steps = scene(made).steps
    rows = [row for step in steps for row in step.rows]
    assert [row[0] for row in rows] == [f"{hour}:00" for hour in range(25)]
    assert [row[2] for row in rows] == [f"{one.rss * PAGE_MIB:,}" for one in made.ticks]
    assert {len(row) for row in rows} == {len(scene(made).columns)}
    assert steps[14].texts["n.free"] == f"{made.ticks[14].free * PAGE_MIB:,}"


@pytest.mark.parametrize("chosen", [{}, CROWDED, {"manager": "esx"}], ids=str)
def test_cells_are_in_proportion_and_every_key_is_drawn(chosen):
    made = day(**chosen)
    drawing = scene(made)
    drawn = list(ET.fromstring(drawing.svg).iter())  # noqa: S314  our own
    keys = {one.get("data-key") for one in drawn} | {one.get("data-text") for one in drawn}
    for step in drawing.steps:
        assert set(step.lit) | set(step.texts) <= keys
    for tick in made.ticks:
        for one in tick.vms:
            marks = states(one)
            assert len(marks) == CELLS
            if one.alive:
                assert abs(marks.count("R") - CELLS * one.rss / one.pages) <= 1
                assert abs(marks.count("B") - CELLS * one.balloon / one.pages) <= 1
            else:
                assert set(marks) == {"×"}
    assert len(json.dumps(drawing.to_json())) < 250_000
    assert drawing.to_json() == asdict(drawing)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "chosen", [{}, CROWDED, {"manager": "mom"}, {"ratio": 1.0}, {"ksm": True}], ids=str
)
def test_everything_is_said_in_both_languages(chosen, language):
    made = day(**chosen)
    with speaking(language):
        assert placed_sentence(made.setting, made.placed)
        assert price_sentences(made.placed, made.ticks)
        for step in scene(made).steps:
            if step.ask:
                assert len(set(step.ask.choices)) == len(step.ask.choices) >= 2
                assert len(step.ask.feedback) == len(step.ask.choices)
        assert vm_table(made.ticks[3]).rows


def test_how_many_nova_places_is_asked_first():
    for chosen, right in (({}, 11), ({"wanted": 3}, 3), ({"ratio": 1.0}, 7), (CROWDED, 23)):
        setting = Setting(**chosen)
        ask = nova_ask(setting, placement(setting))
        assert ask.choices[ask.answer] == str(right)
        assert sum(one.startswith("Right") for one in ask.feedback) == 1
        assert len(ask.choices) >= 2


def test_the_hour_of_the_peak_is_asked_with_what_happened():
    found = set()
    for chosen in ({"ratio": 1.0}, {}, {"manager": "mom"}, CROWDED):
        tick = day(**chosen).ticks[14]
        ask = hour_ask(tick)
        assert ask.choices[ask.answer] == hour_ask(tick).choices[HOUR_CHOICES.index(worst_of(tick))]
        assert ask.feedback[ask.answer].startswith("Right")
        found.add(worst_of(tick))
    assert len(found) >= 3
    asked = [at for at, step in enumerate(scene(day()).steps) if step.ask]
    assert asked == [0, 14]


def test_the_price_is_the_sum_of_the_ticks():
    made = day(**CROWDED)
    paid = costs(made.ticks)
    assert paid.swap_out == sum(one.swap_out for one in made.ticks) > 0
    assert paid.stall == (paid.swap_in + paid.guest_in) * PAGE_MIB / SATA_MIB
    told = " ".join(price_sentences(made.placed, made.ticks))
    assert f"{paid.swap_out * PAGE_MIB:,} MiB out" in told
    assert f"{len(paid.killed)} VMs were killed" in told
    assert "not called in" in " ".join(price_sentences(day(ratio=1.0).placed, day(ratio=1.0).ticks))


def test_tables_and_curves_have_the_same_numbers():
    made = day()
    memory, traffic = memory_curves(made.ticks), traffic_curves(made.ticks)
    assert (memory.y_axis, traffic.y_axis) == ("memory (GiB)", "traffic (GiB per hour)")
    assert memory.curves[1].values[14] == made.ticks[14].rss * PAGE_MIB / 1024
    assert traffic.curves[0].values[14] == made.ticks[14].swap_out * PAGE_MIB / 1024
    assert all("(" in one for one in (memory.x_axis, memory.y_axis))
    rows = vm_table(made.ticks[14]).rows
    assert [row[0] for row in rows] == made.placed.names
    assert rows[0][4] == f"{made.ticks[14].vms[0].rss * PAGE_MIB:,}"


def test_a_hostile_name_is_text():
    made = day(names="<img src=x onerror=alert(1)>,b & c", wanted=3)
    svg = scene(made).svg
    assert "<img" not in svg
    assert "&lt;img src=x onerror" in svg
    assert vm_table(made.ticks[0]).rows[0][0] == "<img src=x onerror=alert(1)>"
