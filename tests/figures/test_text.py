"""The catalogue of sentences."""

import ast
import json
import string
from pathlib import Path

import pytest

import kvmlab.text
from kvmlab.text import count, say

PACKAGE = Path(kvmlab.text.__file__).parents[1]
SENTENCES = json.loads((PACKAGE / "text" / "en.json").read_text(encoding="utf-8"))


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


def test_every_sentence_can_be_filled():
    for key, sentence in SENTENCES.items():
        names = {name for _, name, _, _ in string.Formatter().parse(sentence) if name}
        assert say(key, **dict.fromkeys(names, 1)), key


def test_every_plain_key_in_the_code_is_in_the_catalogue():
    """Keys put together from parts are beyond this test; the figures' own tests say those."""
    asked = {
        (call.func.id, call.args[0].value)
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") in ("say", "count")
        and isinstance(getattr(call.args[0], "value", None), str)
    }
    keys = {key for name, key in asked if name == "say"}
    keys |= {f"{key}.{form}" for name, key in asked if name == "count" for form in ("one", "many")}

    assert keys - SENTENCES.keys() == set()
