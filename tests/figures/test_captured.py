"""The figures of a captured guest: the path of an address, and the regions of its space."""

import pytest

from kvmlab.base.errors import BadAddress
from kvmlab.figures.captured import path_scene, regions_table
from kvmlab.text import LANGUAGES, speaking
from kvmlab.workloads import capture

RIP = 0x41BFFC  # where the shipped guest was stopped


@pytest.fixture(scope="module")
def guest():
    return capture.shipped()


@pytest.mark.parametrize(
    "mmu, references", [("native", 4), ("shadow", 4), ("ept", 24), ("npt", 24)]
)
def test_the_path_of_an_address_has_a_step_for_each_reference(guest, mmu, references):
    scene = path_scene(guest, RIP, mmu, user=True)
    numbered = [row for step in scene.steps for row in step.rows if row[0].isdigit()]
    assert len(numbered) == references
    assert str(references) in scene.steps[-1].sentence


def test_the_entries_of_the_path_are_those_of_the_guest_s_own_tables(guest):
    steps, end = guest.running.tables.walk(RIP)
    scene = path_scene(guest, RIP, "native", user=True)
    shown = [row[6] for step in scene.steps for row in step.rows if row[0].isdigit()]
    assert [int(one.replace("_", ""), 16) for one in shown] == [step.entry for step in steps]
    assert f"{end.address:#_x}" in scene.steps[-1].sentence


def test_an_address_that_the_guest_does_not_map_has_no_path(guest):
    with pytest.raises(BadAddress, match="the guest's own tables refuse 0x10: #PF"):
        path_scene(guest, 0x10)


def test_the_regions_hold_every_page_once(guest):
    leaves = guest.running.tables.leaves()
    table = regions_table(guest, most=10_000)
    pages = [row[3].partition(" × ") for row in table.rows]
    assert sum(int(number.replace(",", "")) for number, _, _ in pages) == len(leaves)
    assert {size for _, _, size in pages} == {"4K", "2M"}
    starts = [int(row[0].replace("_", ""), 16) for row in table.rows]
    ends = [int(row[1].replace("_", ""), 16) for row in table.rows]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert f"{len(leaves)} pages mapped, 108 page tables" in table.caption


def test_regions_are_named_by_the_process_s_mappings_and_the_kernel_s_layout(guest):
    names = [row[5] for row in regions_table(guest, most=10_000).rows]
    for name in ("/bin/busybox", "[heap]", "[stack]", "[vdso]", "kernel: its own image"):
        assert name in names
    text = next(
        row for row in regions_table(guest).rows if row[5] == "/bin/busybox" and "x" in row[4]
    )
    assert text[4] == "ur-x"


def test_the_table_is_cut_and_says_so(guest):
    table = regions_table(guest, most=3)
    assert len(table.rows) == 3
    assert " 3 of " in table.caption


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_figures(guest, language):
    with speaking(language):
        assert regions_table(guest).rows
