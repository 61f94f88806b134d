"""`kvmlab export`: one file, complete in itself."""

import json
import re
import shutil
from xml.etree import ElementTree as ET

import pytest

from kvmlab import labs
from kvmlab.cli import export, main
from kvmlab.labs.browser import BROWSERS
from tests.lecture_pages import parsed, unpacked

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)  # of bqplot's scales, when they are first imported


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "walk.html"
    assert main(["export", "walk", "--guest-page", "2M", "--out", str(path)]) == 0
    return path


def test_the_page_is_small_and_its_elements_close_in_order(page):
    assert page.stat().st_size < 300_000
    names = {name for _, name, _ in parsed(page.read_text(encoding="utf-8")).attributes}
    assert "style" not in names
    assert not {"src", "href", "onclick", "srcset", "action"} & names


def test_there_is_no_address_that_a_browser_would_fetch(page):
    text = page.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|\bimport\s", text)


def test_without_a_script_the_figure_and_its_table_are_there(page):
    text = page.read_text(encoding="utf-8")
    still = text[text.index('class="kvm-still') : text.index("</section>")]
    references = re.findall(r"<tr><td>(\d+)</td>", still)
    assert references == [str(n) for n in range(1, 20)]
    assert "<svg" in still


@pytest.mark.parametrize("suffix", [".html", ".svg"])
def test_nothing_is_replaced_unless_forced(tmp_path, capsys, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_text("mine", encoding="utf-8")
    assert main(["export", "walk", "--guest-levels", "2", "--out", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"
    assert main(["export", "walk", "--guest-levels", "2", "--out", str(path), "--force"]) == 0
    assert path.read_text(encoding="utf-8") != "mine"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_the_drawing_is_well_formed_and_lit(tmp_path):
    path = tmp_path / "walk.svg"
    assert main(["export", "walk", "--mmu", "native", "--out", str(path)]) == 0
    root = ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314  our own
    lit = {node.get("data-key") for node in root.iter() if node.get("data-lit")}
    assert {f"guest.L{level}" for level in (1, 2, 3, 4)} <= lit


@pytest.mark.parametrize(
    "options, words",
    [
        (["--out", "x.gif"], "must end in .html, .svg, .png, .pdf"),
        (["--out", "no/such/folder/x.html"], "no/such/folder is no folder"),
        (["--mmu", "native", "--host-page", "2M", "--out", "x.html"], "native paging has none"),
        ([], "--out"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "walk", *options]) == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_chromium_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["export", "walk", "--out", str(tmp_path / "x.png")]) == 2
    assert "a .png needs Chromium" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_page_speaks_chinese(tmp_path):
    path = tmp_path / "x.html"
    arguments = ["export", "walk", "--guest-levels", "2", "--language", "zh", "--out", str(path)]
    assert main(arguments) == 0
    text = path.read_text(encoding="utf-8")
    assert '<html lang="zh">' in text
    assert "一次访问" in text


def test_the_lists_of_a_walk_offer_every_design_and_page_size(page):
    data = unpacked(page.read_text(encoding="utf-8"))
    designs, guest, host = (axis["options"] for axis in data["axes"])
    assert len(designs) == len(export.DESIGNS)
    assert (set(guest), set(host)) == ({"4K", "2M", "1G"}, {"4K", "2M", "1G", "–"})
    assert len({tuple(one["choice"]) for one in data["variants"]}) == len(data["variants"]) > 50
    counts = {tuple(one["choice"]): one["facts"] for one in data["variants"]}
    assert counts["EPT", "2M", "2M"].startswith("EPT: 15 references")
    assert counts["EPT", "4K", "4K"].startswith("EPT: 24 references")


def test_every_lab_but_the_questions_is_exported():
    assert {*export.LABS, "walk", "modes"} == {*labs.__all__} - {"ask", "glossary", "progress"}


def test_a_comparison_is_exported_with_its_designs(tmp_path, capsys):
    path = tmp_path / "x.html"
    given = ["ls", "--limit", "300", "--mmu", "shadow", "--mmu", "ept"]
    assert main(["export", "modes", *given, "--out", str(path)]) == 0
    assert '<iframe src="x.html"' in capsys.readouterr().out
    (only,) = unpacked(path.read_text(encoding="utf-8"))["variants"]
    assert "shadow paging" in only["facts"]
    assert "native" not in only["facts"]
    assert only["parts"].count("<svg") == 5


@pytest.mark.parametrize("asking", [False, True])
def test_a_share_string_is_exported_as_it_is(tmp_path, capsys, asking):
    lab = labs.balloon(language="zh")
    lab.do("setmem", 8192)
    path = tmp_path / "x.html"
    options = ["--share", lab.share, "--out", str(path), "--json"] + ["--ask"] * asking
    assert main(["export", "balloon", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["bytes"]) == (str(path), path.stat().st_size)
    text = path.read_text(encoding="utf-8")
    assert '<html lang="zh">' in text
    (only,) = unpacked(text)["variants"]
    assert len(only["scene"]["steps"]) == lab.player.steps
    assert any(step["ask"] for step in only["scene"]["steps"]) == asking


@pytest.mark.parametrize(
    "options, words",
    [
        (["balloon", "--share", "kvmlab1.walk.AAAA"], "is of the lab 'walk', not of 'balloon'"),
        (["balloon", "--share", "../../etc/passwd"], "a share string reads kvmlab1.balloon"),
        (["modes", "no/such/trace"], "no/such/trace"),
        (["ask"], "invalid choice"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, options, words):
    assert main(["export", *options, "--out", str(tmp_path / "x.html")]) == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# -- the cheat sheet -------------------------------------------------------------------------


@pytest.mark.parametrize("language, words", [("en", "the numbers on one page"), ("zh", "一页数字")])
def test_the_cheat_sheet_is_a_page(tmp_path, language, words):
    path = tmp_path / "cheat.html"
    assert main(["export", "cheatsheet", "--language", language, "--out", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert words in text
    assert parsed(text)


def test_the_cheat_sheet_is_no_drawing(tmp_path, capsys):
    assert main(["export", "cheatsheet", "--out", str(tmp_path / "cheat.svg")]) == 2
    assert "'cheat.svg' must end in .html, .pdf" in capsys.readouterr().err


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="a .pdf needs Chromium")
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_cheat_sheet_is_printed_on_one_page(tmp_path, language):
    path = tmp_path / "cheat.pdf"
    assert main(["export", "cheatsheet", "--language", language, "--out", str(path)]) == 0
    assert len(re.findall(rb"/Type\s*/Page\b", path.read_bytes())) == 1
