"""A page that stands alone: charts, and for each the table that says the same.

It needs no script and no network, and says so itself: its content-security policy allows nothing
but its own style, by its hash.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from kvmlab.figures.scene import Table
from kvmlab.text import say

_NUMBER = ' class="number"'


@dataclass(frozen=True, slots=True)
class Part:
    """One drawing under its title, and the table that is its twin; "" is a table alone."""

    title: str
    svg: str
    table: Table


def page(title: str, lead: Sequence[str], parts: Sequence[Part]) -> str:
    """The whole page: ``lead`` is what it says in sentences, then each part."""
    style = looks("page.css") + looks("plots.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in lead)
    return (
        f'<!doctype html>\n<html lang="{say("page.lang")}">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n"
        f"<h1>{escape(title)}</h1>\n{said}\n" + "".join(map(part_html, parts)) + "</html>\n"
    )


def looks(name: str) -> str:
    """A style sheet of this folder; ``plots.css`` is all that `part_html` needs."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def part_html(part: Part) -> str:
    """A drawing under its title with its table folded away, or a table alone."""
    caption = f"<figcaption>{escape(part.table.caption)}</figcaption>" * bool(part.table.caption)
    table = f'<div class="wide">{_table(part.table)}</div>'
    if part.svg:
        table = f"<details><summary>{say('page.table')}</summary>{table}</details>"
    title = f"<h2>{escape(part.title)}</h2>\n" if part.title else ""
    inside = f"<figure>{part.svg}{caption}{table}</figure>"
    return f'<section class="plot">\n{title}{inside}\n</section>\n'


def _table(table: Table) -> str:
    numbers = [all(map(_is_number, column)) for column in zip(*table.rows, strict=True)]
    head = "".join(
        f'<th scope="col"{_NUMBER * right}>{escape(name)}</th>'
        for name, right in zip(table.columns, numbers, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: str) -> str:
    return f"<td{_NUMBER * _is_number(value)}>{escape(value)}</td>"


def _is_number(value: str) -> bool:
    return value.replace(",", "").replace(".", "", 1).isdigit()
