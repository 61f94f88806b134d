"""`labs.glossary`: found, in both languages, escaped."""

import pytest

from kvmlab import labs
from kvmlab.base.errors import BadChoice


def test_all_terms_are_there_and_fewer_when_one_is_looked_for():
    lab = labs.glossary()
    every = lab.desk.value.count("<dt>")
    lab.find.value = "shadow"
    assert 1 < lab.desk.value.count("<dt>") < every
    assert repr(lab) == "Glossary (English)"


def test_it_speaks_chinese_and_keeps_what_is_looked_for():
    lab = labs.glossary("EPT")
    lab.language.value = "zh"
    assert "扩展页表" in lab.desk.value
    assert (lab.find.value, lab.find.description) == ("EPT", "查找")
    assert labs.glossary(language="zh").desk.value.count("<dt>") > 70


def test_what_is_typed_is_shown_as_text():
    lab = labs.glossary("<img src=x onerror=alert(1)>")
    assert "&lt;img" in lab.desk.value
    assert "<img" not in lab.desk.value


def test_a_language_that_there_is_not_is_refused():
    with pytest.raises(BadChoice, match="no sentences in 'xx'"):
        labs.glossary(language="xx")
