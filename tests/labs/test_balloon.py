"""The balloon's lab, through its traits: its numbers are the engine's, at the step shown."""

import warnings

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab import labs
from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice
from kvmlab.machine import Server, connect
from kvmlab.management.virsh import virsh
from kvmlab.study.inflation_beginning import CHOICES, MIB
from tests.labs.wire import heard

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
DOWN = 3  # messages besides the two of the status and the echo


@pytest.fixture
def lab():
    """A lab that tells at once what came of each deed."""
    made = labs.balloon()
    made.predict.value = False
    return made


def test_a_target_is_chosen_with_the_slider_and_all_views_follow(lab):
    lab.target.value = 8
    now = lab.experiment.history[-1]
    assert (lab.moment, now.actual) == (now, 8 * MIB)
    assert f"actual {8 << 10:,} KiB" in lab.desk.value
    assert f"returned {now.returned >> 10:,} KiB" in lab.desk.value
    assert f"\nrss {now.rss >> 10}\n" in lab.dommemstat
    assert lab.dommemstat == virsh(lab.experiment.connection, "dommemstat vm1").out
    assert lab.dommemstat.strip() in lab.desk.value
    assert lab.charts.lines._lines.y[1][-1] == 8.0
    assert lab.plan["did"] == [["setmem", 8 << 10]]


def test_numbers_follow_the_step_and_never_stand_behind_an_open_question():
    lab = labs.balloon()
    lab.target.value = 8
    assert (lab.player.step, lab.at) == (0, 0)
    asked = [at for at, one in enumerate(lab.player.scene["steps"]) if one["ask"]]
    assert len(asked) == 3
    lab.player.step = asked[0]
    assert lab.moment is lab.experiment.moments[lab._shown[asked[0] - 1]]
    lab.player.answer = {"step": asked[0], "choice": 0, "right": False}
    assert lab.moment is lab.experiment.moments[lab._shown[asked[0]]]
    lab.player.step = asked[-1]
    before = lab.desk.value
    lab.player.answer = {"step": asked[-1], "choice": -1, "right": False}  # skipped
    assert lab.moment is lab.experiment.history[-1]
    assert lab.desk.value != before


def test_undo_redo_and_share_are_exact(lab):
    lab.target.value = 6
    lab.do("grow")
    lab.do("wait", 10)
    stats, image = lab.dommemstat, lab.experiment.machine.ram.image()
    lab.undo()
    lab.undo()
    assert lab.target.value == 6
    lab.undo()
    assert lab.target.value == 16
    for _ in range(3):
        lab.redo()
    assert (lab.dommemstat, lab.experiment.machine.ram.image()) == (stats, image)
    again = labs.balloon(share=lab.share)
    assert again.experiment.machine.ram.image() == image
    assert again.plan == lab.plan


def test_the_code_shown_makes_the_same_machine(lab, capsys):
    lab.change(swap=16, cache=4)
    lab.target.value = 6
    lab.do("grow")
    space = {}
    exec(lab.code, space)  # noqa: S102
    assert capsys.readouterr().out == lab.dommemstat + "\n"
    assert space["experiment"].machine.ram.image() == lab.experiment.machine.ram.image()
    lab._open["code"].value = True
    assert "experiment.setmem(6144)" in lab.desk.value


@pytest.mark.parametrize("name", list(CHOICES))
def test_every_choice_of_every_control_makes_a_guest(lab, name):
    for value in CHOICES[name]:
        getattr(lab, name).value = value
        assert lab.notice.value == ""
        assert lab.plan[name] == value


@pytest.mark.parametrize("wrong", [{"backing": "<img src=x>"}, {"swap": -1}, {"period": True}])
def test_a_wrong_beginning_is_refused_and_nothing_changes(lab, wrong):
    before = lab.share
    lab.change(**wrong)
    assert 'role="alert"' in lab.notice.value
    assert "<img" not in lab.notice.value
    assert lab.share == before
    with pytest.raises(BadChoice):
        labs.balloon(**wrong)


def test_a_deed_that_fails_is_told_and_the_lab_goes_on(lab):
    for deed in (("setmem", 0), ("modprobe",), ("wait", -1), ("fly",), ("setmem", "much")):
        lab.do(*deed)
        assert 'role="alert"' in lab.notice.value, deed
    lab.buttons["grow"].click()
    assert lab.notice.value == ""
    assert lab.plan["did"] == [["grow"]]


def test_mistakes_are_explained_in_both_languages(lab):
    lab.target.value = 1
    assert "Over-inflated" in lab.desk.value
    lab.language.value = "zh"
    assert "充气过度" in lab.desk.value
    assert lab.target.description.startswith("目标")
    lab.change(backing="2M")
    assert "hugetlbfs" in lab.desk.value


def test_a_change_sends_few_messages_and_nothing_twice(lab):
    sent = heard(lab)
    for act in (
        lambda: setattr(lab.target, "value", 9),
        lambda: lab.do("grow"),
        lambda: setattr(lab.swap, "value", 16),
        lab.waits[10].click,
    ):
        sent.clear()
        act()
        assert len(sent) <= DOWN + 1, sent  # the control's own echo is among them
    lab.predict.value = True
    sent.clear()
    lab.player.step = 1
    assert len(sent) <= DOWN + 1


def test_its_text_is_the_same_each_time():
    texts = {repr(labs.balloon()) for _ in range(2)}
    assert len(texts) == 1
    assert len(texts.pop()) < 200


# -- a guest of one's own -------------------------------------------------------------------


@pytest.fixture
def own():
    """A server, and a domain of one's own on it."""
    server = Server("128M")
    domain = connect(server).createXML(
        "<domain type='kvm'><name>&lt;b&gt;mine</name><memory unit='MiB'>32</memory><os>"
        "<type>hvm</type></os><devices><memballoon model='virtio'><stats period='1'/>"
        "</memballoon></devices></domain>"
    )
    server.clock.sleep(2 * SECOND)
    return server, domain


def test_each_look_at_a_domain_of_ones_own_tells_what_it_did_since(own, tmp_path):
    server, domain = own
    lab = labs.balloon(domain)
    assert "A guest of your own with 32 MiB" in lab.player.scene["steps"][0]["sentence"]
    domain.setMemory(28 << 10)
    server.clock.sleep(3 * SECOND)
    sent = heard(lab)
    lab.again.click()
    assert len(sent) <= DOWN + 1
    assert lab.notice.value == ""
    lab.predict.value = False
    assert lab.moment.actual == 28 * MIB
    assert lab.dommemstat == virsh(domain.connect(), f"dommemstat {domain.name()}").out
    assert "<b>mine" not in lab.desk.value
    assert "<strong>virsh dommemstat &lt;b&gt;mine</strong>" in lab.desk.value
    lab.language.value = "zh"
    assert "上次查看" in lab.player.scene["steps"][0]["sentence"]
    lab.export(tmp_path / "own.html")
    assert "28,672" in (tmp_path / "own.html").read_text(encoding="utf-8")


def test_a_domain_of_ones_own_is_not_changed_by_the_lab(own):
    _, domain = own
    lab, before = labs.balloon(domain), domain.memoryStats()
    lab.do("setmem", 8192)
    assert "your own" in lab.notice.value
    lab.change(swap=16)
    assert "your own" in lab.notice.value
    assert domain.memoryStats() == before
    space = {"domain": domain}
    exec(lab.code, space)  # noqa: S102
    assert space["look"].moments[-1].actual == lab.moment.actual
    usual = labs.balloon()
    usual.look_again()
    assert "of its own making" in usual.notice.value
    with pytest.raises(BadChoice, match="connect"):
        labs.balloon("mine")


class RandomLearner(RuleBasedStateMachine):
    """Whatever is clicked, the lab goes on and says what the engine says."""

    @initialize()
    def begin(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.lab = labs.balloon(process=1, cache=1, touched=2)
        self.sent = heard(self.lab)

    @rule(mib=st.integers(1, 16))
    def target(self, mib):
        self.sent.clear()
        self.lab.target.value = mib

    @rule(verb=st.sampled_from(["grow", "shrink", "work", "read", "modprobe"]))
    def click(self, verb):
        self.sent.clear()
        self.lab.buttons[verb].click()

    @rule(seconds=st.sampled_from([1, 10]))
    def wait(self, seconds):
        self.sent.clear()
        self.lab.waits[seconds].click()

    @rule(data=st.data())
    def choose(self, data):
        name = data.draw(st.sampled_from(list(CHOICES)))
        value = data.draw(st.sampled_from(list(CHOICES[name])))
        self.sent.clear()
        getattr(self.lab, name).value = value

    @rule(back=st.booleans())
    def undo(self, back):
        before = self.lab.share
        self.sent.clear()
        (self.lab.back if back else self.lab.forth).click()
        after = self.lab.share
        if not self.lab.notice.value:
            (self.lab.forth if back else self.lab.back).click()
            assert self.lab.share == before
            (self.lab.back if back else self.lab.forth).click()
            assert self.lab.share == after

    @rule(step=st.integers(0, 30))
    def look(self, step):
        self.sent.clear()
        self.lab.player.step = step
        self.lab.player.answer = {"step": self.lab.player.step, "choice": 0, "right": False}

    @rule()
    def speak(self):
        self.lab.language.value = "zh" if self.lab.language.value == "en" else "en"
        self.sent.clear()

    @invariant()
    def holds(self):
        lab = getattr(self, "lab", None)
        if lab is None:
            return
        assert "<details>" not in lab.notice.value, lab.notice.value  # no error but our own
        now, machine = lab.experiment.history[-1], lab.experiment.machine
        assert now.actual == machine.balloon.left
        assert now.rss == machine.vmm.process.rss << 12
        assert now.ept >= (now.rss if lab.plan["backing"] == "4K" else 0)
        assert lab.target.value == -(-now.target // MIB)
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
