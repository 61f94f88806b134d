"""A day of a crowded host: placement, frames and swap add up, whoever manages the balloons."""

from contextlib import suppress

import numpy as np
import pytest

from kvmlab.base.errors import BadChoice, BadSize, OutOfMemory
from kvmlab.base.tap import silent
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.linux.frames import Role
from kvmlab.management.balloon_manager import none
from kvmlab.study.overcommit import HOST_MIB, HOST_OWN, OWN, PAGE_MIB, Day, Setting, placement
from kvmlab.study.overcommit_vm import Vm


def check(day):
    """Every frame of the host has one use, and every page of a VM is in one place."""
    host, tick = day.host, day.ticks[-1]
    roles = host.memory.frames.counts()
    alive = [vm for vm in day.vms if vm.space.alive]
    backed = roles[Role.ANON] + roles[Role.KSM]
    assert backed == sum(vm.space.rss for vm in alive) - host.ksm.pages_sharing
    assert roles[Role.KERNEL] == HOST_OWN
    assert backed + roles[Role.TABLE] + HOST_OWN + tick.free == HOST_MIB // PAGE_MIB
    slots = host.memory.swap.used_slots()
    assert len(slots) <= sum(vm.space.swap_entries for vm in alive)
    for vm in alive:
        there = np.flatnonzero(vm._backed)
        assert all(vm.space.translate(vm._hva(int(frame))) for frame in there[::16])
        unmapped = vm.space.rss - len(there)  # KSM took them out of EPT, until they are used
        assert 0 <= unmapped <= (host.ksm.pages_sharing + host.ksm.pages_shared)
        held = len(vm._balloon)
        assert held == vm.memory.frames.counts()[Role.BALLOON]
        assert not vm._backed[vm._balloon].any()
        assert vm.used == int(((vm._frame > 0) | (vm._slot > 0)).sum())
        frames = vm._frame[vm._frame > 0]
        assert len(frames) + vm.own + held + vm.unused == vm.pages


def whole(**chosen):
    day = Day(Setting(**chosen))
    for _tick in day.run():
        pass
    return day


@pytest.mark.parametrize(
    "ratio,reserved,flavour,placed",
    [(1.0, 512, 4096, 7), (1.5, 512, 4096, 11), (2.0, 4096, 4096, 14), (3.0, 512, 8192, 11)],
)
def test_nova_places_what_capacity_says(ratio, reserved, flavour, placed):
    setting = Setting(ratio=ratio, reserved=reserved, flavour=flavour, wanted=24)
    found = placement(setting)
    assert len(found.names) == placed == int((HOST_MIB - reserved) * ratio) // flavour
    assert "exceed the capacity" in found.refusal
    assert not placement(Setting(wanted=2)).refusal


@pytest.mark.parametrize("manager", ["none", "mom", "esx", "proportional"])
def test_a_day_adds_up_under_every_manager(manager):
    day = whole(manager=manager)
    check(day)
    assert [one.hour for one in day.ticks] == list(range(25))
    assert (max(one.balloons for one in day.ticks) > 0) == (manager != "none")


def test_at_a_ratio_of_one_nothing_is_swapped_and_nobody_dies():
    day = whole(ratio=1.0)
    check(day)
    assert not any(one.swap_out or one.guest_in or one.killed for one in day.ticks)


def test_at_one_and_a_half_the_host_swaps_what_is_idle_and_everybody_lives():
    day = whole(ratio=1.5)
    assert sum(one.swap_out for one in day.ticks) > sum(one.swap_in for one in day.ticks) > 0
    assert not any(one.killed for one in day.ticks)
    last = day.ticks[-1]
    assert last.swapped == sum(one.host_swap for one in last.vms)


def test_at_three_the_oom_killer_takes_vms_and_their_memory_serves_others():
    day = whole(ratio=3.0, wanted=24)
    check(day)
    killed = [name for one in day.ticks for name in one.killed]
    assert len(killed) == len(set(killed)) > 5
    dead = {one.name for one in day.ticks[-1].vms if not one.alive}
    assert dead == set(killed)
    gone = [one for one in day.ticks[-1].vms if not one.alive]
    assert {(one.used, one.rss, one.host_swap, one.balloon) for one in gone} == {(0, 0, 0, 0)}
    assert day.ticks[-1].used == sum(vm.used for vm in day.vms if vm.space.alive)


def test_without_swap_vms_die_sooner():
    killed = [
        sum(len(one.killed) for one in whole(ratio=2.0, wanted=24, swap=swap).ticks)
        for swap in (32, 8, 0)
    ]
    assert killed == sorted(killed)
    assert killed[0] < killed[-1]


def test_ksm_merges_what_all_guests_have_alike():
    day = whole(ksm=True, ratio=1.0)
    check(day)
    merged = max(one.merged for one in day.ticks)
    assert 0 < merged <= 24 * 6  # of seven VMs, one copy stays
    assert merged > 100


def test_a_manager_of_ones_own_is_asked_with_real_sizes():
    seen = []

    def mine(host, guests):
        seen.append((host, guests))
        return {guests[0].name: guests[0].maximum // 2}

    day = Day(Setting(manager=OWN, wanted=2), mine)
    list(day.run())
    host, guests = seen[-1]
    assert host.total == HOST_MIB << 10
    assert [one.maximum for one in guests] == [4096 << 10] * 2
    assert day.ticks[-1].vms[0].balloon == 128
    check(day)
    with pytest.raises(BadChoice, match="no manager of your own"):
        Day(Setting(manager=OWN))
    with pytest.raises(BadChoice, match="a manager returns a dict"):
        list(Day(Setting(manager=OWN), lambda host, guests: 7).run())


def test_the_same_setting_makes_the_same_day():
    days = [whole(ratio=2.0, manager="esx") for _ in range(2)]
    assert days[0].ticks == days[1].ticks


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 0.5},
        {"ratio": float("nan")},
        {"wanted": 0},
        {"wanted": 10**9},
        {"swap": -1},
        {"manager": "<b>"},
        {"names": "a,a"},
        {"names": "x" * 5000},
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(wrong):
    with pytest.raises(BadChoice) as refused:
        Setting(**wrong)
    assert "\n" not in str(refused.value)


def test_names_are_given_in_turn_and_never_twice():
    assert Setting(wanted=3, names=" vm2 , <img src=x>").called() == ["vm2", "<img src=x>", "vm1"]
    assert Setting(wanted=1, names="a,b").called() == ["a"]


def test_a_balloon_takes_free_memory_first_and_the_host_gets_what_was_backed():
    host = Host(Ram(8 << 20), silent, swap=1 << 20)
    assert none(None, []) == {}
    vm = Vm(host, "vm", 256)
    vm.resize(100)
    vm.resize(20)
    before = host.buddy.free_frames
    assert vm.space.rss == 116  # what was freed in the guest stays with the host
    vm.balloon(64)
    assert vm.current == 64
    assert vm.stat["pswpout"] == 0
    assert host.buddy.free_frames - before == 116 - vm.space.rss > 60
    vm.balloon(20)  # less than is in use: the guest swaps
    assert vm.stat["pswpout"] > 0
    vm.balloon(256)
    assert vm.current == 256
    vm.touch(np.arange(20))
    assert vm.stat["pswpin"] > 0


def test_what_the_host_swapped_must_come_in_for_the_guest_to_swap_it():
    """Double paging: two transfers for nothing."""
    host = Host(Ram(8 << 20), silent, swap=4 << 20)
    vm = Vm(host, "vm", 512)
    vm.resize(400)
    vm._accessed[:] = False
    while vm.space.swap_entries < 200:
        host.memory.reclaim.shrink(64, "direct")
        vm._accessed[:] = False
    vm._young[:] = False
    vm.balloon(100)
    assert vm.refaults > 0
    assert vm.stat["pswpout"] > 200


def test_a_pool_of_huge_pages_is_no_memory_of_the_day():
    free = {pool: Day(Setting(wanted=1), pool=pool).host.buddy.free_frames for pool in (0, 3072)}
    assert free[0] - free[3072] == 3072 // PAGE_MIB
    rss = {
        pool: max(tick.rss for tick in Day(Setting(ratio=1.5), pool=pool).run())
        for pool in (0, 3072)
    }
    assert rss[3072] <= rss[0] - 2048 // PAGE_MIB  # what the pool has, guests must do without


@pytest.mark.parametrize("pool", [-1, 32768, 1.5, "3G", True])
def test_a_pool_that_cannot_be_is_refused(pool):
    with pytest.raises(BadSize, match="a pool of"):
        Day(Setting(wanted=1), pool=pool)


def test_a_balloon_takes_the_frames_that_single_attempts_do_also_when_they_are_scarce():
    twins = [
        Vm(Host(Ram(32 << 20), silent, swap=8 << 20, min_free_kbytes=32), "vm", 256)
        for _ in range(2)
    ]
    for vm in twins:
        vm.resize(150)
        vm.resize(120)
    one, other = twins
    for left in (240, 200, 140, 90, 60):
        one.balloon(left)
        alone = []
        with suppress(OutOfMemory):
            while other.current - len(alone) > left:
                alone.append(other.memory.alloc(Role.BALLOON, light=True))
        other._balloon += alone
        assert one._balloon == other._balloon
        assert one.stat.fields() == other.stat.fields()
        assert list(one.memory.buddy.free_ranges()) == list(other.memory.buddy.free_ranges())
    assert one.stat["pageoutrun"] > 0
    assert one.stat["pswpout"] > 0
