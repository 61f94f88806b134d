"""One file for a lecture: scenes that step and play with no kernel and no network.

The page carries the very module and style sheet that the labs use, and a policy that allows just
these: by their hashes, and nothing from anywhere else.  Without JavaScript it still shows the first
scene's figure and its table.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from xml.etree import ElementTree as ET

from kvmlab.figures.lecture import Lecture, Variant
from kvmlab.figures.page import looks, part_html
from kvmlab.figures.scene import Scene
from kvmlab.figures.svg import XMLNS
from kvmlab.labs.player import module, spoken_labels, style
from kvmlab.text import say

FOLDER = Path(__file__).parent
EXPORTED = "export default { render };"
GROUPS = re.compile("(?=<g )")  # a drawing in pieces: those that others have too are kept once
LISTS = (list, tuple)
GAP = 24  # between two drawings of one still


def page(lecture: Lecture, language: str) -> str:
    """The whole page as HTML.

    A page without JavaScript shows the first variant.
    """
    title, variants = lecture.title, [lecture.first, *lecture.others]
    parts = ["".join(map(part_html, one.parts)) for one in variants]
    options = [
        list(dict.fromkeys(names)) for names in zip(*(v.choice for v in variants), strict=True)
    ]
    data = {
        "labels": spoken_labels(),
        "axes": [
            {"name": name, "options": names}
            for name, names in zip(lecture.axes, options, strict=True)
        ],
        "variants": [
            {
                "choice": one.choice,
                "scene": {**one.scene.to_json(), "svg": GROUPS.split(one.scene.svg)},
                "facts": "\n".join(one.facts),
                "parts": inside,
            }
            for one, inside in zip(variants, parts, strict=True)
        ],
    }
    sheet = style() + looks("plots.css") + _file("page.css")
    script = module().replace(EXPORTED, _file("page.js"))
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(sheet)}"
    policy += "; img-src blob:"  # a picture of points to keep is made of one
    facts = "\n".join(variants[0].facts)
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="{escape(language)}">',
            '<head><meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>{sheet}</style></head>",
            f"<body><main><h1>{escape(title)}</h1>",
            '<div class="kvm-choices"></div>',
            f'<p class="kvm-facts" role="status">{escape(facts)}</p>',
            f'<div class="kvm-stageless"></div>{_still(variants[0].scene)}',
            _steps(variants[0].scene),
            f'<div class="kvm-parts">{parts[0]}</div>',
            f"</main><footer>{escape(say('page.made'))}</footer>",
            f'<script type="text/plain" id="kvmlab-data">{_packed(data)}</script>',
            f'<script type="module">{script}</script></body></html>',
            "",
        )
    )


def frame(name: str, title: str) -> str:
    """The line that shows a file called ``name`` in another page: frame, picture or link."""
    source, told = escape(name), escape(title)
    if name.endswith(".html"):
        return f'<iframe src="{source}" title="{told}" width="100%" height="900"></iframe>'
    if name.endswith(".pdf"):
        return f'<a href="{source}">{told}</a>'
    return f'<img src="{source}" alt="{told}">'


def still_svg(variant: Variant) -> str:
    """The drawing of ``variant`` as at its end, its charts below; light colours."""
    root = ET.Element(f"{{{XMLNS}}}svg", {"role": "img", "aria-label": variant.scene.title})
    ET.SubElement(root, f"{{{XMLNS}}}style").text = style() + looks("plots.css")
    paper = ET.SubElement(root, f"{{{XMLNS}}}rect", {"fill": "#ffffff"})
    drawn = [("", _at_its_end(variant.scene), "kvm-stage")]
    drawn += [(part.title, _parsed(part.svg), "plot") for part in variant.parts if part.svg]
    width, height = max(_size(one)[0] for _, one, _ in drawn), 0.0
    for title, one, name in drawn:
        height += _put(root, title, one, name, height)
    measured = {"width": f"{width:g}", "height": f"{height:g}"}
    paper.attrib.update(measured)
    root.attrib["viewBox"] = f"0 0 {width:g} {height:g}"
    return _markup(root)


def _put(root: ET.Element, title: str, drawing: ET.Element, kind: str, top: float) -> float:
    """Put a drawing into ``root`` at ``top``, under its title; returns the room that it takes."""
    width, height = _size(drawing)
    outer = ET.SubElement(root, f"{{{XMLNS}}}g", {"class": "kvmlab-player" * (kind != "plot")})
    inner = ET.SubElement(outer, f"{{{XMLNS}}}g", {"class": kind})
    above = GAP if title else 0
    if title:
        place = {"class": "heading", "x": "2", "y": f"{top + 14:g}"}
        ET.SubElement(inner, f"{{{XMLNS}}}text", place).text = title
    measured = {"width": f"{width:g}", "height": f"{height:g}"}
    drawing.attrib.update(x="0", y=f"{top + above:g}", **measured)
    inner.append(drawing)
    return above + height + GAP


def size(svg: str) -> tuple[float, float]:
    """The width and the height of a drawing, in its own units."""
    return _size(_parsed(svg))


def _size(drawing: ET.Element) -> tuple[float, float]:
    _, _, width, height = map(float, drawing.get("viewBox", "0 0 0 0").split())
    return width, height


def _parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  drawn by figures a moment ago


def _at_its_end(scene: Scene) -> ET.Element:
    """The drawing with everything lit that a step lit, and the texts of the last step."""
    root = _parsed(scene.svg)
    lit = dict.fromkeys((key for step in scene.steps for key in step.lit), "done")
    last = scene.steps[-1]
    for node in root.iter():
        key, words = node.get("data-key", ""), node.get("data-text", "")
        if key in lit:
            node.set("data-lit", last.lit.get(key, lit[key]))
        if words in last.texts:
            node.text = last.texts[words]
    return root


def _markup(root: ET.Element) -> str:
    ET.register_namespace("", XMLNS)
    return ET.tostring(root, encoding="unicode")


def _still(scene: Scene) -> str:
    """The figure and its table, for a page whose script does not run."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in scene.columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for step in scene.steps
        for row in step.rows
    )
    return (
        '<section class="kvm-still kvmlab-player">'
        f'<figure><div class="kvm-stage">{_markup(_at_its_end(scene))}</div>'
        f"<figcaption>{escape(scene.caption)}</figcaption></figure>"
        f"<table><caption>{escape(scene.title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"
    )


def _steps(scene: Scene) -> str:
    """Every step's sentence, which only paper shows."""
    lines = "".join(f"<li>{escape(step.sentence)}</li>" for step in scene.steps)
    return f'<ol class="kvm-steps">{lines}</ol>'


def _packed(data: object) -> str:
    """``data`` as deflated JSON, each of its texts there once.

    Scenes of a page say nearly the same: their sorted texts lie beside those that are like them,
    where deflate sees it.  A text becomes its place among them, a number n becomes -1 - n.
    """
    texts = {text: place for place, text in enumerate(sorted(set(_texts(data))))}
    both = [list(texts), _placed_texts(data, texts)]
    packed = json.dumps(both, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(packed.encode(), 9)).decode()


def _texts(data: object) -> Iterator[str]:
    """Every text in ``data``, names of keys left out."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, (dict, *LISTS)):
        for one in data.values() if isinstance(data, dict) else data:
            yield from _texts(one)


def _placed_texts(data: object, texts: Mapping[str, int]) -> object:
    if isinstance(data, str):
        return texts[data]
    if isinstance(data, dict):
        return {key: _placed_texts(one, texts) for key, one in data.items()}
    if isinstance(data, LISTS):
        return [_placed_texts(one, texts) for one in data]
    return -1 - data if isinstance(data, int) else data


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content-security policy says to let exactly ``text`` in."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
