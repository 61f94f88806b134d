"""The cheat sheet: its numbers are the engine's, in both languages, on one page."""

import re

import pytest

from kvmlab.figures.sheet import WALKS, blocks, sheet, walk_references
from kvmlab.text import speaking

PUBLISHED = (4, 24, 15, 35, 4)
"""References of each of `WALKS`, as the literature on nested paging has them."""


def rows(title):
    return next(one.rows for one in blocks() if one.title.startswith(title))


def test_the_references_are_the_published_ones():
    assert tuple(walk_references(*one) for one in WALKS) == PUBLISHED
    assert tuple(int(row[-1]) for row in rows("References")) == PUBLISHED


@pytest.mark.parametrize(
    "title, expected",
    [
        ("#PF", {"0": "P:", "1": "W/R:", "2": "U/S:", "3": "RSVD:", "4": "I/D:", "5": "PK:"}),
        ("Guest PTE", {"0": "P", "1": "R/W", "2": "U/S", "5": "A", "6": "D", "8": "G", "63": "XD"}),
        ("EPT PTE", {"0": "R", "1": "W", "2": "X", "5:3": "MT", "6": "IPAT", "8": "A", "9": "D"}),
        ("Addresses", {"32-bit": "10-10-12", "PAE": "2-9-9-12", "4-level": "9-9-9-9-12"}),
        ("Exit qualification", {"7": "the guest-virtual", "8": "it was the page itself"}),
        ("KSM", {"defaults": "100 pages each 20 ms, at most 256"}),
        ("The balloon", {"a buffer": "256 page frame numbers, 1024 KiB"}),
        ("nova", {"defaults": "ratio 1.0 (1.5 until Zed), reserved 512 MiB"}),
        ("virsh", {"used": "available \u2212 unused"}),
    ],
)
def test_what_the_manuals_say_is_on_it(title, expected):
    """From the SDM, the kernel's and OpenStack's documents, not from the engine."""
    found = {row[0]: row[1] for row in rows(title)}
    for name, words in expected.items():
        assert found[name].startswith(words), (name, found[name])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_stands_alone_and_every_row_has_its_cells(language):
    with speaking(language):
        text = sheet()
        every = list(blocks())
    assert all(len(row) > 1 and all(row) for one in every for row in one.rows)
    assert "<script" not in text
    assert not re.search(r"https?:|url[(]|@import", text)
    assert text.count("<section>") == len(every) == 12
    assert f'lang="{language}' in text
