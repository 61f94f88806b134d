"""The walk lab, through its traits: no browser."""

import subprocess
import sys

import ipywidgets
import pytest

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.machine import DESIGNS, Machine
from kvmlab.text import say
from tests.wire import options


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
    assert f"{references} references" in lab.desk.value
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


def test_the_usual_address_follows_the_levels_in_one_walk():
    lab = labs.walk()
    sent = []
    lab.player.observe(lambda change: sent.append(change.new["title"]), names="scene")
    lab.guest_levels.value = 2

    assert len(sent) == 1
    assert (lab.address.value, lab.references) == ("0xb7123ab8", 14)

    lab.guest_levels.value = 4
    assert (lab.address.value, lab.references) == ("0x7f1234567ab8", 24)


@pytest.mark.parametrize(
    "levels, page, complaint",
    [(4, "4M", "4-level"), (3, "1G", "PAE"), (2, "2M", "32-bit")],
)
def test_a_page_that_the_guest_has_not_is_refused_in_words(levels, page, complaint):
    lab = labs.walk(guest_levels=levels)
    before = (lab.references, lab.player.scene)
    lab.guest_page.value = page

    assert complaint in lab.notice.value
    assert (lab.guest_page.value, (lab.references, lab.player.scene)) == ("4K", before)


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

    assert "First touch: 1 page fault, 1 EPT violation." in lab.desk.value
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
def test_further_designs_are_chosen_like_the_first_three(mmu, references):
    lab = labs.walk()
    lab.design.value = mmu
    assert (lab.mmu, lab.references, lab.notice.value) == (mmu, references, "")
    lab.design.value = "native"
    assert (lab.mmu, lab.references) == ("native", 4)


def test_in_another_language_the_same_design_stays_chosen():
    lab = labs.walk()
    lab.design.value = "l2-ept"
    lab.language.value = "zh"
    assert (lab.mmu, lab.design.value, lab.notice.value) == ("l2-ept", "l2-ept", "")
    assert [value for _, value in lab.design.options] == list(DESIGNS)


@pytest.mark.parametrize(
    "first, then",
    [({"guest_levels": 2}, ("design", "agile")), ({"guest_levels": 3}, ("host_page", "1G"))],
)
def test_what_does_not_go_together_is_refused_and_changes_nothing(first, then):
    lab = labs.walk(**first)
    plan = lab.plan
    key, value = then
    getattr(lab, key).value = value
    assert 'role="alert"' in lab.notice.value
    assert (lab.plan, getattr(lab, key).value) == (plan, plan[key])


def test_the_status_says_what_the_references_cost_and_by_which_model():
    lab = labs.walk()
    cycles = 6 * 54 + 6 * 14 + 12 * 4  # levels 1, 2 and above, of five walks and the guest's own
    assert f"{cycles} cycles for these references by the cost model “graded”" in lab.desk.value
    lab.address.value = "0x800000000000"
    assert "cycles" not in lab.desk.value


@pytest.mark.parametrize(
    "mmu, without",
    [("native", ["host_levels", "host_page"]), ("shadow", ["host_levels"]), ("ept", [])],
)
def test_the_scene_does_without_controls_of_tables_that_a_design_does_not_have(mmu, without):
    lab = labs.walk(design=mmu)
    assert lab.player.scene["without"] == without
    assert "kvmlab-for-host_page" in lab.host_page._dom_classes


def test_every_option_of_every_control_gives_a_figure_or_says_why_not():
    lab = labs.walk()
    for control in controls(lab):
        for value in options(control):
            control.value = value
            assert (control.value == value) is (lab.notice.value == ""), control.description
            assert lab.player.steps > 0
            assert repr(lab).startswith("walk(")


def test_every_control_has_a_name_and_waits_for_the_learner_to_finish():
    lab = labs.walk()
    inputs = [one for one in controls(lab) if hasattr(one, "description_allow_html")]
    named = [one for one in inputs if not isinstance(one, ipywidgets.HTML)]

    assert len(named) == 16
    assert all(one.description for one in named)
    assert lab.address.continuous_update is False


@pytest.mark.parametrize("text", ["hello", "", "0x1_0000_0000_0000_0000_0", "-1"])
def test_an_invalid_address_is_told_and_changes_nothing_else(text):
    lab = labs.walk()
    lab.player.step = 7
    before = (lab.player.scene, lab.player.step, lab.desk.value, lab.records)
    lab.address.value = text

    assert "address" in lab.notice.value
    assert lab.address.value == "0x7f1234567ab8"
    assert (lab.player.scene, lab.player.step, lab.desk.value, lab.records) == before

    lab.address.value = "0x7f1234568000"
    assert lab.notice.value == ""


def test_an_unmapped_page_faults_at_the_entry_that_is_absent():
    lab = labs.walk()
    lab.mapping.value = "none"

    assert (lab.walk.outcome, lab.references) == ("page_fault", 20)
    assert lab.player.scene["steps"][-1]["lit"]["guest.L1"] == "fault"
    assert "guest entry at level 1 is absent" in lab.desk.value


def test_a_write_to_a_page_that_may_only_be_read_faults_after_the_whole_walk():
    lab = labs.walk()
    lab.mapping.value = "read"
    lab.kind.value = "write"

    assert lab.walk.outcome == "page_fault"
    assert "rights" in lab.desk.value
    assert "error code 0x7" in lab.desk.value


def test_a_non_canonical_address_reads_no_entry():
    lab = labs.walk()
    lab.address.value = "0x800000000000"

    assert (lab.walk.outcome, lab.references) == ("general_protection", 0)
    assert "not canonical" in lab.desk.value


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
    assert choices == ["Access", "Mode", "Accessed just before", "Language / 语言"]


def test_an_own_machine_of_32_bits_begins_with_an_address_that_fits():
    machine = Machine("native", guest_levels=3)
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0xB712_3000, 0x1000)

    lab = labs.walk(machine)
    assert (lab.references, lab.walk.outcome) == (2, "mapped")


def test_designs_have_the_names_that_they_have_everywhere():
    names = [name for name, _ in labs.walk().design.options]

    assert names == [say(f"design.{mmu}") for mmu in DESIGNS]


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


@pytest.mark.parametrize(
    "caches, before, references, told",
    [
        ("none", "page", 0, "TLB: hit"),
        ("both", "page", 0, "TLB: hit"),
        ("none", "neighbour", 24, "TLB: miss"),
        ("upper", "neighbour", 9, "walk caches: L2 hit"),
        ("nested", "neighbour", 8, "nested TLB: hit"),
        ("both", "neighbour", 5, "nested TLB: hit"),
        ("both", "nothing", 24, "walk caches: miss"),
    ],
)
def test_a_warm_access_reads_less_and_the_caches_light_up(caches, before, references, told):
    lab = labs.walk()
    lab.caches.value, lab.before.value = caches, before
    steps = lab.player.scene["steps"]

    assert (lab.references, lab.walk.outcome, lab.notice.value) == (references, "mapped", "")
    assert any(told in step["texts"].values() for step in steps)
    lit = {key for step in steps for key, role in step["lit"].items() if role == "now"}
    assert lit >= {"tlb"} | ({"cached", "upper"} if "L2" in told else set())


def test_questions_are_asked_until_they_are_unwanted():
    lab = labs.walk()
    asked = [step["ask"] for step in lab.player.scene["steps"] if step["ask"]]
    assert len(asked) == 12
    lab.predict.value = False
    assert not any(step["ask"] for step in lab.player.scene["steps"])
