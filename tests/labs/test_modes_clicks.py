"""The lab of designs under a learner who clicks anything: history, sharing, code, messages."""

import functools
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kvmlab import labs, workloads
from kvmlab.figures import modes as figures
from kvmlab.labs import modes_lab
from kvmlab.labs.charts import names
from kvmlab.machine import DESIGNS
from kvmlab.study.compare import compare
from kvmlab.study.comparison import options as machine_options
from kvmlab.study.crossing import CALM, crossing
from kvmlab.text import say
from tests.wire import BUDGET, options, tapped

# bqplot's scales warn of their own traits when they are first imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
RECORDS = 500
SHIPPED = functools.cache(workloads.shipped)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def _shipped_once(monkeypatch):
    """Unpacking a trace takes a second, and a slow machine shows progress, which costs more."""
    monkeypatch.setattr(workloads, "shipped", SHIPPED)
    monkeypatch.setattr(modes_lab, "BLINK", 1e9)


@pytest.fixture
def lab():
    return labs.modes(records=RECORDS)


def test_undo_goes_back_without_running_again(lab):
    before = lab.desk.value, lab.rows
    lab.designs["npt"].value = True
    lab.undo()
    assert (lab.desk.value, lab.rows, lab.designs["npt"].value) == (*before, False)
    lab.redo()
    assert [row.mmu for row in lab.rows] == ["native", "shadow", "ept", "npt"]


def test_a_share_string_brings_everything_back(lab):
    lab.kpti.value, lab.vcpus.value, lab.chart.value = True, 2, "exits"
    lab.calm.value = 256
    again = labs.modes(share=lab.share)
    assert (again.plan, repr(again), again.desk.value) == (lab.plan, repr(lab), lab.desk.value)


def test_the_code_shown_makes_the_very_same_rows(lab):
    lab.policy.value, lab.kpti.value, lab.costs.value = "today", True, "nested"
    lab.designs["npt"].value = True
    done = {}
    exec(lab.code, done)  # noqa: S102  what the lab tells people to run
    assert [row.to_json() for row in done["rows"]] == [row.to_json() for row in lab.rows]


def test_kpti_and_more_cpus_cost_a_shadowed_guest_exits(lab):
    exits = [row.total.all_exits for row in lab.rows]
    lab.kpti.value = True
    kpti = [row.total.all_exits for row in lab.rows]
    lab.vcpus.value = 2
    more = [row.total.all_exits for row in lab.rows]
    assert exits[1] < kpti[1] < more[1]
    assert kpti[0] == more[0] == 0


def test_the_learner_finds_where_shadow_paging_and_ept_cross(lab):
    assert not any("changed between" in one for one in lab._facts())
    lab.calm.value = 1024
    found = next(one for one in lab._facts() if "changed between" in one)
    assert "64 and 1024" in found
    lines = lab._drawn[1]._lines
    assert lines.x.tolist() == [1, 64, 1024]
    prices = lab._prices
    for values, mmu in zip(lines.y.tolist(), ("shadow", "ept"), strict=True):
        assert values == [prices.cycles(crossing(mmu, calm)).total for calm in (1, 64, 1024)]


def test_the_first_traps_are_stepped_through_and_asked_about(lab):
    steps = lab.player.scene["steps"]
    assert len(steps) == 13
    assert steps[0]["ask"]["question"] == say("traps.most")
    assert steps[0]["ask"]["choices"][steps[0]["ask"]["answer"]] == "shadow paging"
    assert "hands the #PF on" in str(steps[1]["ask"]["choices"])
    assert steps[1]["sentence"].startswith("Trap 1: VM exit on #PF")


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace": HOSTILE},
        {"designs": [HOSTILE]},
        {"designs": [["ept"]]},
        {"policy": HOSTILE},
        {"costs": HOSTILE},
        {"chart": HOSTILE},
        {"calm": 3},
        {"tried": [HOSTILE]},
        {"vcpus": 10_000},
        {"records": -1},
    ],
)
def test_what_a_plan_cannot_say_is_refused_in_words(lab, wrong):
    plan, shown = lab.plan, lab.desk.value
    lab.change(**wrong)
    assert 'role="alert"' in lab.notice.value
    assert "<img" not in lab.notice.value
    assert "Traceback" not in lab.notice.value
    assert (lab.plan, lab.desk.value) == (plan, shown)


@functools.cache
def expected(mmu, **chosen):
    """The row of a design, from a study of its own."""
    return compare(SHIPPED("sort").head(RECORDS), [mmu], **chosen)[0]


class Clicking(RuleBasedStateMachine):
    """Anything but other traces: those of the tests are as good as any."""

    @initialize()
    def begin(self):
        self.lab, self.taps = labs.modes(records=RECORDS), ExitStack()
        self.wire = self.taps.enter_context(tapped())

    def teardown(self):
        if hasattr(self, "taps"):
            self.taps.close()

    def set(self, control, value):
        """Within the budget; a message to the learner that goes away with it is one more."""
        afforded = BUDGET + bool(self.lab.notice.value)
        assert self.wire.choose(control, value) <= afforded, self.wire.sent[-6:]

    @rule(data=st.data(), name=st.sampled_from(["policy", "costs", "chart", "vcpus"]))
    def choose(self, data, name):
        control = getattr(self.lab, name)
        self.set(control, data.draw(st.sampled_from(options(control))))

    @rule(mmu=st.sampled_from([*DESIGNS[:5], "kpti"]), on=st.booleans())
    def tick(self, mmu, on):
        box = self.lab.kpti if mmu == "kpti" else self.lab.designs[mmu]
        self.set(box, on)

    @rule(calm=st.sampled_from(CALM[:8]))
    def slide(self, calm):
        self.set(self.lab.calm, calm)

    @rule(language=st.sampled_from(["en", "zh"]))
    def speak(self, language):
        self.wire.choose(self.lab.language, language)

    @rule(back=st.booleans())
    def go_back_or_forth(self, back):
        self.wire.click(self.lab.back if back else self.lab.forth)

    @rule()
    def undo_and_redo(self):
        before = self.lab.plan, self.lab.desk.value
        if self.lab._at:
            self.lab.undo()
            self.lab.redo()
        assert (self.lab.plan, self.lab.desk.value) == before

    @rule()
    def share(self):
        self.lab.load(self.lab.share)
        assert "Traceback" not in self.lab.notice.value

    @invariant()
    def shows_what_the_engine_counts(self):
        if not hasattr(self, "lab"):
            return
        lab, plan = self.lab, self.lab.plan
        assert "Traceback" not in lab.notice.value
        rows = [expected(mmu, **machine_options(plan, mmu)) for mmu in plan["designs"]]
        assert [row.total for row in lab.rows] == [row.total for row in rows]
        with_words = figures.CHARTS[plan["chart"]](lab.rows)
        assert len(lab._drawn[0]._bars.x) == len(names(with_words))
        assert lab._drawn[1]._lines.x.tolist() == plan["tried"]
        assert all(control.value == plan[key] for key, control in lab._bound.items())


TestClicking = Clicking.TestCase
TestClicking.settings = settings(max_examples=2, stateful_step_count=30, deadline=None)


@pytest.mark.long
def test_two_thousand_random_actions():
    run_state_machine_as_test(
        Clicking, settings=settings(max_examples=20, stateful_step_count=100, deadline=None)
    )
