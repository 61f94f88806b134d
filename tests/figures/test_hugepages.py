"""Huge pages drawn: every word of the picture is the engine's, every question is fair."""

import re

import pytest

from kvmlab.figures.hugepages import hugepages_scene, leaf_text
from kvmlab.figures.hugepages_asks import why
from kvmlab.figures.hugepages_words import (
    buddy_table,
    diagnoses,
    latency_chart,
    latency_reasons,
    latency_table,
    numbers_table,
    reach_table,
    served_chart,
    served_table,
    summary,
)
from kvmlab.hardware.geometries import geometry_named
from kvmlab.study.hugepages import HugePages, compared
from kvmlab.study.hugepages_beginning import Beginning
from kvmlab.study.hugepages_moments import SHOWN, Leaves
from kvmlab.text import LANGUAGES, speaking

DEEDS = (
    *(("sparse",), ("fill",), ("access",), ("serve",), ("drop",), ("balloon",), ("reclaim",)),
    *(("wait", 10), ("log",), ("write",), ("log",), ("snapshot",), ("write",), ("snapshot",)),
    ("ksm",),
)
SETTINGS = (
    {},
    {"guest": "thp"},
    {"offset": 4, "host": "4K"},
    {"host": "2M"},
    {"fragmented": True},
    {"guest": "1G", "geometry": "skylake"},
)


def played(**chosen):
    """Each deed that can be done, as its experiment stood after it."""
    experiment = HugePages(Beginning(**chosen))
    yield experiment
    for verb, *values in DEEDS:
        try:
            getattr(experiment, verb)(*values)
        except ValueError:
            continue
        yield experiment


def scene_of(experiment):
    return hugepages_scene(experiment.moments, experiment.deed, experiment.beginning).scene


@pytest.mark.parametrize(
    "leaves, words",
    [
        (Leaves(0), "·"),
        (Leaves(0, (21,)), "2M"),
        (Leaves(0, (30,)), "1G"),
        (Leaves(512), "512 × 4K"),
        (Leaves(0, (21, 21)), "2 × 2M"),
        (Leaves(3, (21,)), "2M + 3 × 4K"),
    ],
)
def test_leaves_in_words(leaves, words):
    assert leaf_text(leaves) == words


@pytest.mark.parametrize("chosen", SETTINGS)
def test_questions_are_fair_and_steps_light_what_there_is(chosen):
    asked = set()
    for experiment in played(**chosen):
        scene = scene_of(experiment)
        keys = set(re.findall(r'data-key="([^"]+)"', scene.svg))
        texts = set(re.findall(r'data-text="([^"]+)"', scene.svg))
        for step in scene.steps:
            assert set(step.lit) <= keys
            assert set(step.texts) <= texts
            assert all(len(row) == len(scene.columns) for row in step.rows)
            if step.ask:
                asked.add((experiment.deed[0], step.ask.answer))
                ask = step.ask
                assert len(set(ask.choices)) == len(ask.choices) == len(ask.feedback) > 1
                assert len(set(ask.feedback)) == len(ask.feedback)
                assert ask.feedback[ask.answer].startswith("Right")
                assert sum(one.startswith("Right") for one in ask.feedback) == 1
    assert len({answer for _, answer in asked}) > 1, "the right answer is not always the same"


def test_the_picture_says_what_ept_and_the_host_hold():
    experiment = HugePages(Beginning())
    experiment.fill()
    experiment.drop()
    scene, now = scene_of(experiment), experiment.history[-1]
    drawn = dict(re.findall(r'data-text="([^"]+)"[^>]*>([^<]*)<', scene.svg))
    told = drawn | scene.steps[1].texts
    assert told[f"e.{now.at}"] == "?", "what is asked next is not told before"
    assert f"e.{now.at}" not in scene.steps[1].lit
    drawn |= scene.steps[2].texts
    for at in range(SHOWN):
        assert drawn[f"e.{at}"] == leaf_text(now.ept[at])
        assert drawn[f"h.{at}"] == leaf_text(now.host[at])
    assert drawn["n.rss"] == f"{now.rss >> 10:,}"
    assert drawn[f"e.{now.at}"] == "·"
    assert scene.steps[2].lit[f"e.{now.at}"] == "now"


@pytest.mark.parametrize(
    "chosen, deeds, reason",
    [
        ({}, ["fill"], "huge"),
        ({"offset": 4}, ["fill"], "incongruent"),
        ({"host": "4K"}, ["fill"], "small"),
        ({"fragmented": True}, ["fill"], "fragmented"),
        ({}, ["fill", "log"], "logging"),
        ({}, ["fill", "drop"], "none"),
        ({}, ["fill", "drop", "access"], "split"),
        ({"guest": "1G", "host": "1G"}, ["sparse"], "gigantic"),
    ],
)
def test_why_a_leaf_is_what_it_is(chosen, deeds, reason):
    experiment = HugePages(Beginning(**chosen))
    for deed in deeds:
        getattr(experiment, deed)()
    now = experiment.history[-1]
    row = next((at for at, one in enumerate(now.ept) if at >= now.at and one.small), now.at)
    assert why(now, row, experiment.beginning) == reason


def test_what_goes_wrong_is_told():
    experiment = HugePages(Beginning())
    experiment.sparse()
    assert "more than the 16 KiB in use" in " ".join(
        diagnoses(experiment.history[-1], experiment.beginning)
    )
    experiment.snapshot()
    assert any("Redis" in one for one in diagnoses(experiment.history[-1], experiment.beginning))
    assert "Used 16 KiB" in summary(experiment.history[-1])


def test_tables_hold_the_numbers_of_the_engine():
    experiment = HugePages(Beginning())
    experiment.fill()
    experiment.serve()
    first, now = experiment.history[1], experiment.history[-1]
    assert numbers_table(first, now).rows[1][2] == f"{now.rss >> 10:,}"
    assert [int(row[3]) for row in buddy_table(first, now).rows] == list(now.blocks)
    assert sum(int(row[3]) << order for order, row in enumerate(buddy_table(first, now).rows)) == (
        now.host_free >> 12
    )
    rows = [*compared(experiment.beginning.geometry), now.served]
    chart = served_chart(rows[:-1], rows[-1])
    assert chart.totals == [one.cycles for one in rows]
    assert served_table(chart, rows).rows[-1][-3] == str(now.served.cycles)
    assert latency_chart(rows[:-1], rows[-1]).totals == [one.latencies[-1] for one in rows]
    assert latency_table(chart, rows).rows[0] == [
        chart.bars[0],
        *(f"{one:,}" for one in rows[0].latencies),
    ]


def test_it_says_why_p90_and_p99_are_one_number_where_they_are():
    """The dearest request walks four times: a walk is one of the guest and five of EPT."""
    small, *_, both = compared("64x4+512x8")
    assert small.latencies[1] == small.latencies[2] == 16 + 4 * 6 * (54 + 14 + 4 + 4)
    assert latency_reasons([both, small])
    assert latency_reasons([both]) == []  # all three are equal, and no walk is the reason
    tails = [one for one in compared("skylake") if one.misses]
    assert all(one.latencies[1] < one.latencies[2] for one in tails)
    assert latency_reasons(tails) == []


def test_what_maps_nothing_is_said_in_a_word():
    experiment = HugePages(Beginning())
    assert "guest nothing, EPT " in summary(experiment.history[0])
    with speaking("zh"):
        assert "客户机 无" in summary(experiment.history[0])


def test_reach_is_entries_times_page():
    rows = reach_table(geometry_named("skylake")).rows
    assert [row[:3] for row in rows] == [
        ["4K", "64", "1,536"],
        ["2M", "32", "1,536"],
        ["1G", "4", "16"],
    ]
    assert [row[3] for row in rows] == ["6,144", "3,145,728", "16,777,216"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_deed_has_its_sentences(language):
    with speaking(language):
        for experiment in played():
            assert all(step.sentence for step in scene_of(experiment).steps)
