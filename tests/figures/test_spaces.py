"""The picture of four address spaces, its steps and its questions."""

import re
from itertools import pairwise

import pytest

from kvmlab.figures.spaces import draw_map, maps_table, read_key
from kvmlab.figures.spaces_scene import TOLD, Deed, spaces_scene, told_table, trail_text
from kvmlab.study.spaces import VERBS, Spaces, usual_deeds
from kvmlab.text import say, speaking

HEAP = 0x400000


def done(*more, mmu="ept"):
    spaces = Spaces(mmu)
    for verb, *values in [*usual_deeds(), *more]:
        VERBS[verb].act(spaces, *values)
    return spaces


def scene(spaces, space="gva", address=HEAP + 0x1ABC, verb=""):
    deed = Deed(verb, spaces.before, spaces.told) if verb else None
    trail = spaces.follow(space, address)
    return spaces_scene(spaces.machine, trail, spaces.taken, deed)


def test_every_page_of_the_process_is_in_all_four_columns():
    spaces = done()
    shown = {
        read_key(key) for key in re.findall(r'data-key="([gh]..\.0x[^"]+)"', scene(spaces).svg)
    }
    for page in spaces.pages:
        found = {("gva", page.gva), ("gpa", page.gpa), ("hva", page.hva), ("hpa", page.hpa)}
        assert found <= shown


def test_lines_are_the_translations_and_a_slot_keeps_the_order():
    spaces = done()
    shown = draw_map(spaces.machine, spaces.follow("gva", HEAP), [])
    lines = {(start, end) for space, start, end in shown.links if space == "gpa"}
    assert lines == {(page.gpa, page.hva) for page in spaces.pages}
    assert [b for _, b in sorted(lines)] == sorted(b for _, b in lines)


@pytest.mark.parametrize("space", ["gva", "gpa", "hva", "hpa"])
def test_each_step_asks_for_the_next_address_and_tells_the_machines(space):
    spaces = done()
    page = next(one for one in spaces.pages if one.gva == HEAP + 0x1000)
    told = scene(spaces, space, getattr(page, space) + 0xABC)
    assert len(told.steps) == 5
    for step in told.steps[1:4]:
        ask = step.ask
        assert len(set(ask.choices)) == len(ask.choices) >= 3
        assert len(ask.choices) == len(ask.feedback)
        assert ask.choices[ask.answer] in step.sentence
        assert ask.feedback[ask.answer] == say("spaces.ask.right")
        assert ask.feedback.count(say("spaces.ask.right")) == 1
    answers = {int(one.ask.choices[one.ask.answer], 16) & -4096 for one in told.steps[1:4]}
    assert answers == {page.gva, page.gpa, page.hva, page.hpa} - {getattr(page, space)}


def test_the_misconceptions_are_worked_out_from_the_machine():
    spaces = done()
    near, page = (one for one in spaces.pages if one.gva in (HEAP, HEAP + 0x1000))
    gpa, hva, _hpa = (step.ask for step in scene(spaces).steps[1:4])
    said = dict(zip(gpa.choices, gpa.feedback, strict=True))
    assert said[hex(HEAP + 0x1ABC)] == say("spaces.ask.same")
    assert said[hex(near.gpa + 0x1ABC)] == say("spaces.ask.contiguous")
    (video,) = [one for one in spaces.machine.vm.slots if one.slot == 1]
    said = dict(zip(hva.choices, hva.feedback, strict=True))
    assert said[hex(video.hva - video.gpa + page.gpa + 0xABC)] == say("spaces.ask.slot")


def test_of_a_page_in_the_second_slot_the_start_of_the_slot_is_asked_for():
    spaces = done()
    (video,) = [one for one in spaces.machine.vm.slots if one.slot == 1]
    hva = scene(spaces, "gpa", video.gpa + 0x123).steps[2].ask
    said = dict(zip(hva.choices, hva.feedback, strict=True))
    assert said[hex(video.hva + video.gpa + 0x123)] == say("spaces.ask.base")
    gpa = scene(spaces, "hva", video.hva + 0x123).steps[1].ask
    said = dict(zip(gpa.choices, gpa.feedback, strict=True))
    assert said["0x123"] == say("spaces.ask.base")


def test_lines_of_the_chosen_page_are_hidden_until_their_step():
    spaces = done()
    told = scene(spaces)
    hidden = set(re.findall(r'kvm-secret" data-key="([^"]+)"', told.svg))
    assert len(hidden) == 3
    assert not hidden & told.steps[0].lit.keys()
    assert hidden <= told.steps[3].lit.keys()


@pytest.mark.parametrize(
    "deed, spaces_changed",
    [
        (("migrate",), "HPA"),
        (("fork",), "none of them"),
        (("write", hex(HEAP + 0x2000), 1), "GPA + HVA + HPA"),
        (("munmap", hex(HEAP)), "GPA + HVA + HPA"),
        (("merge",), None),
    ],
)
def test_after_a_deed_it_is_asked_which_addresses_changed(deed, spaces_changed):
    spaces = done()
    if deed == ("migrate",):
        deed = ("migrate", hex(spaces.follow("gva", HEAP + 0x2000 - 0x1000).hva[0]))
    address = HEAP + (0x2000 if deed[0] == "write" else 0x1000)
    VERBS[deed[0]].act(spaces, *deed[1:])
    step = scene(spaces, address=address, verb=deed[0]).steps[0]
    assert len(set(step.ask.choices)) == len(step.ask.choices) == 4
    if spaces_changed:
        assert step.ask.choices[step.ask.answer] == spaces_changed
    assert ("MMU notifier" in step.sentence) is (deed[0] in ("migrate", "merge"))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_every_deed_and_every_end_has_its_words(mmu, language):
    spaces = done(["fork"], ["reclaim", 64], ["reclaim", 64], ["merge"], mmu=mmu)
    with speaking(language):
        for verb in VERBS:
            assert scene(spaces, verb=verb).steps[0].sentence
        for space, address in (
            ("gva", 0x404000),
            ("gva", HEAP),
            ("gpa", 0x9000_0000),
            ("gpa", 0xFEB0_0000),
            ("gpa", 0x80_0000),
            ("hva", spaces.pages[0].hva),
            ("hpa", 0x1000),
            ("hpa", spaces.machine.qemu.process.root),
        ):
            told = scene(spaces, space, address)
            assert all(step.sentence for step in told.steps)
            assert trail_text(spaces.follow(space, address))
        assert all(say(f"spaces.told.{name}") for name in TOLD)


def test_the_tables_say_the_same_as_the_picture():
    spaces = done(["merge"])
    rows = {row[0]: (row[1], row[2]) for row in told_table(spaces.told).rows}
    assert rows[say("spaces.told.HostMerged")] == ("H", str(spaces.told["HostMerged"]))
    maps = maps_table(spaces.machine).rows
    assert ["GPA", "0x0", "0xffffff", "16M", "memslot 0"] in maps
    assert ["HPA", "0x0", "0x3ffffff", "64M", "host RAM"] in maps
    guest = sorted((int(row[1], 16), int(row[2], 16)) for row in maps if row[0] == "GPA")
    assert all(a[1] + 1 == b[0] for a, b in pairwise(guest))
