"""The project: a host can be run well, and each way to run it badly costs the mark for it."""

from dataclasses import replace

import pytest

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.course.sizing import MARKS, Choice, Order, judge
from kvmlab.management.conf import NovaMemory, nova_conf

GOOD = Choice(hosts=3, nova=NovaMemory(1.3, 4096), pool=3072, swap=8, manager="esx")


def points(marks):
    return sum(one.points for one in marks)


def lost(marks):
    return {one.name for one in marks if one.points < one.of}


def test_a_good_choice_gets_all_ten_points():
    marks = judge(GOOD)
    assert points(marks) == sum(one.of for one in marks) == 10
    assert [one.name for one in marks] == list(MARKS)


def test_the_careful_default_of_nova_buys_a_host_too_many():
    assert lost(judge(Choice(hosts=4))) == {"hosts", "store"}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"nova": NovaMemory(1.0, 4096)}, {"placed"}),
        ({"hosts": 4}, {"hosts"}),
        ({"pool": 1024}, {"store"}),
        ({"nova": NovaMemory(1.3, 2048)}, {"reserve"}),
        ({"manager": "none", "swap": 0}, {"alive"}),
        ({"manager": "none"}, {"calm"}),
        ({"manager": "proportional"}, {"wait"}),
    ],
)
def test_each_mark_can_be_lost(change, expected):
    assert lost(judge(replace(GOOD, **change))) == expected


def test_peaks_at_one_hour_are_worse_than_peaks_apart():
    found = {one: judge(GOOD, Order(pattern=one)) for one in ("steady", "mixed", "office")}
    assert [points(found[one]) for one in ("steady", "mixed")] == [10, 10]
    assert "wait" in lost(found["office"])


def test_a_manager_of_ones_own_is_asked():
    seen = []

    def watch(host, guests):
        seen.append((host.total, len(guests)))
        return {}

    marks = judge(replace(GOOD, manager=watch))
    assert set(seen) == {(32768 << 10, 9)}
    assert lost(marks) == {"calm"}


def test_the_text_of_nova_conf_decides():
    text = "[DEFAULT]\nram_allocation_ratio = 1.3\nreserved_host_memory_mb = 4096\n"
    assert judge(replace(GOOD, nova=nova_conf(text))) == judge(GOOD)


def test_a_mark_reads_as_a_line():
    assert str(judge(Choice(hosts=4))[0]) == "placed   2 of 2   7 VMs on a host, 28 in all"


@pytest.mark.parametrize(
    "change, error, said",
    [
        ({"hosts": 0}, BadSize, "0 hosts; choose 1 to 1000"),
        ({"hosts": 2.5}, BadSize, "2.5 hosts"),
        ({"nova": "1.5"}, BadChoice, "nova must be what nova_conf"),
        ({"pool": -1}, BadSize, "a pool of -1 MiB"),
        ({"pool": 1 << 20}, BadSize, "write 0 to 16384"),
        ({"swap": 7}, BadChoice, "swap is one of 0, 8, 32"),
        ({"manager": 5}, BadChoice, "manager must be a name or a function"),
        ({"manager": "me"}, BadChoice, "manager is one of"),
        ({"nova": NovaMemory(1.3, 4000)}, BadChoice, "reserved is one of 512, 2048, 4096"),
        ({"nova": NovaMemory(0.5)}, BadChoice, "a ratio from 1.0 to 3.0"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(change, error, said):
    with pytest.raises(error) as caught:
        judge(replace(GOOD, **change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
