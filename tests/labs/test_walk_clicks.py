"""The walk lab under a learner who clicks anything, its code, and what it refuses."""

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

from kvmlab import labs
from kvmlab.hardware.records import Step
from kvmlab.machine import Machine
from tests.wire import BUDGET, options, tapped


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"design": "shadow", "kind": "write", "before": "neighbour", "caches": "both"},
        {"mapping": "none", "guest_page": "2M"},
        {"mapping": "read", "kind": "write"},
        {"address": "0xffff888000200000", "user": False, "before": "neighbour"},
        {"guest_levels": 3, "design": "native", "before": "page"},
        {"host_page": "1G", "guest_levels": 5},
    ],
)
def test_the_code_shown_makes_the_very_same_records(chosen):
    lab = labs.walk(**chosen)
    done = {}
    exec(lab.code, done)  # noqa: S102  what the lab tells people to run
    assert done["walked"] == lab.records
    assert done["machine"].chain(lab.chain.gva) == lab.chain


def test_the_code_for_a_machine_of_ones_own_runs_on_it():
    machine = Machine("ept")
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0x40_0000, 0x4000)
    lab = labs.walk(machine, address="0x401008", before="page")
    assert lab.walk.hit
    exec(lab.code, {"machine": machine})  # noqa: S102  likewise


HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "wrong",
    [
        {"design": HOSTILE},
        {"address": HOSTILE},
        {"kind": HOSTILE},
        {"mapping": HOSTILE},
        {"caches": HOSTILE},
        {"before": HOSTILE},
        {"guest_page": HOSTILE},
        {"guest_levels": 99},
        {"host_levels": -1},
        {"guest_levels": True},
        {"user": "yes"},
    ],
)
def test_what_a_plan_cannot_say_is_refused_in_words_and_nothing_runs(wrong):
    lab = labs.walk()
    plan, shown = lab.plan, lab.player.scene
    lab.change(**wrong)
    assert 'role="alert"' in lab.notice.value
    assert "Traceback" not in lab.notice.value
    assert "<img" not in lab.notice.value
    assert (lab.plan, lab.player.scene) == (plan, shown)


ADDRESSES = st.one_of(
    st.integers(0, (1 << 64) - 1).map(hex),
    st.sampled_from(["0x400123", "0xffff888000200000", "0x800000000000", HOSTILE, "", "-1", "7f"]),
)


class Clicking(RuleBasedStateMachine):
    """A learner who clicks anything; only what needs 2 GiB of memory is left out, for time."""

    @initialize()
    def begin(self):
        self.lab, self.taps = labs.walk(), ExitStack()
        self.wire = self.taps.enter_context(tapped())

    def teardown(self):
        if hasattr(self, "taps"):
            self.taps.close()

    def cost(self, cost, *, quiet):
        """At most six messages, and one more where a notice goes in the same moment."""
        assert cost <= BUDGET + (not quiet), self.wire.sent[-8:]

    @rule(data=st.data())
    def choose(self, data):
        names = [name for name in self.lab.BEGINNING if name not in ("address", "language")]
        control = getattr(self.lab, data.draw(st.sampled_from(names)))
        value = data.draw(st.sampled_from([one for one in options(control) if one != "1G"]))
        quiet = not self.lab.notice.value
        self.cost(self.wire.choose(control, value), quiet=quiet)

    @rule(address=ADDRESSES)
    def write_an_address(self, address):
        quiet = not self.lab.notice.value
        self.cost(self.wire.choose(self.lab.address, address), quiet=quiet)

    @rule(language=st.sampled_from(["en", "zh"]))
    def speak(self, language):
        self.wire.choose(self.lab.language, language)

    @rule(back=st.booleans())
    def go_back_or_forth(self, back):
        self.wire.click(self.lab.back if back else self.lab.forth)

    @rule()
    def share(self):
        again = labs.walk(share=self.lab.share)
        assert (again.plan, again.references) == (self.lab.plan, self.lab.references)
        assert repr(again) == repr(self.lab)

    @rule()
    def undo_and_redo(self):
        plan, told = self.lab.plan, self.lab.desk.value
        if self.lab._at:
            self.lab.undo()
            self.lab.redo()
        assert (self.lab.plan, self.lab.desk.value) == (plan, told)

    @invariant()
    def shows_what_the_engine_did(self):
        if not hasattr(self, "lab"):
            return
        lab, scene = self.lab, self.lab.player.scene
        assert "Traceback" not in lab.notice.value
        steps = [one for one in lab.records if isinstance(one, Step)]
        assert [one.step for one in lab.walk.references] == steps[: lab.references]
        cells = [row[0] for step in scene["steps"] for row in step["rows"] if row[0].isdigit()]
        assert cells == [str(n + 1) for n in range(lab.references)]
        for step in scene["steps"]:
            ask = step["ask"]
            assert ask is None or len(set(ask["choices"])) == len(ask["feedback"]) > 1
        assert all(getattr(lab, key).value == value for key, value in lab.plan.items())


TestClicking = Clicking.TestCase
TestClicking.settings = settings(max_examples=2, stateful_step_count=30, deadline=None)


@pytest.mark.long
def test_two_thousand_random_actions():
    run_state_machine_as_test(
        Clicking, settings=settings(max_examples=20, stateful_step_count=100, deadline=None)
    )
