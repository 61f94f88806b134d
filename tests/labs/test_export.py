"""`lab.export`: every lab as a file that needs no kernel."""

import base64
import hashlib
import re
from xml.etree import ElementTree as ET

import pytest

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.figures.lecture import lines_part
from kvmlab.hardware.records import Kind
from kvmlab.labs import export
from kvmlab.machine import Machine
from kvmlab.text import speaking
from tests.lecture_pages import parsed, unpacked

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)  # of bqplot's scales, when they are first imported

MADE = {
    "walk": lambda: labs.walk(guest_levels=2, guest_page="4M"),
    "modes": lambda: labs.modes("ls", records=500, designs=["shadow", "ept"]),
    "spaces": labs.spaces,
    "tables": labs.tables,
    "balloon": labs.balloon,
    "overcommit": lambda: labs.overcommit(wanted=3),
    "hugepages": labs.hugepages,
}


def acted(name):
    """The lab after something was done in it, so that it has steps to ask about."""
    lab = MADE[name]()
    deeds = {"balloon": ("setmem", 8192), "tables": ("access", "0x400010", "write", True, True)}
    if name in deeds:
        lab.do(*deeds[name])
    assert lab.notice.value == ""
    return lab


@pytest.fixture(scope="module", params=MADE)
def page(request, tmp_path_factory):
    """A lab and the text of its page."""
    lab = acted(request.param)
    path = tmp_path_factory.mktemp("out") / "page.html"
    shown = lab.export(path)
    assert shown.startswith('<iframe src="page.html" title="')
    return lab, path.read_text(encoding="utf-8")


def test_the_page_is_whole_small_and_fetches_nothing(page):
    _, text = page
    names = {name for _, name, _ in parsed(text).attributes}
    assert not {"src", "href", "srcset", "action", "style"} & names
    assert not {name for name in names if name.startswith("on")}
    rest = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|\bimport\s", rest)
    assert len(text.encode()) < 300_000


def test_the_policy_lets_in_the_page_s_own_script_and_style_and_nothing_else(page):
    _, text = page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    script = re.search(r'<script type="module">(.*?)</script>', text, re.DOTALL)[1]
    hashes = [
        base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (script, style)
    ]
    assert policy.replace("&#x27;", "'") == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; "
        f"style-src 'sha256-{hashes[1]}'; img-src blob:"
    )


def test_the_first_scene_is_the_one_that_the_lab_shows(page):
    lab, text = page
    first = unpacked(text)["variants"][0]
    shown = lab.player.scene
    assert first["scene"]["svg"] == shown["svg"]
    assert first["scene"]["steps"] == shown["steps"]
    assert first["facts"]


def test_without_a_script_figure_table_facts_and_charts_are_there(page):
    _, text = page
    first = unpacked(text)["variants"][0]
    body = text[text.index("<body") : text.index("<script")]
    still = body[body.index('class="kvm-still') : body.index('<div class="kvm-parts">')]
    rows = [row for step in first["scene"]["steps"] for row in step["rows"]]
    assert "<svg" in still
    assert still.count("<tr>") == len(rows) + 1
    assert f'<div class="kvm-parts">{first["parts"]}</div>' in body


@pytest.mark.parametrize("name", ["modes", "balloon", "overcommit"])
def test_every_chart_of_the_lab_is_in_the_page_with_its_numbers(name):
    lab = acted(name)
    parts = lab._lecture().first.parts
    drawn = [part for part in parts if part.svg]
    assert drawn
    for part in drawn:
        ET.fromstring(part.svg)  # noqa: S314  our own
        assert part.title
        assert part.table.rows
    if name == "modes":
        totals = [row.total.all_references for row in lab.rows]
        assert [int(row[-1].replace(",", "")) for row in drawn[0].table.rows] == totals
    else:
        curves = lab._curves() if name == "overcommit" else None
        assert curves is None or lines_part(curves).svg


@pytest.mark.parametrize("name", ["walk", "balloon", "tables"])
def test_questions_are_in_the_page_exactly_while_the_lab_asks(name, tmp_path):
    lab = acted(name)
    asked = []
    for predict in (True, False):
        lab.predict.value = predict
        path = tmp_path / f"{predict}.html"
        lab.export(path)
        variants = unpacked(path.read_text(encoding="utf-8"))["variants"]
        asked.append(any(step["ask"] for one in variants for step in one["scene"]["steps"]))
    assert asked == [True, False]


@pytest.mark.parametrize("make", [labs.walk, labs.spaces, labs.tables])
def test_a_look_at_a_machine_of_one_s_own_is_exported_too(make, tmp_path):
    machine = Machine("shadow")
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0x400000, 0x4000)
    machine.guest.touch(0x400000, Kind.WRITE)
    lab = make(machine, **({"address": "0x400000"} if make is labs.walk else {}))
    lab.export(tmp_path / "own.html")
    variants = unpacked((tmp_path / "own.html").read_text(encoding="utf-8"))["variants"]
    assert [one["choice"] for one in variants] == [[]]
    assert variants[0]["scene"]["svg"] == lab.player.scene["svg"]


def test_a_chosen_language_is_the_page_s(tmp_path):
    lab = labs.walk(guest_levels=2, language="zh")
    lab.export(tmp_path / "zh.html")
    text = (tmp_path / "zh.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in text
    with speaking("zh"):
        assert unpacked(text)["variants"][0]["facts"] == lab._lecture().first.facts[0]


def test_a_name_that_is_markup_stays_text(tmp_path):
    lab = labs.overcommit(wanted=2, names="<img src=x onerror=alert(1)>, <script>")
    lab.export(tmp_path / "x.html")
    lab.export(tmp_path / "x.svg")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert not re.search(r"<img|<script>", text + unpacked(text)["variants"][0]["parts"])
    ET.fromstring((tmp_path / "x.svg").read_text(encoding="utf-8"))  # noqa: S314  our own


def test_the_still_has_the_figure_and_the_charts_one_below_the_other(tmp_path):
    lab = acted("modes")
    assert lab.export(tmp_path / "still.svg").startswith('<img src="still.svg" alt="')
    root = ET.fromstring((tmp_path / "still.svg").read_text(encoding="utf-8"))  # noqa: S314
    tops = [float(one.get("y")) for one in root.findall(".//{*}svg")]
    heights = [float(one.get("height")) for one in root.findall(".//{*}svg")]
    assert len(tops) == 1 + len([one for one in lab._lecture().first.parts if one.svg])
    ends = [top + height for top, height in zip(tops, heights, strict=True)]
    assert all(end < top for end, top in zip(ends, tops[1:], strict=False))
    assert ends[-1] <= float(root.get("viewBox").split()[3])


def test_what_is_there_is_replaced_only_if_that_is_said(tmp_path):
    lab, path = labs.spaces(), tmp_path / "mine.svg"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(BadChoice, match="is there already"):
        lab.export(path)
    assert path.read_text(encoding="utf-8") == "mine"
    lab.export(path, replace=True)
    assert path.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize("name", ["x.gif", "x", "x.html.exe", ".html/"])
def test_another_ending_is_refused_before_anything_is_made(name, tmp_path):
    with pytest.raises(BadChoice, match=r"must end in \.html, \.svg, \.png, \.pdf"):
        labs.spaces().export(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    lab, path = labs.spaces(), tmp_path / "mine.svg"
    path.write_text("mine", encoding="utf-8")

    def full(_handle, _mode):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        lab.export(path, replace=True)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.svg"]
    assert path.read_text(encoding="utf-8") == "mine"
