"""The lab of overcommitment, through its traits: what it shows is what the day was."""

import asyncio
import warnings

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.labs import overcommit_lab
from kvmlab.study.overcommit import CHOICES, HOURS, OWN, PAGE_MIB
from tests.labs.wire import heard

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
DOWN = 3  # messages besides the two of the status and the echo


@pytest.fixture
def lab():
    made = labs.overcommit()
    made.predict.value = False
    return made


def test_the_ratio_shows_its_effect_at_once(lab):
    assert "Nova placed 11 of 16" in lab.desk.value
    lab.ratio.value = 1.0
    assert "Nova placed 7 of 16" in lab.desk.value
    assert "not called in" in lab.desk.value
    lab.ratio.value = 3.0
    ticks = lab.day.ticks
    killed = [name for one in ticks for name in one.killed]
    assert f"{len(killed)} VMs were killed" in lab.desk.value
    assert lab.charts.lines._lines.y[1][14] == ticks[14].rss * PAGE_MIB / 1024
    assert lab.notice.value == ""


def test_nothing_stands_in_the_desk_before_the_first_question_is_answered():
    lab = labs.overcommit()
    assert "Nova placed" not in lab.desk.value
    lab.player.answer = {"step": 0, "choice": 0, "right": False}
    assert "Nova placed 11 of 16" in lab.desk.value
    lab.player.step = 14
    assert lab.at == 13
    assert len(lab.charts.lines._lines.x) == 14
    lab.player.answer = {"step": 14, "choice": -1, "right": False}
    assert lab.tick is lab.day.ticks[14]
    lab.player.step = HOURS
    assert f"Every VM at {HOURS}:00" in lab.desk.value


@pytest.mark.parametrize("name", [*CHOICES, "chart"])
def test_every_choice_of_every_control_makes_a_day(lab, name):
    for value in CHOICES.get(name, ("traffic", "memory")):
        if value == OWN:
            continue
        getattr(lab, name).value = value
        assert (lab.notice.value, lab.plan[name]) == ("", value)
        assert len(lab.day.ticks) == HOURS + 1


def test_undo_redo_and_share_are_exact(lab):
    first = lab.day.ticks
    lab.change(ratio=2.0, manager="esx", names="a,b")
    ticks = lab.day.ticks
    lab.undo()
    assert (lab.day.ticks, lab.ratio.value) == (first, 1.5)
    lab.redo()
    assert lab.day.ticks == ticks
    again = labs.overcommit(share=lab.share)
    assert again.day.ticks == ticks
    assert again.plan == lab.plan


def test_the_code_shown_makes_the_same_day(lab, capsys):
    lab.change(ratio=2.0, wanted=12, manager="proportional", names="'; import os; '")
    space = {}
    exec(lab.code, space)  # noqa: S102
    assert space["day"].ticks == lab.day.ticks
    assert len(capsys.readouterr().out.splitlines()) == HOURS + 1


def test_a_manager_of_ones_own(capsys):
    lab = labs.overcommit(manager=lambda host, guests: {one.name: one.maximum for one in guests})
    assert lab.plan["manager"] == OWN
    assert lab.notice.value == ""
    lab.manager.value = "none"
    lab.manager.value = OWN
    assert lab.notice.value == ""

    def bad(host, guests):
        raise ZeroDivisionError("oh <b>")

    with pytest.raises(ZeroDivisionError):
        labs.overcommit(manager=bad)
    with pytest.raises(BadChoice, match="no manager of your own"):
        labs.overcommit(share=lab.share)


@pytest.mark.parametrize(
    "wrong",
    [{"ratio": 9.0}, {"ratio": "2"}, {"names": "a,a"}, {"pattern": "<b>"}, {"wanted": True}],
)
def test_a_wrong_choice_is_refused_and_nothing_changes(lab, wrong):
    before = (lab.share, lab.day)
    lab.change(**wrong)
    assert 'role="alert"' in lab.notice.value
    assert "<b>" not in lab.notice.value
    assert (lab.share, lab.day) == before


def test_hostile_names_are_text_everywhere(lab):
    lab.names.value = "<img src=x onerror=alert(1)>"
    assert lab.notice.value == ""
    assert "<img" not in lab.desk.value
    assert "&lt;img src=x" in lab.desk.value
    assert "<img" not in lab.player.scene["svg"]
    assert "<img" not in repr(lab)


def test_another_language_runs_no_day_again(lab):
    day = lab.day
    lab.language.value = "zh"
    assert lab.day is day
    assert "Nova 放置了 16 台中的 11 台" in lab.desk.value


def test_the_chart_speaks_the_language_chosen_at_every_step(lab):
    lab.language.value = "zh"
    for step in (3, 20):
        lab.player.step = step
        assert "一天中的内存" in lab.charts.lines._head.value
        assert lab.charts.lines._across.label.startswith("一天中的时刻")


def test_a_change_sends_few_messages(lab):
    sent = heard(lab)
    for act, more in (
        (lambda: setattr(lab.ratio, "value", 1.2), 0),
        (lambda: setattr(lab.manager, "value", "mom"), 0),
        (lambda: setattr(lab.chart, "value", "traffic"), 1),  # the unit of its axis
    ):
        sent.clear()
        act()
        assert len(sent) <= DOWN + 1 + more, sent  # the control's own echo is among them


def test_a_long_day_goes_on_in_slices_and_can_be_stopped():
    async def use():
        lab = labs.overcommit(ratio=3.0, wanted=24, manager="mom")
        assert lab._task
        seen = [len(lab.day.ticks)]
        while lab._task and len(lab.day.ticks) < 12:
            await asyncio.sleep(0)
            seen.append(len(lab.day.ticks))
        assert lab.progress.value > 0
        lab.stop.click()
        stopped = len(lab.day.ticks)
        await asyncio.sleep(0.01)
        assert len(lab.day.ticks) == stopped
        assert "stopped at" in lab.done.value
        lab.change(ratio=1.0)
        if lab._task:
            await lab._task
        assert len(lab.day.ticks) == HOURS + 1
        assert lab.progress.layout.display == "none"
        return seen

    seen = asyncio.run(use())
    assert seen == sorted(seen)
    assert seen[0] < 12


def test_its_text_is_the_same_each_time():
    texts = {repr(labs.overcommit()) for _ in range(2)}
    assert len(texts) == 1
    assert len(texts.pop()) < 200


def test_its_text_is_the_same_while_the_day_goes_on_and_finish_ends_it(lab, monkeypatch):
    monkeypatch.setattr(overcommit_lab, "AT_ONCE", 0.0)  # as on a machine that is slow

    async def use():
        going = labs.overcommit()
        begun = len(going.day.ticks), repr(going)
        await asyncio.sleep(0)
        later = repr(going)
        going.finish()
        await asyncio.sleep(0.01)
        assert going._task is None
        assert going.progress.layout.display == "none"
        return begun, later, repr(going), going.day.ticks

    (hours, first), later, last, ticks = asyncio.run(use())
    assert hours == 1
    assert first == later == last
    assert ticks == lab.day.ticks


def starving(host, guests):
    """A manager that asks more of the guests than they can give, when the host is short."""
    if host.free_part > 0.3:
        return {}
    return {one.name: one.minimum // 2 for one in guests}


@pytest.mark.parametrize("seconds", [0.0, 60.0])  # a slow machine and a quick one
def test_a_manager_that_starves_its_guests_is_refused_in_words_and_the_lab_goes_on(
    monkeypatch, seconds
):
    monkeypatch.setattr(overcommit_lab, "AT_ONCE", seconds)

    async def use():
        lab = labs.overcommit(manager=starving, wanted=2)
        lab.change(wanted=24)
        if lab._task:
            await lab._task
        assert "Traceback" not in lab.notice.value
        assert "with less its kernel has no memory" in lab.notice.value
        assert lab.progress.layout.display == lab.stop.layout.display == "none"
        lab.change(manager="none")
        if lab._task:
            await lab._task
        assert lab.notice.value == ""
        assert len(lab.day.ticks) == HOURS + 1

    asyncio.run(use())


class RandomLearner(RuleBasedStateMachine):
    """Whatever is chosen, the lab goes on and says what the day was."""

    @initialize()
    def begin(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.lab = labs.overcommit(wanted=3)
        self.sent = heard(self.lab)

    @rule(ratio=st.integers(10, 30), wanted=st.integers(1, 8))
    def slide(self, ratio, wanted):
        self.lab.ratio.value = ratio / 10
        self.sent.clear()
        self.lab.wanted.value = wanted
        assert len(self.sent) <= DOWN + 2, self.sent  # and a notice that goes

    @rule(data=st.data())
    def choose(self, data):
        name = data.draw(st.sampled_from(list(CHOICES)))
        values = [one for one in CHOICES[name] if one != OWN]
        getattr(self.lab, name).value = data.draw(st.sampled_from(values))

    @rule(names=st.text(alphabet="<>&'\",ab ", max_size=12))
    def name(self, names):
        self.lab.names.value = names

    @rule(back=st.booleans())
    def undo(self, back):
        before = self.lab.share
        (self.lab.back if back else self.lab.forth).click()
        if not self.lab.notice.value:
            (self.lab.forth if back else self.lab.back).click()
            assert self.lab.share == before

    @rule(step=st.integers(0, 30), chart=st.sampled_from(["memory", "traffic"]))
    def look(self, step, chart):
        self.lab.chart.value = chart
        self.lab.player.step = step
        self.lab.player.answer = {"step": self.lab.player.step, "choice": 0, "right": False}

    @rule()
    def speak(self):
        self.lab.language.value = "zh" if self.lab.language.value == "en" else "en"

    @invariant()
    def holds(self):
        lab = getattr(self, "lab", None)
        if lab is None:
            return
        assert "<details>" not in lab.notice.value, lab.notice.value  # no error but our own
        assert len(lab.day.ticks) == HOURS + 1
        for tick in lab.day.ticks:
            assert tick.rss == sum(one.rss for one in tick.vms)
            assert tick.balloons == sum(one.balloon for one in tick.vms)
        again = lab.plan
        lab.load(lab.share)
        assert lab.plan == again
        assert lab.ratio.value == lab.plan["ratio"]


RandomLearner.TestCase.settings = settings(max_examples=4, stateful_step_count=15, deadline=None)
test_random_learner = pytest.mark.filterwarnings("ignore")(RandomLearner.TestCase)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_random_actions():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        RandomLearner, settings=settings(max_examples=40, stateful_step_count=50, deadline=None)
    )
