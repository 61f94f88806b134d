"""Simulated time: timers fire once, in order, at their own time, and never early."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.clock import SECOND, Clock, MortalClock
from kvmlab.base.errors import BadChoice, ProcessKilled


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 30), max_size=5))
def test_timers_fire_once_in_order_of_time_then_of_setting(dues, steps):
    clock, fired = Clock(), []
    for serial, due in enumerate(dues):
        clock.at(due, lambda serial=serial: fired.append((clock.now, serial)))
    for step in steps:
        clock.sleep(step)
        passed = clock.now
        assert fired == sorted((due, n) for n, due in enumerate(dues) if due <= passed)
    assert clock.now == sum(steps)


def test_a_timer_set_by_a_timer_fires_in_the_same_advance_if_it_is_due():
    clock, fired = Clock(), []

    def tick():
        fired.append(clock.now)
        clock.after(SECOND, tick)

    clock.after(SECOND, tick)
    clock.advance(3 * SECOND)
    assert fired == [SECOND, 2 * SECOND, 3 * SECOND]
    assert clock.next_due() == 4 * SECOND


def test_a_cancelled_timer_never_fires():
    clock, fired = Clock(), []
    timer = clock.after(5, lambda: fired.append(1))
    assert timer.pending
    timer.cancel()
    assert not timer.pending
    assert clock.next_due() is None
    clock.advance(10)
    assert fired == []


def test_the_date_is_that_of_power_on_and_the_seconds_since():
    clock = Clock()
    first = clock.wall
    clock.advance(2 * SECOND - 1)
    assert datetime.fromtimestamp(first, UTC).isoformat() == "2026-01-01T00:00:00+00:00"
    assert clock.wall == first + 1


def test_a_timer_that_fired_is_no_longer_pending():
    clock = Clock()
    timer = clock.after(0, lambda: None)
    clock.advance(0)
    assert not timer.pending


def test_an_error_in_an_action_stops_time_there_and_keeps_the_timers_after_it():
    clock, fired = Clock(), []

    def fail():
        raise BadChoice("no")

    clock.at(3, fail)
    clock.at(4, lambda: fired.append(clock.now))
    with pytest.raises(BadChoice, match="no"):
        clock.advance(9)
    assert (clock.now, fired) == (3, [])
    clock.advance(9)
    assert (clock.now, fired) == (9, [4])


def test_time_does_not_run_back():
    clock = Clock()
    clock.advance(7)
    with pytest.raises(BadChoice, match="it is 7 ns, after 6 ns"):
        clock.advance(6)
    with pytest.raises(BadChoice, match="a timer for 6 ns is in the past"):
        clock.at(6, lambda: None)
    with pytest.raises(BadChoice, match="in the past"):
        clock.after(-1, lambda: None)
    assert (clock.now, clock.next_due()) == (7, None)


def test_a_mortal_s_timers_end_with_it_and_nobody_else_s():
    clock, fired, living = Clock(), [], {1, 2, 3}
    mortals = {name: MortalClock(clock, lambda name=name: name in living) for name in living}

    def dies():
        living.discard(2)
        raise ProcessKilled("2 is no more")

    for name, mortal in mortals.items():
        mortal.after(10, lambda name=name: fired.append((name, clock.now)))
    mortals[2].after(5, dies)
    clock.at(3, lambda: living.discard(1))
    mortals[3].sleep(20)
    assert fired == [(3, 10)]
    assert {one.now for one in mortals.values()} == {20}
    assert mortals[1].wall == clock.wall


def test_a_death_that_a_timer_of_the_living_tells_of_is_heard():
    clock = Clock()

    def tells():
        raise ProcessKilled("demo was killed by the guest's OOM killer")

    MortalClock(clock, lambda: True).after(5, tells)
    with pytest.raises(ProcessKilled, match="demo"):
        clock.sleep(10)
