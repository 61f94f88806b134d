"""Balloon managers: MOM's default policy, ESX's shares with the idle tax, and the learner's own.

The numbers are cases 40 to 51 of the facts (MOM's from its policy file, ESX's from the paper).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.management.balloon_manager import GuestSample, HostSample, checked, none, proportional
from kvmlab.management.esx import (
    STATES,
    ActiveEstimate,
    Esx,
    Sampler,
    shares_per_page,
    thresholds,
)
from kvmlab.management.mom import Mom, ksm

GIB = 1 << 20  # KiB


def host(free, total=16 * GIB):
    return HostSample(total, int(free * total))


@pytest.mark.parametrize(
    "free,current,unused,minimum,maximum,target",
    [
        (0.10, 4194304, 3145728, 1048576, 4194304, 3984588),
        (0.10, 4194304, 524288, 0, 4194304, 4089446),
        (0.03, 4194304, 104858, 0, 4194304, 4005559),
        (0.15, 4194304, 419430, 0, 4194304, None),
        (0.50, 2097152, 1048576, 0, 4194304, 2202009),
        (0.50, 2097152, 104857, 0, 4194304, 2411725),
        (0.50, 4190000, 4000000, 0, 4194304, None),
        (0.50, 4100000, 4000000, 0, 4194304, 4194304),
        (0.50, 1048576, 1000000, 2097152, 4194304, 2097152),
    ],
)
def test_mom_asks_for_the_sizes_of_its_policy_file(free, current, unused, minimum, maximum, target):
    guest = GuestSample("g", current, unused, maximum, minimum)
    assert Mom()(host(free), [guest]).get("g") == target


def test_mom_takes_fourteen_rounds_from_four_gib_to_two():
    current, rounds = 4 * GIB, 0
    while current > 2 * GIB:
        guest = GuestSample("g", current, current, 4 * GIB, 2 * GIB)
        current = Mom()(host(0.10), [guest])["g"]
        rounds += 1
    assert (rounds, current) == (14, 2 * GIB)


def test_under_critical_pressure_mom_shrinks_guests_below_what_they_use():
    guest = GuestSample("g", 4194304, 104858, 4194304)
    assert Mom()(host(0.03), [guest])["g"] < guest.used


def test_vdsm_grows_a_guest_by_the_host_s_pressure_not_by_a_fixed_fifth():
    guest = GuestSample("g", 2097152, 104857, 4194304)
    plain, vdsm = Mom()(host(0.9), [guest])["g"], Mom(vdsm=True)(host(0.9), [guest])["g"]
    assert plain == 2411725
    assert vdsm == int(guest.used + 0.9 * guest.current)


def test_mom_s_ksm_is_off_while_there_is_plenty_and_faster_as_memory_runs_short():
    total = 16777216  # KiB: 16 GiB
    assert not ksm(HostSample(total, total // 2), 0, 64).run
    running = ksm(HostSample(total, total // 10), total // 2, 64)
    assert (running.run, running.sleep_millisecs, running.pages_to_scan) == (True, 10, 364)
    assert ksm(HostSample(total, total // 2), total, 364).pages_to_scan == 314
    assert ksm(HostSample(total, 1), total, 1250).pages_to_scan == 1250
    assert ksm(HostSample(total, total // 2), total, 64).pages_to_scan == 64


@pytest.mark.parametrize(
    "shares,pages,active,tax,rho",
    [
        (1000, 256, 1.0, 0.75, 3.9062),
        (1000, 256, 0.5, 0.75, 1.5625),
        (1000, 256, 0.0, 0.75, 0.9766),
        (2000, 512, 0.25, 0.75, 1.2019),
        (1000, 256, 0.5, 0.0, 3.9062),
        (1000, 256, 0.5, 0.5, 2.6042),
        (1000, 256, 0.5, 0.9, 0.7102),
    ],
)
def test_an_idle_page_costs_more_shares_than_an_active_one(shares, pages, active, tax, rho):
    assert shares_per_page(shares, pages, active, tax) == pytest.approx(rho, abs=1e-4)


def test_the_guest_with_more_shares_loses_first_if_it_idles():
    rich = GuestSample("rich", 2 * GIB, 0, 2 * GIB, shares=2000, active=0.25)
    busy = GuestSample("busy", GIB, 0, GIB, shares=1000, active=0.5)
    targets = Esx()(host(0.0599), [rich, busy])
    assert targets == {}  # above soft nothing is taken
    targets = Esx()(host(0.039), [rich, busy])
    assert set(targets) == {"rich"}


def test_the_states_begin_at_six_four_two_and_one_percent():
    found = thresholds(65536)
    assert [round(found[state], 2) for state in STATES] == [3932.16, 2621.44, 1310.72, 655.36]


def test_a_state_is_not_left_before_free_memory_is_clearly_above_its_threshold():
    manager, guests = Esx(), [GuestSample("g", GIB, 0, GIB)]
    states = []
    for free in (0.10, 0.05, 0.039, 0.045, 0.059, 0.061, 0.019, 0.021, 0.039, 0.041, 0.05, 0.07):
        manager(host(free), guests)
        states.append(manager.state)
    assert states == (
        "high high soft soft soft high hard hard hard soft soft high".split()  # noqa: SIM905
    )


def test_esx_stops_taking_when_the_host_would_be_at_high_again():
    guests = [GuestSample(name, 4 * GIB, 0, 4 * GIB, active=0.1) for name in "abc"]
    short = host(0.02)
    targets = Esx()(short, guests)
    taken = sum(4 * GIB - size for size in targets.values())
    need = thresholds(short.total)["high"] - short.available
    assert need <= taken < need + 1024
    assert max(targets.values()) - min(targets.values()) <= 1024  # equals lose alike


def test_growth_is_seen_in_one_period_and_decline_in_several():
    estimate = ActiveEstimate()
    assert estimate.period(90) == pytest.approx(0.9)
    falling = [estimate.period(10) for _ in range(12)]
    assert falling[0] > 0.2
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.12
    with pytest.raises(BadSize):
        estimate.period(101)


def test_the_sample_is_a_hundred_pages_each_once_and_the_same_for_a_seed():
    picked = Sampler(1000, seed=7).pick()
    assert len(set(picked)) == 100
    assert picked == Sampler(1000, seed=7).pick()
    assert len(Sampler(30).pick()) == 30


guests_of = st.lists(
    st.builds(
        lambda current, unused, more, active: GuestSample(
            "", current, unused % (current + 1), current + more, active=active
        ),
        st.integers(1 << 14, 1 << 23),
        st.integers(0, 1 << 23),
        st.integers(0, 1 << 22),
        st.floats(0, 1),
    ),
    max_size=4,
)


@given(guests_of, st.floats(0, 1))
def test_every_manager_returns_targets_that_can_be_carried_out(guests, free):
    named = [
        GuestSample(f"g{i}", g.current, g.unused, g.maximum, active=g.active)
        for i, g in enumerate(guests)
    ]
    for manager in (none, proportional, Mom(), Mom(vdsm=True), Esx(step=1 << 14)):
        checked(manager(host(free, 1 << 24), named), named)


def test_no_manager_moves_nothing():
    assert none(host(0.0), [GuestSample("g", GIB, GIB, GIB)]) == {}


def test_the_proportional_one_takes_from_each_by_what_it_does_not_use():
    guests = [GuestSample("a", 4 * GIB, 3 * GIB, 4 * GIB), GuestSample("b", 4 * GIB, GIB, 4 * GIB)]
    targets = proportional(host(0.10), guests)
    taken = {one.name: one.current - targets[one.name] for one in guests}
    assert taken["a"] == pytest.approx(3 * taken["b"], rel=1e-5)
    assert sum(taken.values()) == pytest.approx(16 * GIB * 0.1, rel=1e-4)


@pytest.mark.parametrize(
    "answer,error",
    [
        (None, BadChoice),
        ([1], BadChoice),
        ({"who": 5}, BadChoice),
        ({"g": 0}, BadSize),
        ({"g": -1}, BadSize),
        ({"g": 1.5}, BadSize),
        ({"g": 2 * GIB}, BadSize),
        ({"g": GIB // 4 - 1}, BadSize),
    ],
)
def test_what_a_learner_s_manager_gets_wrong_is_said_in_one_line(answer, error):
    with pytest.raises(error) as refused:
        checked(answer, [GuestSample("g", GIB, 0, GIB, minimum=GIB // 4)])
    assert "\n" not in str(refused.value)


def test_a_target_at_the_guest_s_minimum_is_carried_out_and_one_below_says_why_not():
    guests = [GuestSample("g", GIB, 0, GIB, minimum=GIB // 4)]
    assert checked({"g": GIB // 4}, guests) == {"g": GIB // 4}
    with pytest.raises(BadSize, match="from 262144 to 1048576; with less its kernel has no memory"):
        checked({"g": GIB // 4 - 1}, guests)
