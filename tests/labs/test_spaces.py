"""The lab of the four address spaces, through its traits: no browser."""

import ipywidgets
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.study.follow import direct
from kvmlab.study.spaces import VERBS

BUDGET = 6 - 2  # the kernel says busy and idle
HEAP = 0x400000


@pytest.fixture
def lab():
    return labs.spaces()


def by_browser(control, value):
    """What the browser says when a control was changed."""
    if hasattr(control, "_options_full"):
        values = [one for _, one in control._options_full]
        control.set_state({"index": values.index(value)})
    else:
        control.set_state({"value": value})


def test_a_page_is_chosen_by_click_and_by_address(lab):
    (frame,) = lab.trail.hpa
    lab.player.set_state({"chosen": f"hpa.{frame & -4096:#x}"})
    assert (lab.trail.space, lab.trail.hpa) == ("hpa", [frame & -4096])
    assert lab.trail.gva == [("app", HEAP + 0x1000)]
    by_browser(lab._bound["space"], "gva")
    assert lab.trail.end == "unmapped"
    by_browser(lab.address, "0x403000")
    assert lab.trail.gpa == [lab.machine.chain(0x403000).gpa]
    for _ in range(3):
        lab.undo()
    assert lab.plan == labs.spaces().plan
    assert lab.notice.value == ""


def test_buttons_do_what_guest_and_host_do(lab):
    before = lab.trail
    lab.buttons["migrate"].click()
    assert lab.trail.gpa == before.gpa
    assert lab.trail.hpa != before.hpa
    lab.buttons["merge"].click()
    twin = lab.machine.chain(HEAP + 0x3000).hpa
    assert lab.trail.hpa[0] & -4096 == twin
    lab.buttons["fork"].click()
    assert list(lab.process.options) == ["app", "child1"]
    lab.value.value = 5
    lab.buttons["write"].click()
    assert lab.trail.gpa != before.gpa
    lab.process.value = "child1"
    lab.buttons["switch"].click()
    assert lab.trail.gva[0][0] == "child1"
    assert lab.trail.gpa == before.gpa
    lab.size.value, lab.frames.value = 300, 16
    for name in ("reclaim", "balloon", "read", "munmap"):
        lab.buttons[name].click()
    assert lab.notice.value == ""
    assert [verb for verb, *_ in lab.plan["did"][-4:]] == ["reclaim", "balloon", "read", "munmap"]


def test_a_deed_that_needs_what_the_chosen_page_lacks_is_refused(lab):
    lab.choose("gpa", 0x9000_0000)
    for name, space in (("read", "GVA"), ("migrate", "HVA")):
        lab.buttons[name].click()
        assert space in lab.notice.value


def test_after_a_deed_it_is_asked_what_changed_and_after_a_choice_it_is_not(lab):
    assert lab.player.scene["steps"][0]["ask"] is None
    lab.buttons["migrate"].click()
    assert lab.player.scene["steps"][0]["ask"]
    assert "HPA" not in lab.desk.value.partition("<details>")[0]
    lab.choose("gva", HEAP)
    assert lab.player.scene["steps"][0]["ask"] is None
    lab.undo()
    assert lab.player.scene["steps"][0]["ask"] is None
    lab.buttons["migrate"].click()
    lab.predict.value = False
    assert "changed: HPA" in lab.desk.value
    assert all(step["ask"] is None for step in lab.player.scene["steps"])


def test_the_code_makes_the_same_machine(lab):
    for deed in (("migrate", hex(lab.trail.hva[0])), ("merge",), ("fork",), ("balloon", 40)):
        lab.do(*deed)
    lab.choose("hpa", lab.trail.hpa[0])
    names = {}
    exec(lab.code, names)  # noqa: S102  it is ours
    assert names["spaces"].machine.ram.image() == lab.machine.ram.image()
    assert names["trail"] == lab.trail


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
@pytest.mark.parametrize("space", ["gva", "gpa", "hva", "hpa"])
def test_every_control_has_every_option(lab, mmu, space):
    by_browser(lab._bound["mmu"], mmu)
    address = {
        "gva": HEAP,
        "gpa": lab.trail.gpa[0],
        "hva": lab.trail.hva[0],
        "hpa": lab.trail.hpa[0],
    }[space]
    lab.choose(space, address)
    by_browser(lab.language, "zh")
    assert lab.notice.value == ""
    assert (lab.trail.space, lab._bound["space"].value) == (space, space)
    assert lab.buttons["migrate"].description == "迁移"


@pytest.mark.parametrize(
    "address", ["<img src=x onerror=alert(1)>", "", "0x1" + "0" * 16, "-1", "0xffffffffffffffff"]
)
@pytest.mark.parametrize("space", ["gva", "gpa", "hva", "hpa"])
def test_an_address_of_any_wrong_kind_is_refused_in_words(lab, space, address):
    before = lab.share
    lab.choose(space, address)
    assert "<img" not in lab.notice.value
    assert "<pre>" not in lab.notice.value
    assert bool(lab.notice.value) is (lab.share == before)


def test_a_learners_own_machine_is_followed_and_not_changed():
    with pytest.raises(BadChoice):
        labs.spaces(Machine("native"))
    machine = Machine("ept")
    process = machine.guest.spawn("<b>me</b>")
    machine.guest.switch(process)
    process.mmap(0x700000, "16K")
    machine.guest.touch(0x700000, Kind.WRITE)
    lab = labs.spaces(machine)
    assert lab.trail.hpa == [machine.chain(0x700000).hpa]
    before = machine.ram.image()
    lab.do("migrate", hex(lab.trail.hva[0]))
    assert "your own" in lab.notice.value
    lab.predict.value = False
    assert "<b>" not in lab.desk.value
    lab.choose("hpa", lab.trail.hpa[0])
    assert lab.trail.gva == [("<b>me</b>", 0x700000)]
    assert machine.ram.image() == before
    machine.qemu.process.migrate(lab.trail.hva[0])
    lab.again.click()
    assert lab.trail.end == "frame"


def test_a_change_sends_few_messages(lab, monkeypatch):
    sent = []
    monkeypatch.setattr(
        ipywidgets.Widget, "_send", lambda widget, msg, buffers=None: sent.append((widget, msg))
    )
    for name in ("migrate", "merge", "read"):
        del sent[:]
        lab.buttons[name].click()
        assert 0 < len(sent) <= BUDGET, sent
    for control, value in ((lab.address, "0x403000"), (lab._bound["mmu"], "shadow")):
        del sent[:]
        by_browser(control, value)
        assert 0 < len(sent) <= BUDGET, sent
    del sent[:]
    lab.player.set_state({"chosen": f"gva.{HEAP:#x}"})
    assert 0 < len(sent) <= BUDGET, sent


GVA = st.integers(0, 9).map(lambda n: hex(HEAP + (n << 12))) | st.sampled_from(["0x10000000", "x"])
COUNT = st.sampled_from([0, 1, 8, 64, 300, 9999])
DEEDS = st.one_of(
    st.tuples(st.just("mmap"), GVA | st.just("0x900000"), COUNT),
    st.tuples(st.sampled_from(["munmap", "read", "video", "migrate"]), GVA),
    st.tuples(st.just("write"), GVA, st.integers(0, 2)),
    st.tuples(st.sampled_from(["balloon", "reclaim"]), COUNT),
    st.tuples(st.just("switch"), st.sampled_from(["app", "child1", "child2", "<b>"])),
    st.sampled_from([("fork",), ("merge",)]),
)


class Clicking(RuleBasedStateMachine):
    """A learner who tries anything, in any order."""

    def __init__(self):
        super().__init__()
        self.lab = labs.spaces()

    @rule(deed=DEEDS)
    def do(self, deed):
        assert deed[0] in VERBS
        self.lab.do(*deed)

    @rule(name=st.sampled_from(["migrate", "read", "write", "munmap", "merge", "reclaim"]))
    def press(self, name):
        self.lab.buttons[name].click()

    @rule(data=st.data())
    def click(self, data):
        keys = [key for step in self.lab.player.scene["steps"] for key in step["lit"]]
        self.lab.player.set_state({"chosen": data.draw(st.sampled_from(keys))})

    @rule(space=st.sampled_from(["gva", "gpa", "hva", "hpa"]), address=GVA)
    def choose(self, space, address):
        self.lab.choose(space, address)

    @rule(mmu=st.sampled_from(["ept", "shadow"]))
    def design(self, mmu):
        by_browser(self.lab._bound["mmu"], mmu)

    @rule(language=st.sampled_from(["en", "zh"]), predict=st.booleans())
    def words(self, language, predict):
        self.lab.language.value, self.lab.predict.value = language, predict

    @rule()
    def undo_and_redo(self):
        if self.lab._at == 0:
            return
        plan, image = self.lab.plan, self.lab.machine.ram.image()
        self.lab.undo()
        self.lab.redo()
        assert self.lab.plan == plan
        assert self.lab.machine.ram.image() == image

    @rule()
    def share(self):
        again = labs.spaces(share=self.lab.share)
        assert again.plan == self.lab.plan
        assert again.machine.ram.image() == self.lab.machine.ram.image()

    @invariant()
    def nothing_unforeseen(self):
        """Refusals are one line; and no entry leads to a frame that the host took back."""
        assert "<pre>" not in self.lab.notice.value, self.lab.notice.value
        spaces = self.lab.spaces
        for page in spaces.pages:
            assert direct(spaces.machine, page) in (None, page.hpa)


TestClicking = Clicking.TestCase
TestClicking.settings = settings(max_examples=3, stateful_step_count=20, deadline=None)


@pytest.mark.long
class TestLong(Clicking.TestCase):
    """2,000 actions."""

    settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
