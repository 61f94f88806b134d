"""Share strings: what goes in comes out, and nothing else does."""

import json
import zlib
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadChoice
from kvmlab.study.share import LARGEST, LONGEST, read_share_string, share_string

VALUES = st.one_of(st.booleans(), st.integers(), st.text(max_size=20))
PLANS = st.dictionaries(
    st.text(max_size=10),
    st.one_of(VALUES, st.lists(st.lists(VALUES, max_size=4), max_size=6)),
    max_size=8,
)
LINE = share_string("walk", {"design": "ept", "did": [["map", "4K"]]})


def packed(data, lab="walk"):
    body = zlib.compress(data)
    check = zlib.crc32(body).to_bytes(4, "big")
    return f"kvmlab1.{lab}.{urlsafe_b64encode(check + body).decode().rstrip('=')}"


@given(PLANS)
def test_a_plan_comes_back_as_it_was(plan):
    assert read_share_string(share_string("walk", plan), "walk") == plan


@given(st.integers(0, len(LINE) - 1), st.sampled_from("aZ09-_.!"))
def test_one_altered_sign_is_noticed(at, sign):
    altered = LINE[:at] + sign + LINE[at + 1 :]
    if altered != LINE:
        with pytest.raises(BadChoice):
            read_share_string(altered, "walk")


@given(st.integers(0, len(LINE) - 1))
def test_a_cut_line_is_refused(length):
    with pytest.raises(BadChoice):
        read_share_string(LINE[:length], "walk")


@given(st.text(max_size=200))
def test_any_text_is_refused_in_words(text):
    with pytest.raises(BadChoice) as refusal:
        read_share_string(text, "walk")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "line, words",
    [
        ("x" * (LONGEST + 1), "at most"),
        (share_string("tables", {}), "of the lab 'tables'"),
        (packed(b"[1]"), "no plan"),
        (packed(b'{"a": [[[[[1]]]]]}'), "no plan"),
        (packed(b"[" * 100_000), "cut or altered"),
        (packed(b"not json"), "cut or altered"),
        (packed(json.dumps({"a": "x" * LARGEST}).encode()), "no plan"),
    ],
)
def test_what_is_no_plan_of_this_lab_is_refused(line, words):
    with pytest.raises(BadChoice, match=words):
        read_share_string(line, "walk")


def test_too_much_is_not_shared():
    with pytest.raises(BadChoice, match="too much"):
        share_string("walk", {"a": "x" * (LARGEST + 1)})
