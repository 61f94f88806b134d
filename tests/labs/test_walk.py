"""The walk lab, through its traits: no browser."""

import subprocess
import sys

import ipywidgets
import pytest

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine


def sentences(lab):
    return [step["sentence"] for step in lab.player.scene["steps"]]


def controls(lab):
    """Every control of a lab."""
    found = []
    for child in lab.children:
        found += controls(child) if hasattr(child, "children") else [child]
    return found


@pytest.mark.parametrize("mmu, references", [("native", 4), ("shadow", 4), ("ept", 24)])
def test_the_designs_read_as_many_entries_as_published(mmu, references):
    lab = labs.walk()
    lab.design.value = mmu

    assert lab.references == references
    assert len([one for one in sentences(lab) if one.startswith("Reference")]) == references
    assert f"{references} references" in lab.status.value
    assert lab.notice.value == ""


@pytest.mark.parametrize("mmu, references", [("native", 3), ("shadow", 3), ("ept", 15)])
def test_large_pages_on_both_sides_shorten_the_walk(mmu, references):
    lab = labs.walk()
    lab.guest_page.value = lab.host_page.value = "2M"
    lab.design.value = mmu

    assert lab.references == references


def test_five_levels_on_five_levels():
    lab = labs.walk()
    lab.guest_levels.value = lab.host_levels.value = 5

    assert lab.references == 35


@pytest.mark.parametrize(
    "levels, page, mmu, references",
    [
        (2, "4K", "native", 2),
        (2, "4M", "native", 1),
        (2, "4M", "ept", 9),
        (2, "4K", "shadow", 2),
        (3, "4K", "shadow", 2),
        (3, "4K", "ept", 14),
        (3, "2M", "ept", 9),
    ],
)
def test_a_guest_of_32_bits_has_two_levels_in_memory(levels, page, mmu, references):
    lab = labs.walk()
    lab.guest_levels.value = levels
    lab.guest_page.value = page
    lab.design.value = mmu

    assert (lab.references, lab.walk.outcome, lab.notice.value) == (references, "mapped", "")


def test_pages_and_address_follow_the_levels_in_one_walk():
    lab = labs.walk()
    sent = []
    lab.guest_page.value = "1G"
    lab.player.observe(lambda change: sent.append(change.new["title"]), names="scene")
    lab.guest_levels.value = 2

    assert len(sent) == 1
    assert lab.guest_page.options == ("4K", "4M")
    assert (lab.guest_page.value, lab.address.value) == ("4K", "0xb7123ab8")

    lab.guest_levels.value = 4
    assert lab.guest_page.options == ("4K", "2M", "1G")
    assert (lab.address.value, lab.references) == ("0x7f1234567ab8", 24)


def test_a_page_that_both_guests_have_stays_chosen():
    lab = labs.walk()
    lab.guest_page.value = "2M"
    lab.guest_levels.value = 3

    assert (lab.guest_page.value, lab.references) == ("2M", 9)


def test_an_address_of_the_learners_own_is_kept_and_refused_if_it_does_not_fit():
    lab = labs.walk()
    lab.address.value = "0x400123"
    lab.guest_levels.value = 3
    assert (lab.address.value, lab.chain.gva, lab.notice.value) == ("0x400123", 0x40_0123, "")

    lab.address.value = "0x7f0000000000"
    assert "0x7f0000000000 does not fit in the 32 bits of PAE paging" in lab.notice.value
    assert lab.chain.gva == 0x40_0123


@pytest.mark.parametrize("levels", [2, 3])
def test_a_guest_of_32_bits_is_shadowed_by_pae_tables_which_are_told_of(levels):
    lab = labs.walk()
    lab.guest_levels.value = levels
    lab.design.value = "shadow"

    assert "shadowed by PAE tables" in lab.player.scene["caption"]
    assert any("from a table of KVM's own" in one["sentence"] for one in lab.player.scene["steps"])


def test_a_first_touch_under_ept_costs_one_violation():
    lab = labs.walk()

    assert "First touch: 1 page fault, 1 EPT violation." in lab.status.value
    assert "1 EPT violation: KVM wrote the missing entry" in sentences(lab)[0]


def test_the_chain_passes_memslot_and_qemus_table_as_steps_of_their_own():
    told = sentences(labs.walk())

    assert "memslot" in told[1]
    assert "not a reference" in told[1]
    assert "QEMU's page table" in told[2]
    assert "Not a reference" in told[2]


def test_the_chain_is_that_of_the_machine():
    lab = labs.walk()
    chain = lab.chain

    assert chain.gva == 0x7F12_3456_7AB8
    assert None not in (chain.gpa, chain.hva, chain.hpa)
    assert {address % 4096 for address in (chain.gva, chain.gpa, chain.hva, chain.hpa)} == {0xAB8}
    assert f"HPA {chain.hpa:#_x}" in sentences(lab)[-1]


def test_shadow_paging_names_its_policy_on_the_screen():
    lab = labs.walk()
    lab.design.value = "shadow"

    assert "every write to a guest table traps" in lab.player.scene["caption"]
    assert "a trapped write to a guest table" in sentences(lab)[0]


@pytest.mark.parametrize(
    "mmu, references", [("npt", 24), ("agile", 4), ("l2-ept", 24), ("l2-shadow", 24)]
)
def test_a_further_design_takes_the_place_of_the_first_three_and_back(mmu, references):
    lab = labs.walk()
    sent = []
    lab.player.send_state = sent.append
    lab.more.value = mmu
    assert (lab.mmu, lab.design.value, lab.references, len(sent)) == (mmu, None, references, 1)

    lab.design.value = "native"
    assert (lab.mmu, lab.more.value, lab.references, len(sent)) == ("native", None, 4, 2)
    assert lab.notice.value == ""


def test_in_another_language_the_same_design_stays_chosen():
    lab = labs.walk()
    lab.more.value = "l2-ept"
    lab.language.value = "zh"
    assert (lab.mmu, lab.design.value, lab.notice.value) == ("l2-ept", None, "")
    assert [value for _, value in lab.more.options] == ["npt", "agile", "l2-ept", "l2-shadow"]


def test_agile_paging_is_offered_guests_of_64_bits_alone():
    lab = labs.walk()
    lab.guest_levels.value = 2
    lab.host_page.value = "2M"
    lab.more.value = "agile"
    assert [levels for _, levels in lab.guest_levels.options] == [4, 5]
    assert (lab.guest_levels.value, lab.address.value) == (4, "0x7f1234567ab8")
    assert (lab.host_page.value, lab.references, lab.notice.value) == ("2M", 4, "")

    lab.design.value = "ept"
    assert {levels for _, levels in lab.guest_levels.options} == {2, 3, 4, 5}
    assert lab.guest_levels.value == 4


def test_pages_of_1g_back_guests_of_64_bits_alone():
    lab = labs.walk()
    lab.host_page.value = "1G"
    lab.guest_levels.value = 3
    assert lab.host_page.options == ("4K", "2M")
    assert (lab.host_page.value, lab.references, lab.notice.value) == ("4K", 14, "")


def test_the_status_says_what_the_references_cost_and_by_which_model():
    lab = labs.walk()
    cycles = 6 * 54 + 6 * 14 + 12 * 4  # levels 1, 2 and above, of five walks and the guest's own
    assert f"{cycles} cycles for these references by the cost model “graded”" in lab.status.value
    lab.address.value = "0x800000000000"
    assert "cycles" not in lab.status.value


def test_controls_that_a_design_does_not_have_are_switched_off():
    lab = labs.walk()
    off = []
    for control, mmu in (
        *((lab.design, mmu) for mmu in ("native", "shadow", "ept")),
        *((lab.more, mmu) for mmu in ("npt", "agile", "l2-ept", "l2-shadow")),
    ):
        control.value = mmu
        off.append((lab.host_page.disabled, lab.host_levels.disabled))

    assert off == [(True, True), (False, True)] + [(False, False)] * 5


def values(control):
    """What can be chosen in a control; an option is a value or a pair of its name and its value."""
    options = getattr(control, "options", ())
    return [one[1] if isinstance(one, tuple) else one for one in options]


def test_every_option_of_every_control_gives_a_figure():
    lab = labs.walk()
    for control in controls(lab):
        for value in values(control):
            control.value = value
            assert lab.notice.value == "", (control.description, value)
            assert lab.player.steps > 0
            assert repr(lab).startswith("walk(")


def test_every_control_has_a_name_and_waits_for_the_learner_to_finish():
    lab = labs.walk()
    inputs = [one for one in controls(lab) if hasattr(one, "description_allow_html")]
    named = [one for one in inputs if not isinstance(one, ipywidgets.HTML)]

    assert len(named) == 11
    assert all(one.description for one in named)
    assert lab.address.continuous_update is False


@pytest.mark.parametrize("text", ["hello", "", "0x1_0000_0000_0000_0000_0", "-1"])
def test_an_invalid_address_is_told_and_changes_nothing_else(text):
    lab = labs.walk()
    lab.player.step = 7
    before = (lab.player.scene, lab.player.step, lab.status.value, lab.records)
    lab.address.value = text

    assert "address" in lab.notice.value
    assert (lab.player.scene, lab.player.step, lab.status.value, lab.records) == before

    lab.address.value = "0x7f1234568000"
    assert lab.notice.value == ""


def test_an_unmapped_page_faults_at_the_entry_that_is_absent():
    lab = labs.walk()
    lab.mapping.value = "none"

    assert (lab.walk.outcome, lab.references) == ("page_fault", 20)
    assert lab.player.scene["steps"][-1]["lit"]["guest.L1"] == "fault"
    assert "guest entry at level 1 is absent" in lab.status.value


def test_a_write_to_a_page_that_may_only_be_read_faults_after_the_whole_walk():
    lab = labs.walk()
    lab.mapping.value = "read"
    lab.kind.value = Kind.WRITE

    assert lab.walk.outcome == "page_fault"
    assert "rights" in lab.status.value
    assert "error code 0x7" in lab.status.value


def test_a_non_canonical_address_reads_no_entry():
    lab = labs.walk()
    lab.address.value = "0x800000000000"

    assert (lab.walk.outcome, lab.references) == ("general_protection", 0)
    assert "not canonical" in lab.status.value


def test_the_kernels_half_is_for_the_supervisor():
    lab = labs.walk()
    lab.address.value = "0xffff888000200000"
    outcomes = [lab.walk.outcome]
    lab.user.value = False

    assert [*outcomes, lab.walk.outcome] == ["page_fault", "mapped"]


def test_its_text_is_the_same_each_time():
    expected = "walk(ept: 4-level, EPT-4, 0x7f12_3456_7ab8: mapped, 24 references)"

    assert repr(labs.walk()) == repr(labs.walk()) == expected


def test_an_own_machine_is_looked_at_as_it_is():
    told = []
    machine = Machine("shadow", tap=told.append)
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0x40_0000, 0x4000)
    lab = labs.walk(machine)
    lab.address.value = "0x401008"

    assert (lab.references, lab.walk.outcome) == (4, "mapped")
    assert lab.chain == machine.chain(0x40_1008)
    assert machine.cpu.tap == told.append
    choices = [one.description for one in controls(lab) if hasattr(one, "options")]
    assert choices == ["Access", "Mode", "Language / 语言"]


def test_an_own_machine_of_32_bits_begins_with_an_address_that_fits():
    machine = Machine("native", guest_levels=3)
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0xB712_3000, 0x1000)

    lab = labs.walk(machine)
    assert (lab.references, lab.walk.outcome) == (2, "mapped")


def test_designs_have_the_names_that_they_have_everywhere():
    names = [name for name, _ in labs.walk().design.options]

    assert names == ["native paging", "shadow paging", "EPT"]


def test_an_own_machine_without_a_process_is_refused():
    with pytest.raises(BadChoice, match="runs no process"):
        labs.walk(Machine())


def test_a_change_sends_the_scene_in_one_message():
    lab = labs.walk()
    sent = []
    lab.player.send_state = sent.append
    lab.design.value = "shadow"

    assert len(sent) == 1


def test_the_walk_lab_loads_no_chart_library():
    script = "import sys; from kvmlab import labs; labs.walk(); print('bqplot' in sys.modules)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("False\n", "")
