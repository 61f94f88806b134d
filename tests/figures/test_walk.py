"""The scene of a walk: what is drawn, what is lit, what is said."""

import json
import re
from xml.etree import ElementTree as ET

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.figures.addresses import SPLITS, groups, hex_text
from kvmlab.figures.lattice import Register
from kvmlab.figures.touch import touch_costs
from kvmlab.figures.walk import Setting, read_walk, summary, walk_scene
from kvmlab.hardware.formats import FORMATS
from kvmlab.hardware.records import ExitReason, GeneralProtection, Kind, PageFault, VmEntry, VmExit
from kvmlab.host.records import HostFault
from kvmlab.kvm.records import SlotLookup, SpteSet
from kvmlab.machine import Chain
from kvmlab.study.access import Before

NAMESPACE = "{http://www.w3.org/2000/svg}"


def nodes(svg):
    return list(ET.fromstring(svg).iter())  # noqa: S314  our own drawing


def elements(svg):
    return {key: one for one in nodes(svg) if (key := one.get("data-key"))}


def now(step):
    return [key for key, role in step.lit.items() if role == "now"]


def numbers(scene):
    """The number in each cell of the lattice, by key."""
    cells = elements(scene.svg).items()
    text = f"{NAMESPACE}text[@class='kvm-number']"
    return {key: found.text for key, cell in cells if (found := cell.find(text)) is not None}


def test_the_lattice_has_a_numbered_cell_for_each_reference(nested, ept):
    scene = walk_scene(nested(), ept)

    assert sorted(map(int, numbers(scene).values())) == list(range(1, 25))
    assert numbers(scene)["ept.G4.L4"] == "1"
    assert numbers(scene)["guest.L1"] == "20"
    assert numbers(scene)["ept.data.L1"] == "24"


def test_rows_and_columns_of_the_lattice_are_levels(nested, ept):
    cells = {
        key: cell.find(f"{NAMESPACE}rect").attrib
        for key, cell in elements(walk_scene(nested(), ept).svg).items()
        if key.startswith(("ept.", "guest."))
    }

    assert cells["ept.G4.L4"]["y"] == cells["ept.G4.L1"]["y"] == cells["guest.L4"]["y"]
    assert cells["ept.G4.L2"]["x"] == cells["ept.G1.L2"]["x"] == cells["ept.data.L2"]["x"]
    rows = [float(cells[f"ept.{row}.L4"]["y"]) for row in ("G4", "G3", "G2", "G1", "data")]
    assert rows == sorted(set(rows))


def test_each_reference_is_one_step_with_one_element_lit(nested, ept):
    scene = walk_scene(nested(), ept)
    steps = [step for step in scene.steps if step.sentence.startswith("Reference")]

    assert len(steps) == 24
    assert [now(step)[0] for step in steps[:5]] == [
        *("ept.G4.L4", "ept.G4.L3", "ept.G4.L2", "ept.G4.L1"),
        "guest.L4",
    ]
    assert steps[6].sentence.startswith("Reference 7 of 24: EPT L3")
    assert [step.rows[0][0] for step in steps] == [str(n) for n in range(1, 25)]


def test_behind_us_stays_lit_and_what_comes_is_grey(nested, ept):
    scene = walk_scene(nested(), ept)
    step = next(one for one in scene.steps if one.sentence.startswith("Reference 6 "))

    done = [key for key, role in step.lit.items() if role == "done" and "row." not in key]
    assert done == ["ept.G4.L4", "ept.G4.L3", "ept.G4.L2", "ept.G4.L1", "guest.L4"]
    assert "ept.G3.L3" not in step.lit


def test_everything_that_a_step_lights_or_rewrites_is_in_the_drawing(nested, ept):
    scene = walk_scene(nested(), ept)
    texts = {one.get("data-text") for one in nodes(scene.svg)}

    assert {key for step in scene.steps for key in step.lit} <= set(elements(scene.svg))
    assert {key for step in scene.steps for key in step.texts} <= texts
    assert {len(row) for step in scene.steps for row in step.rows} == {len(scene.columns)}


def test_the_group_of_the_address_in_use_is_lit(nested, ept):
    scene = walk_scene(nested(), ept)
    ept_step, guest_step = (
        next(one for one in scene.steps if one.sentence.startswith(f"Reference {n} "))
        for n in (8, 10)
    )

    assert (ept_step.lit["gpa.L2"], ept_step.lit["gva.L3"]) == ("now", "used")
    assert guest_step.lit["gva.L3"] == "now"
    assert guest_step.texts["gpa.offset"] == "000"  # of the guest entry's GPA, 0x1033000
    assert guest_step.texts["gpa.L1"] == "033"


def test_steps_that_are_no_references_have_no_number(nested, ept):
    scene = walk_scene(nested(), ept)
    others = [step for step in scene.steps if not step.sentence.startswith("Reference")]

    assert [step.rows[0][0] for step in others] == ["–"] * 4
    assert "sets A in 1 entry" in others[1].sentence
    assert "found with 24 references" in others[3].sentence
    assert "not counted" in scene.caption


def test_a_step_explains_the_entry_that_was_read(nested, ept):
    scene = walk_scene(nested(), ept)
    step = next(one for one in scene.steps if one.sentence.startswith("Reference 20 "))

    assert step.detail.columns == ["bits", "field", "value", "meaning"]
    assert [row[1] for row in step.detail.rows][-3:] == ["U/S", "R/W", "P"]
    assert "PTE" in step.detail.caption


@pytest.mark.parametrize("mmu, table", [("native", "guest"), ("shadow", "shadow")])
def test_native_and_shadow_walks_have_one_column(flat, chain, mmu, table):
    scene = walk_scene(flat(table), Setting(mmu, {table: "4-level"}, chain))
    cells = [key for key in elements(scene.svg) if key.startswith(f"{table}.")]

    assert cells == [f"{table}.L{level}" for level in (4, 3, 2, 1)]
    assert not any(key.startswith("gpa.") for key in elements(scene.svg))
    assert ("every write to a guest table traps" in scene.caption) == (mmu == "shadow")


@pytest.mark.parametrize("register", [None, Register(2, 0x10_5001)])
@pytest.mark.parametrize("nest", [0, 4])
def test_a_guest_of_32_bits_has_two_rows_of_references_and_the_data(nested, chain, register, nest):
    """With and without the PDPTE registers of PAE, which are a row of their own."""
    name = "PAE" if register else "32-bit"
    formats = {"guest": name, "ept": "EPT-4"} if nest else {"guest": name}
    setting = Setting("ept" if nest else "native", formats, chain, register)
    scene = walk_scene(nested(2, nest), setting)
    drawn = elements(scene.svg)

    assert sorted(map(int, numbers(scene).values())) == list(range(1, 3 + 3 * nest))
    assert {key for key in numbers(scene) if key.startswith("guest")} == {"guest.L2", "guest.L1"}
    assert [key for key in drawn if key.startswith("row.")] == [
        *(["row.L3"] if register else []),
        *("row.L2", "row.L1", "row.data"),
    ]
    assert ("gva.L3" in drawn, "register" in drawn) == (bool(register), bool(register))
    assert {key for step in scene.steps for key in step.lit} <= set(drawn)


def test_the_register_of_pae_is_a_step_and_no_reference(nested):
    chain = Chain(0xB712_3AB8, 0x10_8AB8, 0x7F00_0010_8AB8, 0x11_0AB8)
    setting = Setting("ept", {"guest": "PAE", "ept": "EPT-4"}, chain, Register(2, 0x10_5001))
    scene = walk_scene(nested(2, 4), setting)
    step, following = scene.steps[1:3]

    assert "Bits 31:30 of the address choose PDPTE register 2: 0x10_5001" in step.sentence
    assert "no reference" in step.sentence
    assert now(step) == ["gva.L3", "register"]
    assert step.rows == [["–", "CPU", "3", "", "2", "", "0x10_5001", "register, no reference"]]
    assert step.detail.caption == "L3 PDPTE = 0x10_5001"
    assert following.sentence.startswith("Reference 1 of 14")
    assert following.lit["register"] == "done"
    assert elements(scene.svg)["register"].get("aria-label").endswith("Not a reference")
    assert "PAE" in scene.caption
    assert "CR3 holds" not in scene.steps[0].sentence


def test_entries_of_a_32_bit_guest_have_32_bits(nested, chain):
    scene = walk_scene(nested(2, 0), Setting("native", {"guest": "32-bit"}, chain))
    details = [step.detail for step in scene.steps if step.detail]

    assert [table.caption[:6] for table in details] == ["L2 PDE", "L1 PTE"]
    assert [table.rows[0][0] for table in details] == ["31:12", "31:12"]
    assert "XD" not in {row[1] for table in details for row in table.rows}


def test_only_what_the_cpu_walks_is_a_solid_arrow(nested, flat, ept, chain):
    def dashed(scene):
        arrows = {key: one for key, one in elements(scene.svg).items() if key.startswith("by.")}
        path = f"{NAMESPACE}g[@class='kvm-dash']"
        return {key for key, one in arrows.items() if one.find(path) is not None}

    shadow = Setting("shadow", {"shadow": "4-level"}, chain)
    native = Setting("native", {"guest": "4-level"}, chain)
    assert dashed(walk_scene(nested(), ept)) == {"by.slot", "by.host"}
    assert dashed(walk_scene(flat("shadow"), shadow)) == {"by.guest", "by.slot", "by.host"}
    assert dashed(walk_scene(flat("guest"), native)) == set()


def test_the_first_touch_is_told_before_the_walk(nested, ept, chain):
    touch = [
        VmExit(ExitReason.EPT_VIOLATION, 0x182, chain.gva, chain.gpa),
        SlotLookup(chain.gpa, 3, chain.hva),
        HostFault(chain.hva, chain.hpa, 12),
        SpteSet("ept", 1, 0, 0, 0),
        VmEntry(None),
    ]
    scene = walk_scene(nested(), ept, Before(touch, []))

    assert touch_costs(touch) == "1 EPT violation"
    assert [now(step) for step in scene.steps[:4]] == [[], ["by.slot"], ["by.host"], ["by.ept"]]
    assert "slot 3" in scene.steps[1].sentence
    assert "HPA 0x9b4_f008 (4K page)" in scene.steps[2].sentence
    assert {step.rows[0][0] for step in scene.steps[:4]} == {"–"}


def test_a_slot_and_a_backing_page_known_from_earlier_are_told_too(nested, ept, chain):
    earlier = [
        SlotLookup(chain.gpa + 0x5000, 0, chain.hva + 0x5000),
        HostFault(0x7F00_0000_0000, 0, 21),
    ]
    scene = walk_scene(nested(), ept, Before([], earlier))

    assert "no fault and no exit" in scene.steps[0].sentence
    assert [now(step) for step in scene.steps[1:3]] == [["by.slot"], ["by.host"]]


def test_a_fault_is_shown_where_the_walk_stopped(nested, chain):
    records = nested()[: 1 + 15]  # up to the guest's L2 entry
    records[-1].verdict = type(records[-1].verdict).ABSENT
    records.append(PageFault(chain.gva, 6, Kind.WRITE, user=True))
    setting = Setting(
        "ept", {"guest": "4-level", "ept": "EPT-4"}, Chain(chain.gva, None, None, None)
    )
    scene = walk_scene(records, setting)

    assert len(numbers(scene)) == 15
    assert scene.steps[-1].lit["guest.L2"] == "fault"
    assert scene.steps[-1].sentence == (
        "The guest entry at level 2 is absent. "
        "Page fault (#PF) for the guest: write of 0x7f12_3456_7008, error code 0x6."
    )
    assert "15 references until then" in summary(read_walk(records, setting), setting, None)


def test_an_ept_violation_names_the_hypervisor(nested, ept, chain):
    records = [*nested()[:5], VmExit(ExitReason.EPT_VIOLATION, 0x81, chain.gva, 0x5123)]
    scene = walk_scene(records, ept)

    assert scene.steps[-1].sentence.endswith("the hypervisor must answer.")
    assert "GPA 0x5123" in scene.steps[1].sentence


def test_a_non_canonical_address_reads_no_entry(chain):
    setting = Setting("ept", {"guest": "4-level", "ept": "EPT-4"}, chain)
    scene = walk_scene([GeneralProtection(1 << 47, "the address is not canonical")], setting)

    assert len(scene.steps) == 1
    assert "not canonical: 0x8000_0000_0000" in scene.steps[0].sentence
    assert numbers(scene) == {}


def test_an_unknown_design_is_refused(nested, chain):
    with pytest.raises(BadChoice, match="no picture for 'tdp'"):
        walk_scene(nested(), Setting("tdp", {"guest": "4-level"}, chain))


def test_a_scene_is_plain_data(nested, ept):
    scene = walk_scene(nested(), ept)

    assert json.loads(json.dumps(scene.to_json())) == scene.to_json()


def test_the_drawing_needs_no_inline_style_and_no_address(nested, ept):
    svg = walk_scene(nested(), ept).svg

    assert "style=" not in svg
    assert re.findall(r"https?://\S+?\"", svg) == ['http://www.w3.org/2000/svg"']
    assert "href" not in svg


def test_every_element_that_can_be_chosen_has_a_name(nested, ept):
    chosen = [one for one in elements(walk_scene(nested(), ept).svg).values() if one.get("role")]

    assert len(chosen) > 24
    assert all(one.get("aria-label") for one in chosen)


@pytest.mark.parametrize(
    "address, levels, digits",
    [
        (0x7F12_3456_7008, 4, ["0fe", "048", "1a2", "167", "008"]),
        (0xFFFF_8880_0000_0FFF, 4, ["111", "000", "000", "000", "fff"]),
        (0x00FF_FFFF_FFFF_FFFF, 5, ["0ff", "1ff", "1ff", "1ff", "1ff", "fff"]),
        (0xB712_3AB8, 2, ["2dc", "123", "ab8"]),
        (0xB712_3AB8, 3, ["2", "1b8", "123", "ab8"]),
        (0xFFFF_FFFF, 2, ["3ff", "3ff", "fff"]),
    ],
)
def test_an_address_is_split_as_its_tables_split_it(address, levels, digits):
    assert [text for _, text, _ in groups(address, levels)] == digits


@pytest.mark.parametrize(
    "levels, expected",
    [
        (2, ["31:22", "21:12", "11:0"]),
        (3, ["31:30", "29:21", "20:12", "11:0"]),
        (4, ["47:39", "38:30", "29:21", "20:12", "11:0"]),
    ],
)
def test_bits_of_the_groups_meet(levels, expected):
    assert [bits for _, _, bits in groups(0, levels)] == expected


def test_tables_of_equally_many_levels_split_an_address_alike():
    assert all(SPLITS[one.levels] == one.index_bits for one in FORMATS.values())


def test_hex_is_grouped_by_four_digits():
    assert (hex_text(0x7F12_3456_7008), hex_text(0), hex_text(None)) == (
        "0x7f12_3456_7008",
        "0x0",
        "–",
    )
