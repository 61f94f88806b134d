"""The catalogue of sentences."""

import ast
import json
import string
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvmlab.text
from kvmlab.base.errors import BadChoice
from kvmlab.figures.entry import meaning_of
from kvmlab.hardware.describe import describe
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import FORMATS, PS
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.records import ExitReason
from kvmlab.study.costs import MODELS
from kvmlab.text import LANGUAGES, catalogue, count, say, speaking
from kvmlab.text.fold import fold

PACKAGE = Path(kvmlab.text.__file__).parents[1]
FILES = sorted((PACKAGE / "text").glob("*.json"))
CATALOGUES = {language: dict(catalogue(language)) for language in LANGUAGES}
SENTENCES = CATALOGUES["en"]


def blanks(sentence):
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_values_are_put_in():
    assert say("player.count", number=3, total=7) == "Step 3 of 7"


@pytest.mark.parametrize(
    "number, words", [(0, "0 references"), (1, "1 reference"), (2, "2 references")]
)
def test_one_is_not_many(number, words):
    assert count("walk.references", number) == words


def test_a_missing_sentence_is_an_error():
    with pytest.raises(KeyError, match=r"no sentence 'no\.such'"):
        say("no.such")


def test_a_missing_value_is_an_error():
    with pytest.raises(KeyError, match=r"'player\.count' needs a value for 'total'"):
        say("player.count", number=3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_file_of_a_language_says_a_key_twice(language):
    """JSON takes the last of them without a word; two files of a language share no key either."""
    files = [path for path in FILES if path.name.removesuffix(".json").endswith(language)]
    pairs = [json.loads(path.read_text("utf-8"), object_pairs_hook=list) for path in files]
    keys = [key for of_file in pairs for key, _ in of_file]
    assert sorted(keys) == sorted(set(keys)) != []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_can_be_filled(language):
    with speaking(language):
        for key, sentence in CATALOGUES[language].items():
            assert say(key, **dict.fromkeys(blanks(sentence), 1)), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_all_of_it_with_the_same_blanks(language):
    spoken = {key: blanks(sentence) for key, sentence in CATALOGUES[language].items()}
    assert spoken == {key: blanks(sentence) for key, sentence in SENTENCES.items()}


def test_a_language_is_all_its_files_and_each_file_is_there_in_every_language():
    read = {}
    for path in FILES:
        language = path.stem.rpartition(".")[2]
        read[language] = read.get(language, {}) | json.loads(path.read_text(encoding="utf-8"))
    assert read == CATALOGUES
    parts = {path.stem.removesuffix(path.stem.rpartition(".")[2]) for path in FILES}
    assert {path.stem for path in FILES} == {part + one for part in parts for one in LANGUAGES}


def test_a_sentence_that_stands_in_two_files_is_an_error(tmp_path, monkeypatch):
    for name, sentences in (("en", '{"a": "1"}'), ("more.en", '{"b": "2", "a": "3"}')):
        (tmp_path / f"{name}.json").write_text(sentences, encoding="utf-8")
    monkeypatch.setattr(kvmlab.text, "files", lambda _package: tmp_path)
    with pytest.raises(KeyError, match=r"'a' of more\.en\.json is in another file of en too"):
        catalogue.__wrapped__("en")


def test_no_sentence_was_left_in_english():
    """A sentence in Chinese has Chinese signs, unless it is made of the field's own terms."""
    left = {
        key
        for key, sentence in CATALOGUES["zh"].items()
        if sentence == SENTENCES[key] and len(sentence.split()) > 3
    }
    assert left == set()


def test_a_language_is_spoken_inside_and_english_again_after():
    with speaking("zh"):
        assert say("modes.control.stop") == "停止"
        with speaking("en"):
            assert say("modes.control.stop") == "Stop"
        assert say("modes.control.stop") == "停止"
    assert say("modes.control.stop") == "Stop"


def test_a_language_that_there_is_not_is_refused():
    with pytest.raises(BadChoice, match="'xx'; there are en, zh"), speaking("xx"):
        pass


def test_every_plain_key_in_the_code_is_in_the_catalogue():
    """Keys put together from parts are beyond this test; the figures' own tests say those."""
    asked = {
        (call.func.id, call.args[0].value)
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ("say", "count")
        and call.args
        and isinstance(getattr(call.args[0], "value", None), str)
    }
    keys = {key for name, key in asked if name == "say"}
    keys |= {f"{key}.{form}" for name, key in asked if name == "count" for form in ("one", "many")}

    assert keys - SENTENCES.keys() == set()


@pytest.mark.parametrize("reason", ExitReason)
def test_every_exit_reason_has_its_words_in_charts_and_walks(reason):
    assert say(f"modes.exit.{reason.name}")
    assert say(f"outcome.{reason.name.lower()}")
    assert count(f"touch.exits.{reason.name.lower()}", 2)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_cost_model_is_summed_up_in_its_own_words_in_english_and_in_chinese_too(model):
    assert say(f"costs.summary.{model.name}") == model.summary
    with speaking("zh"):
        assert say(f"costs.summary.{model.name}") != model.summary


def test_every_meaning_of_a_field_is_said_as_the_hardware_says_it():
    """Whatever bits an entry has, at every level of every format, on either vendor's processor."""
    told = set()
    for fmt, vendor, entry in product(FORMATS.values(), ("intel", "amd"), (0, PS, (1 << 64) - 1)):
        for level in range(1, fmt.levels + 1):
            word, cpu = entry & (1 << 8 * fmt.entry_bytes) - 1, Processor(vendor=vendor)
            for switches in (Switches(), Switches(False, False, True, True, False)):
                told |= {one.meaning for one in describe(word, fmt, level, cpu, switches)}
    assert len(told) == 30
    assert {meaning_of(one) for one in told} == told


# -- long lines -----------------------------------------------------------------------------


@given(st.text("ab 中\n", max_size=200), st.integers(5, 40))
def test_folding_changes_nothing_but_where_lines_end(text, width):
    folded = fold(text, width)
    assert folded.split() == text.split()
    for line in folded.split("\n"):
        assert len(line) <= width or len(line.split()) == 1


def test_a_folded_line_keeps_its_indent_and_short_ones_are_as_they_were():
    given_ = "  one two three\n\nfour\n  five  six"
    assert fold(given_, 12) == "  one two\n  three\n\nfour\n  five  six"
    assert fold("0x1234-5678 0x9abc-def0", 12) == "0x1234-5678\n0x9abc-def0"  # not at a hyphen
