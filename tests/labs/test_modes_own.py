"""The lab of the designs around a machine of the learner's own."""

import pytest

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.machine import Machine
from kvmlab.study.compare import compare
from kvmlab.study.comparison import MACHINE
from kvmlab.study.own_process import OwnProcess

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
HEAP = 0x4000_0000


@pytest.fixture
def machine():
    """A machine whose process wrote 30 pages."""
    machine = Machine(guest_memory="32M", host_memory="128M", kpti=True)
    guest = machine.guest
    guest.switch(guest.spawn("<b>mine"))
    guest.current.mmap(HEAP, "2M")
    for page in range(30):
        guest.store(HEAP + (page << 12), page)
    return machine


def test_the_rows_are_those_of_the_machines_own_process(machine):
    lab = labs.modes(machine)
    own = OwnProcess(machine)
    expected = compare(own.trace, lab.plan["designs"], kpti=True, **own.options)
    told = [(row.mmu, row.total.all_references, row.total.all_exits) for row in lab.rows]
    assert told == [(row.mmu, row.total.all_references, row.total.all_exits) for row in expected]
    assert "30 pages and written 30" in lab.desk.value
    assert "&lt;b&gt;mine" in lab.desk.value
    assert "<b>mine" not in lab.desk.value


def test_what_the_machine_has_told_the_controls_show(machine):
    lab = labs.modes(machine)
    assert lab.kpti.value is True
    lab.kpti.value = False  # what if it had none?
    references = {row.mmu: row.total.all_references for row in lab.rows}
    own = OwnProcess(machine)
    rows = compare(own.trace, lab.plan["designs"], **own.options)
    assert references == {row.mmu: row.total.all_references for row in rows}
    lab.undo()
    assert lab.kpti.value is True


def test_the_next_look_runs_what_was_used_since(machine):
    lab = labs.modes(machine)
    before = [row.accesses for row in lab.rows]
    machine.guest.store(HEAP + (99 << 12), 1)
    lab.again.click()
    assert [row.accesses for row in lab.rows] == [count + 2 for count in before]
    assert "31 pages" in lab.desk.value
    lab.language.value = "zh"
    assert "31 页" in lab.desk.value


def test_the_code_makes_the_same_rows(machine):
    lab = labs.modes(machine)
    lab.vcpus.value = 2
    space = {"machine": machine}
    exec(lab.code, space)  # noqa: S102  the lab's own text
    told = [(row.mmu, row.cycles.total) for row in space["rows"]]
    assert told == [(row.mmu, row.cycles.total) for row in lab.rows]


def test_a_share_string_comes_back_to_the_machine_and_to_no_other_lab(machine):
    lab = labs.modes(machine, policy="bypass")
    again = labs.modes(machine, lab.share)
    assert again.plan == lab.plan
    assert again.plan["trace"] == MACHINE
    with pytest.raises(BadChoice, match=r"labs\.modes\(machine\)"):
        labs.modes(share=lab.share)
    with pytest.raises(BadChoice, match="your own"):
        labs.modes(machine, labs.modes(records=500).share)


def test_a_process_that_went_leaves_what_was_shown_and_a_message(machine):
    lab = labs.modes(machine)
    shown = lab.rows
    guest = machine.guest
    guest.switch(guest.spawn("idle"))
    lab.again.click()
    assert "touch one first" in lab.notice.value
    assert lab.rows == shown
    lab.chart.value = "exits"
    assert lab.rows == shown


def test_no_machine_and_no_trace_is_refused():
    with pytest.raises(BadChoice, match="touch one first"):
        labs.modes(Machine(guest_memory="32M", host_memory="128M"))
    lab = labs.modes(records=500)
    lab.look_again()
    assert "labs.modes(machine)" in lab.notice.value
