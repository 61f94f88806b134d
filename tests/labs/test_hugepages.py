"""The lab of huge pages, through its traits: its numbers are the engine's, at the step shown."""

import warnings

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.figures.hugepages import leaf_text
from kvmlab.machine import Machine
from kvmlab.study.hugepages import PAIRS, VERBS
from kvmlab.study.hugepages_beginning import CHOICES
from tests.labs.wire import heard

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
MOST = 6


@pytest.fixture
def lab():
    """A lab that tells at once what came of each deed."""
    made = labs.hugepages()
    made.predict.value = False
    return made


def test_a_deed_is_done_by_its_button_and_all_views_follow(lab):
    lab.buttons["fill"].click()
    now = lab.experiment.history[-1]
    assert lab.moment is now
    assert f"RSS {now.rss >> 10:,} KiB" in lab.desk.value
    assert f"EPT {leaf_text(now.ept[now.at])}" in lab.desk.value
    assert lab.plan["did"] == [["fill"]]
    assert lab.charts.children[0] is lab._empty
    lab.buttons["serve"].click()
    served = lab.moment.served
    assert [int(sum(bar)) for bar in zip(*lab._chart._bars.y, strict=True)][-1] == served.cycles
    assert lab.charts.children == (lab._chart,)
    assert f"<td>{served.misses}</td>" in lab.desk.value
    before = lab.experiment
    lab.chart.value = "latency"
    assert [int(sum(bar)) for bar in zip(*lab._chart._bars.y, strict=True)][-1] == (
        served.latencies[-1]
    )
    assert lab.experiment is before
    assert "the two differ" in lab.desk.value
    lab.undo()
    assert lab.chart.value == "cost"
    assert "the two differ" not in lab.desk.value


def test_numbers_follow_the_step_and_never_stand_behind_an_open_question():
    lab = labs.hugepages()
    lab.do("sparse")
    asked = [at for at, one in enumerate(lab.player.scene["steps"]) if one["ask"]]
    assert asked == [1, 2]
    lab.player.step = 1
    assert lab.at == 0
    assert lab.moment is lab.experiment.moments[0]
    assert "Used 0 KiB" in lab.desk.value
    lab.player.answer = {"step": 1, "choice": 0, "right": False}
    assert lab.moment is lab.experiment.history[-1]
    assert "Used 16 KiB" in lab.desk.value
    assert "EPT ?" in lab.desk.value
    lab.player.step = 2
    assert "EPT ?" in lab.desk.value
    assert "For sparse use" not in lab.desk.value
    lab.player.answer = {"step": 2, "choice": 0, "right": True}
    assert "EPT 2M" in lab.desk.value
    assert "For sparse use" in lab.desk.value


def test_a_chart_waits_for_the_answer():
    lab = labs.hugepages()
    lab.do("fill")
    lab.do("serve")
    assert lab._chart is None
    lab.player.step = 1
    assert lab._chart is None
    lab.player.answer = {"step": 1, "choice": -1, "right": False}  # skipped
    assert lab._chart is not None


def test_what_can_be_read_goes_to_the_browser_before_the_chart(lab):
    """The first chart of a session loads bqplot; the numbers do not wait for that."""
    lab.do("fill")
    there = []
    lab.desk.observe(lambda _change: there.append(lab._chart), names="value")
    lab.do("serve")
    assert there == [None]
    assert f"<td>{lab.moment.served.misses}</td>" in lab.desk.value
    assert lab._chart is not None


@pytest.mark.parametrize("geometry", CHOICES["geometry"])
def test_requests_are_compared_with_the_usual_pairs_on_every_processor(lab, geometry, tmp_path):
    lab.change(geometry=geometry)
    lab.do("fill")
    lab.do("serve")
    assert lab.notice.value == ""
    assert len(lab._chart._bars.x) == len(PAIRS) + 1
    lab.export(tmp_path / "lecture.html")
    assert lab.notice.value == ""


def test_undo_redo_and_share_are_exact(lab):
    for verb in ("fill", "drop", "reclaim"):
        lab.do(verb)
    lab.do("wait", 10)
    image = lab.experiment.machine.ram.image()
    lab.undo()
    assert lab.experiment.machine.ram.image() != image
    lab.redo()
    assert lab.experiment.machine.ram.image() == image
    again = labs.hugepages(share=lab.share)
    assert again.experiment.machine.ram.image() == image
    assert again.plan == lab.plan


def test_the_code_shown_makes_the_same_machine(lab, capsys):
    lab.change(guest="4K", max_ptes_none=0)
    lab.do("fill")
    lab.do("wait", 10)
    space = {}
    exec(lab.code, space)  # noqa: S102
    now = lab.experiment.history[-1]
    assert capsys.readouterr().out.startswith(f"{now.touched} {now.rss} {now.hugetlb} ")
    assert space["experiment"].machine.ram.image() == lab.experiment.machine.ram.image()
    lab._open["code"].value = True
    assert "experiment.wait(10)" in lab.desk.value


@pytest.mark.parametrize("name", list(CHOICES))
def test_every_choice_of_every_control_makes_a_guest(lab, name):
    for value in CHOICES[name]:
        getattr(lab, name).value = value
        assert lab.notice.value == ""
        assert lab.plan[name] == value


@pytest.mark.parametrize(
    "wrong",
    [
        {"guest": "<img src=x onerror=alert(1)>"},
        {"offset": -1},
        {"fragmented": 1},
        {"host": "2M", "offset": 4},
        {"host": "2M", "fragmented": True},
    ],
)
def test_a_beginning_that_cannot_be_is_refused_and_nothing_changes(lab, wrong):
    before = lab.share
    lab.change(**wrong)
    assert 'role="alert"' in lab.notice.value
    assert "<img" not in lab.notice.value
    assert "<details>" not in lab.notice.value
    assert lab.share == before
    with pytest.raises((ValueError, MemoryError)):
        labs.hugepages(**wrong)


def test_a_deed_that_fails_is_told_and_the_lab_goes_on(lab):
    for deed in (("serve",), ("leave",), ("wait", -1), ("fly",), ("wait", "long")):
        lab.do(*deed)
        assert 'role="alert"' in lab.notice.value, deed
    lab.buttons["sparse"].click()
    assert lab.notice.value == ""
    assert lab.plan["did"] == [["sparse"]]
    with pytest.raises(BadChoice):
        labs.hugepages(share="kvmlab1.hugepages.xx")


def test_it_speaks_both_languages(lab):
    lab.do("sparse")
    assert "For sparse use choose small ones" in lab.desk.value
    lab.language.value = "zh"
    assert "稀疏使用应选小页" in lab.desk.value
    assert lab.buttons["ksm"].description == "运行 KSM"
    assert lab.host.options[0] == ("THP", "thp")


def test_a_change_sends_few_messages_and_nothing_twice(lab):
    lab.do("fill")
    lab.do("serve")
    sent = heard(lab)
    for act in (
        lab.buttons["fill"].click,
        lambda: setattr(lab.guest, "value", "4K"),
        lab.buttons["serve"].click,
        lab.buttons["write"].click,
    ):
        sent.clear()
        act()
        assert len(sent) <= MOST, sent


def test_its_text_is_the_same_each_time():
    texts = {repr(labs.hugepages()) for _ in range(2)}
    assert len(texts) == 1
    assert len(texts.pop()) < 200


def test_a_guest_of_ones_own_is_looked_at_and_not_changed(tmp_path):
    machine = Machine(guest_memory="32M", host_memory="128M")
    process = machine.guest.spawn("<b>mine")
    machine.guest.switch(process)
    process.mmap(0x4000_0000, "8M", page="2M")
    lab = labs.hugepages(machine)
    lab.predict.value = False
    assert "your own guest" in lab.player.scene["steps"][0]["sentence"]
    machine.guest.store(0x4000_0000, 1)
    before = machine.ram.image()
    sent = heard(lab)
    lab.again.click()
    assert len(sent) <= MOST
    assert lab.moment.used[0] == 512
    assert "guest 2M" in lab.desk.value
    lab.do("fill")
    assert "your own" in lab.notice.value
    lab.language.value = "zh"
    assert "上次查看" in lab.player.scene["steps"][0]["sentence"]
    space = {"domain": machine}
    exec(lab.code, space)  # noqa: S102
    assert space["look"].moments[-1].used == lab.moment.used
    lab.export(tmp_path / "own.html")
    assert machine.ram.image() == before
    usual = labs.hugepages()
    usual.look_again()
    assert "of its own making" in usual.notice.value
    with pytest.raises(BadChoice, match="connect"):
        labs.hugepages("mine")


class RandomLearner(RuleBasedStateMachine):
    """Whatever is clicked, the lab goes on and says what the engine says."""

    @initialize()
    def begin(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.lab = labs.hugepages()

    @rule(verb=st.sampled_from([verb for verb in VERBS if verb != "ksm"]))
    def click(self, verb):
        self.lab.buttons[verb].click()

    @rule(data=st.data())
    def choose(self, data):
        name = data.draw(st.sampled_from(list(CHOICES)))
        getattr(self.lab, name).value = data.draw(st.sampled_from(list(CHOICES[name])))

    @rule(back=st.booleans())
    def undo(self, back):
        before = self.lab.share
        (self.lab.back if back else self.lab.forth).click()
        after = self.lab.share
        if not self.lab.notice.value:
            (self.lab.forth if back else self.lab.back).click()
            assert self.lab.share == before
            (self.lab.back if back else self.lab.forth).click()
            assert self.lab.share == after

    @rule(step=st.integers(0, 3))
    def look(self, step):
        self.lab.player.step = min(step, len(self.lab.player.scene["steps"]) - 1)
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
        now, machine = lab.experiment.history[-1], lab.experiment.machine
        assert now.rss == machine.vmm.process.rss << 12
        assert now.host_free == sum(n << at for at, n in enumerate(now.blocks)) << 12
        for leaves, backed in zip(now.ept, now.host, strict=True):
            assert not leaves.huge or backed.large, "EPT maps no larger than the host has"
        again = {**lab.plan}
        lab.load(lab.share)
        assert lab.plan == again


RandomLearner.TestCase.settings = settings(max_examples=4, stateful_step_count=15, deadline=None)
test_random_learner = pytest.mark.filterwarnings("ignore")(RandomLearner.TestCase)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_random_actions():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        RandomLearner, settings=settings(max_examples=40, stateful_step_count=50, deadline=None)
    )
