"""The cheat sheet: one printed page of the numbers that everybody looks up.

Each number is the engine's: walks are made and counted, bits are the fields that masks come from,
defaults are the constants that the parties use.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.figures.entry import meaning_of
from kvmlab.hardware.ept import QUAL_FINAL, QUAL_LINEAR_VALID
from kvmlab.hardware.fields import Field, Switches, ept_fields, guest_fields
from kvmlab.hardware.formats import FORMATS
from kvmlab.hardware.permissions import (
    PF_FETCH,
    PF_KEY,
    PF_PRESENT,
    PF_RESERVED,
    PF_USER,
    PF_WRITE,
)
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.records import Step
from kvmlab.host.ksm import Settings
from kvmlab.management.placement import RATIO, RATIO_UNTIL_ZED, RESERVED_HOST_MEMORY, Inventory
from kvmlab.study.access import Request, first_access, usual_address
from kvmlab.text import say
from kvmlab.virtio.balloon import MOST_PFNS

WALKS = (
    ("native", 4, 4, "4K", "4K"),
    ("ept", 4, 4, "4K", "4K"),
    ("ept", 4, 4, "2M", "2M"),
    ("ept", 5, 5, "4K", "4K"),
    ("shadow", 4, 4, "4K", "4K"),
)
"""Design, levels of guest and host, pages of guest and host."""

ERROR_CODE = MappingProxyType(
    {
        "present": PF_PRESENT,
        "write": PF_WRITE,
        "user": PF_USER,
        "reserved": PF_RESERVED,
        "fetch": PF_FETCH,
        "key": PF_KEY,
    }
)
_SPLIT = ("32-bit", "PAE", "4-level", "5-level")
_HOST_MIB = 64 << 10  # of the example


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the sheet: its title, rows of cells, and a sentence below them."""

    title: str
    rows: list[list[str]]
    note: str = ""


@cache
def walk_references(mmu: str, guest: int, host: int, guest_page: str, host_page: str) -> int:
    """The references of one complete miss, counted in a walk."""
    request = Request(usual_address(guest), mmu, guest_page, host_page, guest, host)
    return sum(isinstance(one, Step) for one in first_access(request).records)


def blocks() -> Iterator[Block]:
    """The parts, in the order of the columns, in the language spoken."""
    for make in (_references, _addresses, _guest_bits, _ept_bits, _codes, _qualification):
        yield make()
    for name, values in _formulas().items():
        lines = say(f"sheet.{name}", **values).split("; ")
        yield Block(say(f"sheet.{name}.title"), [line.split(": ", 1) for line in lines])


def _references() -> Block:
    rows = []
    for shape in WALKS:
        mmu, guest, host, guest_page, host_page = shape
        key = "sheet.walk.one" if mmu == "native" else "sheet.walk.two"
        said = say(key, guest=guest, host=host, guest_page=guest_page, host_page=host_page)
        rows.append([say(f"design.{mmu}"), said, str(walk_references(*shape))])
    return Block(say("sheet.references"), rows, say("sheet.references.note"))


def _addresses() -> Block:
    rows = []
    for name in _SPLIT:
        bits = FORMATS[name].index_bits
        rows.append([name, "-".join(map(str, (*bits, 12))), str(sum(bits) + 12)])
    return Block(say("sheet.addresses"), rows, say("sheet.addresses.note"))


def _guest_bits() -> Block:
    cpu, switches = Processor(), Switches(keys=True)
    leaf = list(guest_fields("4-level", 1, leaf=True, cpu=cpu, switches=switches))
    large = guest_fields("4-level", 2, leaf=True, cpu=cpu, switches=switches)
    leaf += [one for one in large if one.name == "PS"]
    return Block(say("sheet.guest_bits"), list(_bits(leaf)))


def _ept_bits() -> Block:
    cpu, switches = Processor(), Switches(mode_based=True)
    leaf = list(ept_fields(1, leaf=True, cpu=cpu, switches=switches))
    leaf += [
        one for one in ept_fields(2, leaf=True, cpu=cpu, switches=switches) if one.name == "PS"
    ]
    return Block(say("sheet.ept_bits"), list(_bits(leaf)))


def _bits(fields: Iterable[Field]) -> Iterator[list[str]]:
    for one in sorted(fields, key=_low):
        if one.name != "ign":
            bits = f"{one.low}" if one.low == one.high else f"{one.high}:{one.low}"
            yield [bits, one.name, meaning_of(one.meaning)]


def _low(field: Field) -> int:
    return field.low


def _place(mask: int) -> str:
    return str(mask.bit_length() - 1)


def _codes() -> Block:
    rows = [[_place(mask), say(f"sheet.code.{name}")] for name, mask in ERROR_CODE.items()]
    return Block(say("sheet.codes"), rows)


def _qualification() -> Block:
    rows = [
        ["2:0", say("sheet.qualification.tried")],
        ["5:3", say("sheet.qualification.allowed")],
        [_place(QUAL_LINEAR_VALID), say("sheet.qualification.linear")],
        [_place(QUAL_FINAL), say("sheet.qualification.final")],
    ]
    return Block(say("sheet.qualification"), rows)


def _formulas() -> dict[str, dict[str, object]]:
    """The parts made of sentences ``name: text; name: text``, and the numbers in them."""
    usual = Settings()
    example = Inventory("host", _HOST_MIB, ratio=RATIO_UNTIL_ZED)
    return {
        "answers": {},
        "stats": {},
        "balloon": {
            "pfns": MOST_PFNS,
            "pfn_kib": PAGE_SIZE >> 10,
            "buffer_kib": MOST_PFNS * PAGE_SIZE >> 10,
        },
        "nova": {
            "ratio": RATIO,
            "old": RATIO_UNTIL_ZED,
            "reserved": RESERVED_HOST_MEMORY,
            "total": _HOST_MIB,
            "capacity": int(example.capacity),
        },
        "ksm": {
            "pages": usual.pages_to_scan,
            "milliseconds": usual.sleep_millisecs,
            "sharing": usual.max_page_sharing,
        },
        "commands": {},
    }


def sheet() -> str:
    """The sheet as a page that stands alone, in the language spoken."""
    style = files(__package__).joinpath("sheet.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    inside = "".join(map(_html, blocks()))
    return (
        f'<!doctype html>\n<html lang="{say("page.lang")}">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(say('sheet.title'))}</title>\n<style>{style}</style>\n"
        f'<main><h1>{escape(say("sheet.title"))}</h1>\n<p class="lead">{escape(say("sheet.lead"))}'
        f'</p>\n<div class="columns">\n{inside}</div></main>\n</html>\n'
    )


def _html(block: Block) -> str:
    rows = "".join(f"<tr>{_cells(row)}</tr>" for row in block.rows)
    note = f"<p>{escape(block.note)}</p>" if block.note else ""
    return f"<section><h2>{escape(block.title)}</h2><table>{rows}</table>{note}</section>\n"


def _cells(row: list[str]) -> str:
    *before, last = row
    number = ' class="number"' if last.isdigit() else ""
    return "".join(f"<td>{escape(one)}</td>" for one in before) + f"<td{number}>{escape(last)}</td>"
