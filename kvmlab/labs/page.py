"""One file for a lecture: scenes that step and play with no kernel and no network.

The page carries the very module and style sheet that the labs use, and a policy that allows just
these: by their hashes, and nothing from anywhere else.  Without JavaScript it still shows the first
scene's figure and its table.
"""

import base64
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from xml.etree import ElementTree as ET

from kvmlab.base.errors import BadChoice
from kvmlab.figures.scene import Scene
from kvmlab.figures.svg import XMLNS
from kvmlab.labs.player import module, spoken_labels
from kvmlab.text import say

FOLDER = Path(__file__).parent
EXPORTED = "export default { render };"


@dataclass(frozen=True, slots=True)
class Variant:
    """One scene of a page, by what is chosen in the lists above it, and a line that sums it up."""

    choice: tuple[str, ...]
    scene: Scene
    facts: str


def page(title: str, axes: Sequence[str], variants: Sequence[Variant], language: str) -> str:
    """The whole page as HTML: ``axes`` name the lists, ``variants`` are what they choose from.

    The first variant is shown first, and is the one that a page without JavaScript shows.
    """
    names = [list(dict.fromkeys(one.choice[n] for one in variants)) for n in range(len(axes))]
    data = {
        "labels": spoken_labels(),
        "axes": [{"name": name, "options": names[n]} for n, name in enumerate(axes)],
        "variants": [
            {"choice": one.choice, "scene": one.scene.to_json(), "facts": one.facts}
            for one in variants
        ],
    }
    style = _file("player.css") + _file("page.css")
    script = module().replace(EXPORTED, _file("page.js"))
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    policy += "; img-src blob:"  # a picture of points to keep is made of one
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="{escape(language)}">',
            '<head><meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style></head>",
            f"<body><main><h1>{escape(title)}</h1>",
            '<div class="kvm-choices"></div>',
            f'<p class="kvm-facts" role="status">{escape(variants[0].facts)}</p>',
            f'<div class="kvm-stageless"></div>{_still(variants[0].scene)}',
            _steps(variants[0].scene),
            f"</main><footer>{escape(say('page.made'))}</footer>",
            f'<script type="text/plain" id="kvmlab-data">{_packed(data)}</script>',
            f'<script type="module">{script}</script></body></html>',
            "",
        )
    )


def frame(name: str, title: str) -> str:
    """The line that shows a page called ``name`` inside another page."""
    return (
        f'<iframe src="{escape(name)}" title="{escape(title)}" width="100%" height="900"></iframe>'
    )


def still_svg(scene: Scene) -> str:
    """The drawing of ``scene`` alone, as at its end, with its looks inside: light colours."""
    root = _at_its_end(scene)
    looks = ET.Element(f"{{{XMLNS}}}g", {"class": "kvmlab-player"})
    stage = ET.SubElement(looks, f"{{{XMLNS}}}g", {"class": "kvm-stage"})
    for child in list(root):
        root.remove(child)
        stage.append(child)
    ET.SubElement(root, f"{{{XMLNS}}}style").text = _file("player.css")
    left, top, width, height = root.get("viewBox", "").split()
    paper = {"x": left, "y": top, "width": width, "height": height, "fill": "#ffffff"}
    ET.SubElement(root, f"{{{XMLNS}}}rect", paper)
    root.append(looks)
    return _markup(root)


def _at_its_end(scene: Scene) -> ET.Element:
    """The drawing with everything lit that a step lit, and the texts of the last step."""
    root = ET.fromstring(scene.svg)  # noqa: S314  drawn by figures a moment ago
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


def write_new(path: Path, contents: bytes, *, replace: bool = False) -> None:
    """Write a file whole or not at all; raises `BadChoice` if it is there and is to stay."""
    if path.exists() and not replace:
        raise BadChoice(f"{path} is there already; name another file, or say --force")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".kvmlab-")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
        part.chmod(0o644)
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


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
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content-security policy says to let exactly ``text`` in."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
