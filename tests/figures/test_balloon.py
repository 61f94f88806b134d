"""What is drawn, said and asked of a balloon is what its moments hold."""

import json
import re
from xml.etree import ElementTree as ET

import pytest

from kvmlab.figures.balloon import (
    LETTERS,
    balloon_curves,
    balloon_scene,
    buddy_table,
    numbers_table,
)
from kvmlab.figures.balloon_asks import amounts_ask, grow_ask, lines_of, stats_ask
from kvmlab.figures.balloon_diagnosis import diagnoses, summary
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.machine import Machine
from kvmlab.study.inflation import Inflation
from kvmlab.study.inflation_beginning import Beginning
from kvmlab.study.inflation_look import Look
from kvmlab.text import speaking

DEEDS = (("setmem", 8192), ("grow",), ("setmem", 16384), ("shrink",), ("work",), ("read",))


def did(*deeds, **beginning):
    experiment = Inflation(Beginning(**beginning))
    for verb, *values in deeds:
        getattr(experiment, verb)(*values)
    return experiment


def scene(experiment):
    return balloon_scene(experiment.moments, experiment.deed, experiment.beginning).scene


def asks(experiment):
    return [step.ask for step in scene(experiment).steps if step.ask]


@pytest.fixture(scope="module")
def inflated():
    return did(("setmem", 8192))


def test_every_step_shows_one_moment_and_its_numbers(inflated):
    telling = balloon_scene(inflated.moments, inflated.deed, inflated.beginning)
    rows = [row for step in telling.scene.steps for row in step.rows]
    assert [row[2] for row in rows] == [f"{one.actual >> 10:,}" for one in inflated.moments]
    assert [row[3] for row in rows] == [f"{one.returned >> 10:,}" for one in inflated.moments]
    assert len(telling.shown) == len(telling.scene.steps)
    assert telling.shown == sorted(telling.shown)
    assert {len(row) for row in rows} == {len(telling.scene.columns)}


def test_maps_read_what_guest_and_ept_hold(inflated):
    telling = balloon_scene(inflated.moments, inflated.deed, inflated.beginning)
    first, last = inflated.moments[0], inflated.moments[-1]
    texts = telling.scene.steps[-1].texts
    for at in range(64):
        letter = LETTERS[last.owners[at].argmax()]
        if letter != LETTERS[first.owners[at].argmax()]:
            assert texts[f"g.{at}"] == letter
        if last.mapped[at] != first.mapped[at]:
            assert texts[f"e.{at}"] == (str(last.mapped[at]) if last.mapped[at] else "·")
    assert any(key.startswith("e.") for key in texts)
    shown = zip(telling.scene.steps, telling.shown, strict=True)
    for step, at in shown:
        if inflated.moments[at].buffer and step.rows:
            assert step.lit["r.used"] == "used"
            assert step.texts["r.used"] == str(inflated.moments[at].buffer.used)


def test_the_drawing_is_xml_and_every_key_that_is_lit_is_drawn(inflated):
    made = scene(inflated)
    drawn = list(ET.fromstring(made.svg).iter())  # noqa: S314  our own
    keys = {one.get("data-key") for one in drawn}
    texts = {one.get("data-text") for one in drawn}
    for step in made.steps:
        assert set(step.lit) <= keys
        assert set(step.texts) <= texts
    assert len(json.dumps(made.to_json())) < 100_000


def test_the_map_of_a_large_guest_says_shares_where_a_small_ones_says_pages():
    machine = Machine(guest_memory="1G", host_memory="2G")
    Reclaimer(machine.guest)
    machine.attach_balloon()
    machine.vcpu.mmu.pre_fault(0, 24 << 20)  # a cell is 16 MiB
    look = Look(machine)
    made = balloon_scene(look.moments, look.deed, look.beginning).scene
    cells = dict(re.findall(r'data-text="(e\.[0-9]+)"[^>]*>([^<]+)<', made.svg))
    assert [cells[f"e.{at}"] for at in range(3)] == ["100%", "50%", "·"]
    assert "16,384 KiB" in made.caption


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "beginning",
    [
        {},
        {"backing": "2M"},
        {"deflate_on_oom": True, "cache": 0},
        {"driver": "none"},
        {"driver": "2014", "period": 0},
        {"reporting": True, "swap": 16},
    ],
    ids=str,
)
def test_everything_is_said_in_both_languages(beginning, language):
    experiment = Inflation(Beginning(**beginning))
    for verb, *values in DEEDS:
        with speaking(language):
            assert scene(experiment).steps[0].sentence
            assert summary(experiment.history[-1])
            diagnoses(experiment.history, experiment.beginning)
            for one in asks(experiment):
                assert len(set(one.choices)) == len(one.choices) == len(one.feedback) >= 2
                assert 0 <= one.answer < len(one.choices)
        getattr(experiment, verb)(*values)


def test_how_much_comes_back_is_asked_with_the_engines_answer():
    for beginning, right in (({}, 1024), ({"backing": "2M"}, 0), ({"touched": 16}, 1024)):
        experiment = did(("setmem", 12288), **beginning)
        ask = asks(experiment)[0]
        first = next(one for one in experiment.moments if one.buffer)
        assert ask.choices[ask.answer] == f"{first.freed >> 10:,} KiB"
        if beginning:
            assert first.freed >> 10 == right
        assert ask.feedback[ask.answer].startswith("Right")
        assert sum(one.startswith("Right") for one in ask.feedback) == 1


def test_available_is_memtotal_and_not_what_is_free(inflated):
    ask = asks(inflated)[-1]
    total = inflated.history[-1].total >> 10
    assert ask.choices[ask.answer] == f"{total:,} KiB"
    assert lines_of(inflated.history[-1].stats)["available"] == total
    free = ask.choices.index(f"{inflated.history[-1].free >> 10:,} KiB")
    assert "unused" in ask.feedback[free]


def test_what_nobody_polled_is_old():
    experiment = did(("setmem", 8192), period=0)
    ask = asks(experiment)[-1]
    was = lines_of(experiment.moments[0].stats)["available"]
    assert ask.choices[ask.answer] == f"{was:,} KiB"
    assert "old" in ask.feedback[ask.answer]
    assert stats_ask(*[did(driver="none").history[-1]] * 2) is None


@pytest.mark.parametrize(
    "beginning,target,right",
    [
        ({}, 16384, "It takes free pages"),
        ({"cache": 4}, 8192, "It drops page cache"),
        ({"swap": 16, "cache": 0, "process": 4}, 6144, "It writes pages to its swap"),
        ({"deflate_on_oom": True, "cache": 0}, 4096, "The balloon gives pages back"),
        ({"cache": 0}, 4096, "It kills a process"),
    ],
)
def test_the_last_resort_is_what_the_guest_really_did(beginning, target, right):
    experiment = did(("setmem", target), ("grow",), **beginning)
    ask = grow_ask(experiment.moments)
    assert ask.choices[ask.answer] == right
    assert ask.feedback[ask.answer].startswith("Right")


def test_amounts_that_are_the_same_are_offered_once():
    wrong = {"nothing": 0, "named": 4096, "change": 4096, "large": 100}
    ask = amounts_ask("balloon.ask.returned", "?", 4096, "all", wrong)
    assert ask.choices == ["0 KiB", "4 KiB"]


def named(experiment):
    told = diagnoses(experiment.history, experiment.beginning)
    return " ".join(told)


def test_each_mistake_is_named_where_it_is_made_and_nowhere_else():
    assert named(did()) == ""
    assert "never been touched" in named(did(("setmem", 8192)))
    assert "Over-inflated" in named(did(("setmem", 1024)))
    assert "huge pages" in named(did(("setmem", 8192), backing="2M"))
    assert "No driver" in named(did(driver="none"))
    assert "No statistics period" in named(did(period=0))
    assert "2017" in named(did(driver="2014"))
    assert "OOM killer" in named(did(("setmem", 4096), ("grow",), cache=0))
    starved = named(did(("setmem", 4096), ("grow",), cache=0, deflate_on_oom=True))
    assert "256 at a time" in starved
    assert "Over-inflated" not in starved


def test_tables_and_curves_have_the_same_numbers(inflated):
    first, now = inflated.moments[0], inflated.moments[-1]
    rows = {row[0]: row[1:] for row in numbers_table(first, now).rows}
    assert rows["actual, left to guest (G)"] == ["16,384", "8,192", "-8,192"]
    blocks = buddy_table(first, now).rows
    assert sum(int(row[3]) << int(row[0]) for row in blocks) * 4096 == now.free
    curves = balloon_curves(inflated.history)
    assert [one.values[-1] for one in curves.curves] == [
        size / (1 << 20) for size in (now.target, now.actual, now.returned, now.rss)
    ]
    assert all("(" in title for title in (curves.x_axis, curves.y_axis))


def test_a_victims_name_is_text_in_the_drawing():
    assert "<img" not in scene(did(("setmem", 4096), ("grow",), cache=0)).svg
