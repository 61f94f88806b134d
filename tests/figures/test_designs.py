"""Walks of real machines under every design: what a picture calls its tables and addresses."""

import re
from xml.etree import ElementTree as ET

import pytest

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.walk import Setting, read_walk, summary, walk_scene
from kvmlab.hardware.ram import PAGE_SIZE
from kvmlab.hardware.records import Kind
from kvmlab.machine import DESIGNS, Machine
from kvmlab.study.access import Request, cold_access, first_access, guest_levels

TRANSLATED = ("ept", "npt", "l2-ept", "l2-shadow")  # here EPT is walked for every row
ROW = "{http://www.w3.org/2000/svg}g[@data-key='row.data']"


def walked(mmu):
    recorded = first_access(Request(0x7F12_3456_7AB8, mmu))
    setting = Setting.of(recorded.machine, recorded.gva)
    return setting, recorded


@pytest.mark.parametrize("mmu", DESIGNS)
def test_the_row_of_the_data_names_the_address_that_the_walk_looks_for(mmu):
    setting, recorded = walked(mmu)
    drawing = ET.fromstring(walk_scene(recorded.records, setting, recorded.before).svg)  # noqa: S314
    label = "".join(drawing.find(f".//{ROW}").itertext())
    space, arrived = ("GPA", setting.chain.gpa) if mmu in TRANSLATED else ("HPA", setting.chain.hpa)
    assert label == f"data{space} {hex_text(arrived)}"


@pytest.mark.parametrize(
    "mmu", [one for one in DESIGNS if one not in ("native", "shadow", "agile")]
)
def test_the_second_dimension_is_called_npt_under_npt_alone(mmu):
    setting, recorded = walked(mmu)
    walk = read_walk(recorded.records, setting)
    scene = walk_scene(recorded.records, setting)
    name, other = ("NPT", "EPT") if mmu == "npt" else ("EPT", "NPT")
    told = [step.sentence for step in scene.steps if step.sentence.startswith("Reference")]
    assert f"20 {name} + 4" in summary(walk, setting, recorded.before)
    assert len([one for one in told if re.match(rf"Reference \d+ of 24: {name} L\d", one)]) == 20
    drawn = "".join(ET.fromstring(scene.svg).itertext())  # noqa: S314  our own drawing
    assert f"{name} L4" in drawn
    assert f"split by {name}" in drawn
    assert other not in drawn


def test_every_design_has_guests_of_four_kinds_but_agile_paging():
    offered = {mmu: set(guest_levels(mmu)) for mmu in DESIGNS}
    assert offered.pop("agile") == {4, 5}
    assert all(levels == {2, 3, 4, 5} for levels in offered.values())


def test_a_switched_walk_of_agile_paging_names_an_address_of_each_space():
    machine = Machine("agile")
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0x40_0000, 0x10_0000)
    for page in range(60):  # each first touch writes the guest's L1 table: it is walked nested
        machine.guest.touch(0x40_0000 + page * PAGE_SIZE, Kind.WRITE)
    recorded = cold_access(machine, Request(0x40_1008, "agile"))
    scene = walk_scene(recorded.records, Setting.of(machine, 0x40_1008))
    spaces = re.findall(r"([GH]PA) (0x[0-9a-f_]+)<", scene.svg)
    assert [space for space, _ in spaces] == ["HPA", "HPA", "HPA", "HPA", "GPA"]
    assert spaces[-1][1] == hex_text(machine.chain(0x40_1008).gpa)
