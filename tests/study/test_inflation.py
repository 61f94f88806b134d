"""The experiment of the balloon: its moments are what guest, device and host really hold."""

import numpy as np
import pytest

from kvmlab.base.errors import BadAddress, BadChoice, MachineCheck
from kvmlab.linux.frames import Role
from kvmlab.management.virsh import virsh
from kvmlab.study.inflation import VERBS, Inflation
from kvmlab.study.inflation_beginning import CHOICES, MIB, RAM, Beginning
from kvmlab.study.inflation_moments import OWNERS, GuestBytes, leaf_shift, mapped_pages
from kvmlab.study.story import Story
from kvmlab.virtio.balloon import unpack_pfns
from tests.balloon_under_test import resident

KIB = 1024


def events(experiment):
    return [one.event for one in experiment.moments]


def backed_pages(experiment):
    """GPAs that EPT maps, by a walk of its own from the root, entry by entry."""
    machine, found = experiment.machine, set()

    def below(table, level, base):
        for index, entry in enumerate(machine.ram.frame(table >> 12).tolist()):
            if entry & 7 in (0, 6):
                continue
            gpa = base | index << 12 + 9 * (level - 1)
            if level == 1 or entry & 0x80:
                found.update(range(gpa >> 12, (gpa >> 12) + (1 << 9 * (level - 1))))
            else:
                below(entry & 0x000F_FFFF_FFFF_F000, level - 1, gpa)

    below(machine.vcpu.mmu.direct.tree.root, 4, 0)
    return found


def check(experiment):
    """What must hold of the last moment, whatever was done."""
    now, machine = experiment.history[-1], experiment.machine
    assert now.owners.sum() == RAM // 4096
    ballooned = int(now.owners[:, OWNERS.index("balloon")].sum())
    if now.driver:
        assert ballooned == len(machine.balloon_driver.pages) + len(machine.balloon_driver._taken)
        assert now.actual == RAM - machine.balloon.actual * 4096
        held = ballooned if not experiment.beginning.deflate_on_oom else 0
        assert now.total == (machine.guest.frames.buddy.total - held) * 4096
    assert now.ept == len(backed_pages(experiment)) * 4096
    small = experiment.beginning.backing == "4K"
    assert now.rss == (resident(machine) if small else 0)
    assert now.free <= now.total
    lines = dict(line.split() for line in now.stats.splitlines() if line)
    assert int(lines["actual"]) == now.actual // KIB
    assert int(lines["rss"]) == now.rss // KIB


def test_a_target_is_three_numbers_and_only_touched_memory_comes_back():
    experiment = Inflation(Beginning())
    before = experiment.history[-1]
    experiment.setmem(8 * KIB)
    check(experiment)
    now = experiment.history[-1]
    assert (now.target, now.actual) == (8 * MIB, 8 * MIB)
    assert 0 < now.returned < 8 * MIB
    assert before.rss - now.rss == now.returned == now.freed
    assert now.host_free - before.host_free >= now.returned
    assert before.total - now.total == 8 * MIB


def test_each_buffer_is_read_from_the_ring_where_the_driver_put_it():
    experiment = Inflation(Beginning())
    experiment.setmem(12 * KIB)
    buffers = [one.buffer for one in experiment.moments if one.buffer]
    assert [len(one.pfns) for one in buffers] == [256] * 4
    assert [one.avail for one in buffers] == [one.used for one in buffers] == [1, 2, 3, 4]
    assert {one.descriptor.length for one in buffers} == {1024}
    named = [pfn for one in buffers for pfn in one.pfns]
    assert sorted(named) == sorted(page >> 12 for page in experiment.machine.balloon_driver.pages)
    last = buffers[-1]
    assert tuple(unpack_pfns(GuestBytes(experiment.machine).read(last.descriptor.gpa, 1024))) == (
        last.pfns
    )


def test_what_ept_maps_is_seen_page_by_page():
    experiment = Inflation(Beginning(touched=2))
    experiment.setmem(4 * KIB)
    found = set(np.flatnonzero(mapped_pages(experiment.machine, RAM)).tolist())
    assert found == backed_pages(experiment)
    for pfn in (0, 512, 4095):
        assert (leaf_shift(experiment.machine, pfn << 12) is None) == (pfn not in found)
    with pytest.raises(BadAddress, match="read-only"):
        GuestBytes(experiment.machine).write(0, b"x")


def test_deflating_gives_numbers_back_and_touching_brings_the_memory():
    experiment = Inflation(Beginning())
    experiment.setmem(6 * KIB)
    low = experiment.history[-1]
    experiment.setmem(16 * KIB)
    check(experiment)
    up = experiment.history[-1]
    assert (up.actual, up.rss) == (16 * MIB, low.rss)
    assert {"deflate"} <= set(events(experiment))
    experiment.grow()
    check(experiment)
    assert experiment.history[-1].rss > up.rss


def test_over_inflated_it_stalls_and_then_a_process_dies_for_want_of_memory():
    experiment = Inflation(Beginning())
    experiment.setmem(1 * KIB)
    check(experiment)
    stuck = experiment.history[-1]
    assert "puff" in events(experiment)
    assert stuck.actual > stuck.target == MIB
    experiment.wait(10)
    assert next(one for one in experiment.moments if one.event == "puff").times >= 50
    experiment.grow()
    check(experiment)
    assert "kill" in events(experiment)
    assert next(one for one in experiment.moments if one.event == "kill").note == "app"
    assert experiment.process is None
    assert experiment.history[-1].process == 0
    experiment.setmem(16 * KIB)
    experiment.grow()  # another process may begin
    assert experiment.process is not None
    check(experiment)


def test_a_guest_without_anybody_to_kill_panics_and_that_is_told():
    story = Story(lambda plan: Inflation(Beginning.of(plan)), VERBS)
    plan = {name: getattr(Beginning(process=0, cache=0), name) for name in CHOICES}
    with pytest.raises(MachineCheck, match="Kernel panic"):
        story.reach({**plan, "did": [["setmem", 256], ["grow"]]})


def test_with_deflate_on_oom_the_balloon_gives_way_and_nobody_dies():
    experiment = Inflation(Beginning(deflate_on_oom=True, cache=0))
    experiment.setmem(4 * KIB)
    total = experiment.history[-1].total
    experiment.grow()
    check(experiment)
    assert "deflate" in events(experiment)
    assert "kill" not in events(experiment)
    assert experiment.history[-1].total == total
    assert experiment.history[-1].actual > 4 * MIB


def test_with_swap_pages_go_there_and_come_back_when_they_are_used():
    experiment = Inflation(Beginning(swap=16, process=4))
    experiment.setmem(4 * KIB)
    check(experiment)
    assert experiment.history[-1].swapped > MIB
    assert experiment.history[-1].actual == 4 * MIB
    experiment.setmem(16 * KIB)
    experiment.work()
    check(experiment)
    counts = dict(experiment.history[-1].counts)
    assert counts["pswpin"] == counts["pgmajfault"] > 0


def test_a_guest_on_huge_pages_gives_nothing_back():
    """Case 30 of the balloon's facts."""
    experiment = Inflation(Beginning(backing="2M"))
    experiment.setmem(4 * KIB)
    check(experiment)
    now = experiment.history[-1]
    assert (now.actual, now.returned) == (4 * MIB, 0)
    assert {one.buffer.leaf for one in experiment.moments if one.buffer} <= {21, None}


def test_without_a_driver_nothing_moves_until_one_is_loaded():
    experiment = Inflation(Beginning(driver="none"))
    experiment.setmem(8 * KIB)
    check(experiment)
    names = [line.split()[0] for line in experiment.history[-1].stats.split("\n") if line]
    assert names == ["actual", "last_update", "rss"]
    assert (experiment.history[-1].actual, experiment.history[-1].target) == (RAM, 8 * MIB)
    experiment.modprobe()
    check(experiment)
    assert experiment.history[-1].actual == 8 * MIB
    with pytest.raises(BadChoice, match="already"):
        experiment.modprobe()


def test_without_a_period_the_statistics_are_those_of_the_drivers_first_buffer():
    experiment = Inflation(Beginning(period=0))
    first = experiment.history[-1].stats
    experiment.setmem(8 * KIB)
    experiment.wait(60)
    lines = [
        dict(one.split() for one in text.splitlines() if one)
        for text in (first, experiment.history[-1].stats)
    ]
    assert lines[0]["available"] == lines[1]["available"]
    assert lines[0]["last_update"] == lines[1]["last_update"]
    assert lines[0]["actual"] != lines[1]["actual"]
    experiment.period(2)
    assert experiment.history[-1].interval == 2
    fresh = dict(one.split() for one in experiment.history[-1].stats.splitlines() if one)
    assert int(fresh["available"]) == experiment.history[-1].total // KIB


def test_a_driver_of_2014_says_swap_in_and_nothing_else_before_the_first_poll():
    experiment = Inflation(Beginning(driver="2014", period=0))
    names = [line.split()[0] for line in experiment.history[-1].stats.split("\n") if line]
    assert names == ["actual", "swap_in", "last_update", "rss"]


def test_free_page_reporting_returns_what_a_process_freed_and_actual_stays():
    """The guest's 2M blocks that are free again are discarded within a few seconds."""
    experiments = {on: Inflation(Beginning(reporting=on, touched=16)) for on in (True, False)}
    for experiment in experiments.values():
        experiment.grow()
        experiment.shrink()
        experiment.wait(10)
        check(experiment)
    assert experiments[True].history[-1].returned > 4 * MIB
    assert experiments[False].history[-1].returned == 0
    assert experiments[True].history[-1].actual == RAM


def test_the_text_is_that_of_virsh_at_that_moment():
    experiment = Inflation(Beginning())
    experiment.setmem(10 * KIB)
    assert experiment.history[-1].stats == virsh(experiment.connection, "dommemstat vm1").out


@pytest.mark.parametrize(
    "wrong",
    [{"backing": "1G"}, {"period": -1}, {"process": 1 << 40}, {"driver": "<img src=x>"}],
)
def test_a_beginning_that_cannot_be_is_refused_in_one_line(wrong):
    with pytest.raises(BadChoice) as refused:
        Beginning(**wrong)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "deeds",
    [
        [["setmem", 0]],
        [["setmem", 1 << 40]],
        [["setmem", -5]],
        [["wait", 0]],
        [["wait", 10**9]],
        [["shrink"], ["shrink"]],
        [["period", -1]],
        [["modprobe"]],
    ],
)
def test_a_deed_that_cannot_be_is_refused_and_the_story_goes_on(deeds):
    story = Story(lambda plan: Inflation(Beginning.of(plan)), VERBS)
    plan = {name: getattr(Beginning(), name) for name in CHOICES}
    with pytest.raises(BadChoice):
        story.reach({**plan, "did": deeds})
    check(story.reach({**plan, "did": [["setmem", 12 * KIB]]}))


def test_the_same_deeds_make_the_same_machine():
    made = []
    for _ in range(2):
        experiment = Inflation(Beginning(swap=16))
        for verb, *values in (["setmem", 5 * KIB], ["grow"], ["read"], ["setmem", 9 * KIB]):
            getattr(experiment, verb)(*values)
        made.append(experiment)
    assert made[0].machine.ram.image() == made[1].machine.ram.image()
    assert made[0].history[-1].stats == made[1].history[-1].stats


def test_roles_of_frames_are_those_of_the_guests_kernel():
    experiment = Inflation(Beginning())
    experiment.setmem(12 * KIB)
    roles = experiment.guest.memory.frames.counts()
    owners = dict(zip(OWNERS, experiment.history[-1].owners.sum(axis=0).tolist(), strict=True))
    assert owners["free"] == experiment.guest.memory.buddy.free_frames
    assert owners["process"] == roles[Role.ANON]
    assert owners["cache"] == roles[Role.FILE]
    assert owners["balloon"] == roles[Role.BALLOON] == 4 * 256
