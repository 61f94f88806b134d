"""The lab of tables, through its traits: no browser."""

import ipywidgets
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.study.builder import VERBS
from kvmlab.study.tree import dump, guest_tree

BUDGET = 6 - 2  # the kernel says busy and idle


@pytest.fixture
def lab():
    return labs.tables()


def count(monkeypatch):
    """Every message that a widget sends, from now on."""
    sent = []
    monkeypatch.setattr(
        ipywidgets.Widget, "_send", lambda widget, msg, buffers=None: sent.append((widget, msg))
    )
    return sent


def by_browser(control, value):
    """What the browser says when a control was changed."""
    if hasattr(control, "_options_full"):
        values = [one for _, one in control._options_full]
        control.set_state({"index": values.index(value)})
    else:
        control.set_state({"value": value})


def test_the_form_maps_protects_and_unmaps(lab):
    lab.gva.value, lab.pages.value, lab.gpa.value = "0x600000", 3, "0x300000"
    lab.buttons["map"].click()
    assert lab.machine.chain(0x602123).gpa == 0x302123
    lab.rights["w"].value = False
    lab.buttons["protect"].click()
    lab.access.value, lab.kind.value = "0x601000", "write"
    lab.attempt.click()
    assert lab.builder.tried.fault.error_code == 7
    lab.buttons["unmap"].click()
    assert lab.machine.chain(0x602123).gpa is None
    assert lab.notice.value == ""


def test_an_entry_is_chosen_in_the_tree_and_its_bits_are_pressed(lab):
    lab.player.set_state({"chosen": "L1.0x402000"})
    assert lab.entry.address == 0x402000
    before = lab.entry.value
    lab.bits.set_state({"chosen": "bit.1"})
    assert lab.entry.value == before ^ 2
    assert lab.player.chosen == "L1.0x402000"
    lab.bits.set_state({"chosen": "bit.1"})
    assert lab.entry.value == before
    lab.value.value = "0xffffffffffffffff"
    lab.setter.click()
    assert lab.entry.value == 2**64 - 1
    assert "fault" in lab.bits.scene["steps"][0]["lit"].values()
    for _ in range(3):
        lab.undo()
    assert lab.plan == labs.tables().plan


def test_what_is_picked_in_the_tree_can_be_unmapped_by_mouse_alone(lab):
    for key, gva in (("L1.0x402000", 0x402000), ("L2.0x800000", 0x800000)):
        lab.player.set_state({"chosen": key})
        lab.buttons["unmap"].click()
        assert lab.machine.chain(gva).gpa is None
    lab.player.set_state({"chosen": "L1.0x403000"})
    assert (lab.gva.value, lab.page.value) == ("0x403000", "4K")
    lab.player.set_state({"chosen": "L1.0x400000"})
    lab.attempt.click()
    assert lab.builder.tried.gva == 0x400000
    assert lab.notice.value == ""


def test_an_entry_is_chosen_by_the_form(lab):
    lab.level.value, lab.where.value = 2, "0x800000"
    lab.chooser.click()
    assert (lab.entry.level, lab.entry.address) == (2, 0x800000)
    assert lab.player.chosen == "L2.0x800000"  # the frame in the tree
    lab.where.value = "0x600000000000"
    lab.level.value = 1
    lab.chooser.click()
    assert 'role="alert"' in lab.notice.value
    assert lab.entry.address == 0x800000


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
@pytest.mark.parametrize("mmu", ["native", "shadow", "ept"])
def test_every_control_has_every_option(lab, mmu, levels):
    by_browser(lab._bound["mmu"], mmu)
    by_browser(lab._bound["levels"], levels)
    assert lab.machine.guest.tables.format.levels == levels
    assert lab.machine.mmu == mmu
    assert list(lab.level.options) == list(range(1, levels + 1))
    for name in ("wp", "smep", "smap", "ac"):
        by_browser(lab._bound[name], not lab.plan[name])
    assert lab.notice.value == ""
    by_browser(lab._bound["pke"], True)
    refused = levels < 4 or mmu == "shadow"
    assert ("alert" in lab.notice.value) is refused
    assert lab._bound["pke"].value is not refused


def test_with_2g_of_memory_a_page_of_1g_is_mapped(lab):
    lab.gva.value, lab.page.value = "0x40000000", "1G"
    lab.buttons["map"].click()
    assert "no block" in lab.notice.value
    by_browser(lab._bound["memory"], "2G")
    lab.buttons["map"].click()
    assert lab.notice.value == ""
    assert lab.machine.chain(0x40000000).gpa == 0x40000000


def test_the_code_makes_the_same_machine(lab):
    lab.do("map", "0x40000000", 5, "4K", "", "wx")
    lab.do("flip", 1, "0x40001000", 51, False)
    lab.do("access", "0x40001000", "read", False, False)
    names = {}
    exec(lab.code, names)  # noqa: S102  it is ours
    builder = names["builder"]
    assert builder.machine.ram.image() == lab.machine.ram.image()
    assert (builder.tried.end, builder.tried.fault) == (
        lab.builder.tried.end,
        lab.builder.tried.fault,
    )


def test_before_an_answer_nothing_tells_the_outcome(lab):
    lab.do("access", "0x400010", "write", True, True)
    step = lab.player.scene["steps"][lab.player.step]
    assert step["ask"]
    assert "#PF" not in lab.desk.value
    lab.predict.value = False
    assert "#PF" in lab.desk.value
    assert all(one["ask"] is None for one in lab.player.scene["steps"])


def test_what_is_said_to_an_answer_speaks_of_the_tlb_where_the_tlb_answered(lab):
    lab.do("access", "0x402000", "write", True, True)
    lab.do("protect", "0x402000", 1, "4K", "u", False)
    lab.do("access", "0x402000", "write", True, False)
    asked = lab.player.scene["steps"][lab.player.step]["ask"]
    assert asked["choices"][asked["answer"]] == "it arrives"
    assert all("it is stale" in said for said in asked["feedback"])
    assert not any("Bit 1" in said for said in asked["feedback"])


def test_the_dump_is_shown_when_asked_for(lab):
    lab._open["dump"].value = True
    assert dump(guest_tree(lab.machine)) in lab.desk.value
    assert "EPT" in lab.desk.value


def test_a_learners_own_machine_is_looked_at_and_not_changed():
    machine = Machine("ept")
    with pytest.raises(BadChoice):
        labs.tables(machine)
    process = machine.guest.spawn("<b>me</b>")
    machine.guest.switch(process)
    process.mmap(0x400000, "16K")
    machine.guest.touch(0x401000, Kind.WRITE)
    lab = labs.tables(machine)
    assert "L1.0x401000" in lab.player.scene["svg"]
    assert "<b>" not in lab.desk.value
    before = machine.ram.image()
    lab.player.set_state({"chosen": "L1.0x401000"})
    lab.bits.set_state({"chosen": "bit.1"})
    lab.do("map", "0x600000", 1, "4K", "", "wu")
    assert "your own" in lab.notice.value
    assert machine.ram.image() == before
    machine.guest.touch(0x402000, Kind.READ)
    lab.again.click()
    assert "L1.0x402000" in lab.player.scene["svg"]


@pytest.mark.parametrize("value", ["<img src=x onerror=alert(1)>", "", "0x1" + "0" * 16, "٣"])
def test_hostile_input_is_refused_as_text(lab, value):
    before = lab.share
    for field, button in ((lab.gva, lab.buttons["map"]), (lab.access, lab.attempt)):
        field.value = value
        button.click()
        assert 'role="alert"' in lab.notice.value
        assert "<img" not in lab.notice.value
    assert lab.share == before


def test_a_change_sends_few_messages(lab, monkeypatch):
    sent = count(monkeypatch)
    for control, value in ((lab._bound["mmu"], "shadow"), (lab._bound["smep"], True)):
        del sent[:]
        by_browser(control, value)
        assert 0 < len(sent) <= BUDGET, sent
    for button in (lab.buttons["map"], lab.attempt, lab.buttons["unmap"], lab.back):
        del sent[:]
        button.click()
        assert 0 < len(sent) <= BUDGET, sent
    for key in ("L2.0x800000", "L1.0x402000", "L1.0x403000"):
        del sent[:]
        lab.player.set_state({"chosen": key})
        assert 0 < len(sent) <= BUDGET, sent
    del sent[:]
    lab.bits.set_state({"chosen": "bit.9"})
    assert 0 < len(sent) <= BUDGET, sent


ADDRESS = st.sampled_from(
    ["0x400000", "0x402000", "0x601000", "0x800000", "0x40000000", "0x7fffffffe000", "zz", "-1"]
)
VALUE = st.integers(0, 2**64 - 1).map(hex) | st.sampled_from(["0", "0x103007", "0x7", "x"])
FLAG = st.booleans()
SIZE = st.sampled_from(["4K", "2M", "4M", "1G"])
DEEDS = st.one_of(
    st.tuples(st.just("map"), ADDRESS, st.integers(0, 5), SIZE, st.just(""), st.just("wu")),
    st.tuples(st.just("unmap"), ADDRESS, st.integers(1, 5), SIZE, FLAG),
    st.tuples(st.just("protect"), ADDRESS, st.integers(1, 5), SIZE, st.just("ux"), FLAG),
    st.tuples(st.just("set"), st.integers(0, 5), ADDRESS, VALUE, FLAG),
    st.tuples(st.just("flip"), st.integers(1, 5), ADDRESS, st.integers(0, 63), FLAG),
    st.just(("reload",)),
    st.tuples(st.just("access"), ADDRESS, st.sampled_from(["read", "write", "fetch"]), FLAG, FLAG),
)


class Clicking(RuleBasedStateMachine):
    """A learner who tries anything, in any order."""

    def __init__(self):
        super().__init__()
        self.lab = labs.tables()

    @rule(deed=DEEDS)
    def do(self, deed):
        assert deed[0] in VERBS
        self.lab.do(*deed)

    @rule(mmu=st.sampled_from(["native", "shadow", "ept"]))
    def design(self, mmu):
        by_browser(self.lab._bound["mmu"], mmu)

    @rule(levels=st.sampled_from([2, 3, 4, 5]))
    def levels(self, levels):
        by_browser(self.lab._bound["levels"], levels)

    @rule(name=st.sampled_from(["wp", "smep", "smap", "ac", "pke"]))
    def switch(self, name):
        by_browser(self.lab._bound[name], not self.lab.plan[name])

    @rule(language=st.sampled_from(["en", "zh"]), predict=FLAG)
    def words(self, language, predict):
        self.lab.language.value, self.lab.predict.value = language, predict

    @rule(bit=st.integers(0, 63))
    def press(self, bit):
        self.lab.bits.set_state({"chosen": f"bit.{bit}"})

    @rule(level=st.integers(1, 5), gva=ADDRESS)
    def choose(self, level, gva):
        self.lab.choose(level, gva)

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
        again = labs.tables(share=self.lab.share)
        assert again.plan == self.lab.plan
        assert again.machine.ram.image() == self.lab.machine.ram.image()

    @invariant()
    def nothing_unforeseen(self):
        """Refusals are one line; the details of an exception would be in <pre>."""
        assert "<pre>" not in self.lab.notice.value, self.lab.notice.value
        assert self.lab.player.scene["steps"]

    def teardown(self):
        self.lab.close()


TestClicking = Clicking.TestCase
TestClicking.settings = settings(max_examples=3, stateful_step_count=20, deadline=None)


@pytest.mark.long
class TestLong(Clicking.TestCase):
    """2,000 actions."""

    settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
