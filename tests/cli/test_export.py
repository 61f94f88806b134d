"""`kvmlab export`: one file, complete in itself."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from kvmlab.cli import main

VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """The open elements, which must close in order, and every attribute."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "walk.html"
    assert main(["export", "walk", "--guest-page", "2M", "--out", str(path)]) == 0
    return path


def test_the_page_is_small_and_its_elements_close_in_order(page):
    assert page.stat().st_size < 300_000
    parser = Page()
    parser.feed(page.read_text(encoding="utf-8"))
    assert parser.open == []
    names = {name for _, name, _ in parser.attributes}
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
    assert main(["export", "walk", "--out", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"
    assert main(["export", "walk", "--out", str(path), "--force"]) == 0
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
        (["--out", "no/such/folder/x.html"], "No such file or directory"),
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
    arguments = ["export", "walk", "--mmu", "native", "--language", "zh", "--out", str(path)]
    assert main(arguments) == 0
    text = path.read_text(encoding="utf-8")
    assert '<html lang="zh">' in text
    assert "一次访问" in text
