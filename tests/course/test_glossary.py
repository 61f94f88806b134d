"""`course.glossary`: a term in plain Python."""

import pytest

from kvmlab import course
from kvmlab.base.errors import BadChoice
from kvmlab.text import speaking


@pytest.mark.parametrize("way", ["EPT", "ept", " EPT ", "扩展页表"])
def test_a_term_is_found_however_it_is_spelled(way):
    assert course.glossary(way).startswith("EPT: Extended page tables")
    with speaking("zh"):
        found = course.glossary(way)
    assert found.startswith("EPT")
    assert "扩展页表" in found


@pytest.mark.parametrize("way", ["memslots", "SMAP", "inflate", "#PF", "MemFree"])
def test_parts_of_a_term_and_plurals_are_found(way):
    assert course.glossary(way)


def test_without_a_term_all_are_told():
    assert len(course.glossary().splitlines()) > 70


def test_what_there_is_not_is_refused_with_what_is_near():
    with pytest.raises(BadChoice, match="the glossary has no 'EPZ'; near it are EPT") as caught:
        course.glossary("EPZ")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadChoice, match=r"has no 'qqqqqqqq'$"):
        course.glossary("qqqqqqqq")
