"""The glossary: every term that labs and notebooks use, in both languages."""

import re

import pytest

from kvmlab.figures.glossary import glossary_html, matching, names, spellings, terms
from kvmlab.text import LANGUAGES, catalogue, speaking

VOCABULARY = (  # DESIGN's, and what the lessons are about
    *("GVA", "GPA", "HVA", "HPA", "gfn", "pfn", "PTE", "EPT violation", "EPT misconfiguration"),
    *("VM exit", "memslot", "write-protect", "unsync", "zap", "rmap", "A bit", "D bit", "inflate"),
    *("deflate", "working set", "TLB", "nested TLB", "paging-structure cache", "INVLPG", "VMCS"),
    *("shadow paging", "agile paging", "nested guest", "balloon", "actual", "target", "RSS"),
    *("dommemstat", "KSM", "THP", "hugetlbfs", "overcommit", "swap", "OOM killer", "MMU notifier"),
    *("reference", "canonical address", "error code", "exit qualification", "MMIO", "dirty log"),
    *("TLB shootdown", "PCID", "VPID", "KPTI", "copy-on-write", "share string", "seed", "trace"),
)
KNOWN = {  # units, file formats, instructions, parts of other names
    *("CPU", "CPUs", "KiB", "MiB", "GiB", "RAM", "VM", "VMs", "PNG", "SVG", "SATA", "CR", "GPAs"),
    *("HPAs", "EPTs", "NPF", "RSVD", "L0", "L1", "L2", "EPT01", "EPT02", "EPT12", "PVM", "ESX"),
    *("IN", "OUT", "HLT", "WRMSR", "VMLAUNCH", "VMPTRLD", "VMRESUME", "DONTNEED", "#VE"),
    *("PSE", "PKE", "NXE", "WB", "WC", "WT", "UC", "ChampSim", "DynamoRIO"),
}
ACRONYM = re.compile(r"(?<![\w{./-])#?[A-Z][A-Za-z]*[A-Z0-9][A-Za-z0-9]*\b(?![\w}/.])")


@pytest.mark.parametrize("term", VOCABULARY)
def test_every_word_of_the_vocabulary_has_an_entry(term):
    assert term.casefold() in spellings()


def test_every_acronym_that_a_lab_says_has_an_entry():
    left_out = ("course.", "progress.", "glossary.", "sheet.")
    said = {
        word
        for key, sentence in catalogue("en").items()
        if not key.startswith(left_out)
        for word in ACRONYM.findall(sentence)
    }
    told = set(ACRONYM.findall(glossary_html(terms())))
    assert said - told - KNOWN == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_entry_is_a_sentence_or_three(language):
    with speaking(language):
        for one in terms():
            assert one.meaning[-1] in ".\u3002", one
            assert 10 < len(one.meaning) < 240, one
        assert [one.name for one in terms()] != names()  # by spelling
        assert len({one.term for one in terms()}) == len(names()) > 70


def test_what_is_looked_for_comes_first_and_what_there_is_not_is_said():
    assert [one.term for one in matching("ept")][:2] == ["EPT", "EPT misconfiguration"]
    assert "No term has &lt;b&gt; in it." in glossary_html(matching("<b>"), "<b>")
    assert glossary_html(matching("")).count("<dt>") == len(names())
