"""Answers as people write them: bases, units, letters, sets; and one line for what is no answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab import course
from kvmlab.course.answers import BadAnswer, read, slip
from kvmlab.course.problem import Bits, Choice, Number, Sequence
from kvmlab.course.questions import Question
from kvmlab.text import speaking

COUNT, ADDRESS, SIZE = Number("references"), Number(base=16), Number("KiB")
PICK = Choice((("none", "nothing at all"), ("ept", "EPT"), ("b", "a hole")))
FLAGS = Bits(("P", "R/W", "A"))


def wide(text):
    """Full-width characters, as an input method for Chinese gives them."""
    return "".join(chr(ord(one) + 0xFEE0) for one in text)


@pytest.mark.parametrize(
    "answer, form, value",
    [
        (24, COUNT, 24),
        ("24", COUNT, 24),
        (" 24 references ", COUNT, 24),
        ("1 reference", COUNT, 1),
        ("24 次引用", COUNT, 24),
        ("0x18", COUNT, 24),
        ("0b11000", COUNT, 24),
        ("18h", COUNT, 24),
        (wide("24"), COUNT, 24),
        ("196,608", COUNT, 196608),
        ("196_608", COUNT, 196608),
        ("-3", COUNT, -3),
        ("0x7f30_0000", ADDRESS, 0x7F300000),
        ("7F300000", ADDRESS, 0x7F300000),
        ("0X7f300000", ADDRESS, 0x7F300000),
        ("10", ADDRESS, 16),
        ("4096", SIZE, 4096),
        ("4096 KiB", SIZE, 4096),
        ("4M", SIZE, 4096),
        ("4 MiB", SIZE, 4096),
        ("4096K", SIZE, 4096),
        ("1G", SIZE, 1 << 20),
        ("4096 bytes", SIZE, 4),
        ("+24", COUNT, 24),
        ("24。", COUNT, 24),
        ("\u221224", COUNT, -24),  # a minus sign
        ("\u200b24\u00a0", COUNT, 24),  # a zero-width and a no-break space
        ("196 608", COUNT, 196608),
        ("196" + wide(",") + "608", COUNT, 196608),
        (np.int64(24), COUNT, 24),
        (np.uint64(24), ADDRESS, 24),
        ("0x7f30 0000", ADDRESS, 0x7F300000),
        (wide("0x7f"), ADDRESS, 0x7F),
        ("0b101", ADDRESS, 5),
        ("0b1f", ADDRESS, 0xB1F),
        ("4096 字节", SIZE, 4),
        (wide("4MiB"), SIZE, 4096),
        ("2.", PICK, None),
        (wide("B"), PICK, "ept"),
        ("(B)", PICK, "ept"),
        ("b、", PICK, "ept"),
        ("B. EPT", PICK, "ept"),
        ("B", PICK, "ept"),
        ("b)", PICK, "ept"),
        ("ept", PICK, "ept"),
        ("B) EPT", PICK, "ept"),
        ("nothing at all", PICK, "none"),
        ("c", PICK, "b"),
        ("P, A", FLAGS, {"P", "A"}),
        ("p r/w", FLAGS, {"P", "R/W"}),
        ("P、A", FLAGS, {"P", "A"}),
        ("{'P'}", FLAGS, None),
        (["P", "A"], FLAGS, {"P", "A"}),
        ({"R/W"}, FLAGS, {"R/W"}),
        ("none", FLAGS, set()),
        ("无", FLAGS, set()),
        ("", FLAGS, set()),
        ("1, 2, 3", Sequence(3), (1, 2, 3)),
        ("1 2 3", Sequence(3), (1, 2, 3)),
        ("(1,200,300)", Sequence(3), (1, 200, 300)),
        ("1/0x10/3", Sequence(3), (1, 16, 3)),
        ("1" + wide(",") + "2、3", Sequence(3), (1, 2, 3)),
        ((np.int32(4), "20"), Sequence(2), (4, 20)),
        ([4, 20], Sequence(2), (4, 20)),
    ],
)
def test_an_answer_is_read_as_people_write_it(answer, form, value):
    if value is None:
        with pytest.raises(BadAnswer):
            read(answer, form)
    else:
        assert read(answer, form) == (frozenset(value) if isinstance(value, set) else value)


@pytest.mark.parametrize(
    "answer, form, words",
    [
        ("many", COUNT, "'?many'? is no whole number"),
        ("二十四", COUNT, "二十四 is written in words; write it with the digits 0 to 9"),
        ("二十四", ADDRESS, "is written in words"),
        ("12 34", COUNT, "is no whole number"),
        ("9" * 5000, COUNT, "is no whole number"),
        (True, COUNT, "true is no whole number"),
        (np.array([2, 4]), COUNT, "is no whole number"),
        ("", COUNT, "is no whole number"),
        ("1.5", COUNT, "1.5 is no whole number"),
        ("7f", COUNT, "7f is no decimal number; for hex write 0x7f"),
        (
            "24 KiB",
            COUNT,
            "24 kib has a unit that does not fit here; what is asked for: references",
        ),
        ("24 pages", SIZE, "what is asked for: KiB"),
        ("5000 bytes", SIZE, "5000 bytes is no whole number of KiB"),
        ("0x10 K", ADDRESS, "a number without a unit"),
        ("xyz", ADDRESS, "xyz is no hex number"),
        (None, ADDRESS, "is no hex number"),
        ("E", PICK, "e is none of the options; write one of A, B, C"),
        ("P, Q", FLAGS, "q is none of these names: P, R/W, A"),
        ("1, 2", Sequence(3), "3 numbers are wanted, 2 found"),
        ("9" * 5000, PICK, "is none of the options"),
    ],
)
def test_what_is_no_answer_gets_one_line(answer, form, words):
    with pytest.raises(BadAnswer, match=words) as caught:
        read(answer, form)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_wrong_base_is_noticed():
    assert "write 0x18" in slip("18", COUNT, 24)
    assert "read as hex here" in slip("24", ADDRESS, 24)
    assert slip("25", ADDRESS, 24) is None
    assert slip("A", PICK, "ept") is None


def test_the_wrong_base_is_noticed_in_a_sequence_too():
    assert "write 0x18, 0x10" in slip("18 10", Sequence(2), (24, 16))
    assert slip("18 11", Sequence(2), (24, 16)) is None
    assert slip([24, 16], Sequence(2, 16), (24, 16)).startswith("24 16 is read as hex here")


@pytest.mark.parametrize(
    "answer, words",
    [
        ("4194304", "4194304 would be right in bytes; what is asked for: KiB"),
        ("4", "4 would be right in MiB"),
    ],
)
def test_a_size_that_lacks_its_unit_is_noticed(answer, words):
    assert words in slip(answer, SIZE, 4096)
    assert slip("5", SIZE, 4096) is None
    assert slip("4", COUNT, 4096) is None


@given(st.text(max_size=30), st.sampled_from([COUNT, ADDRESS, SIZE, PICK, FLAGS, Sequence(2)]))
def test_whatever_is_written_is_read_or_gets_one_line(text, form):
    question = Question("x.y", 7, 1, form, 0, {}, {}, (), ())
    verdict = course.check(question, text)
    if verdict.outcome == "unclear":
        assert verdict.feedback.strip()
        assert "\n" not in verdict.feedback
    else:
        value = read(text, form)
        assert read(form.show(value), form) == value


@given(st.integers(0, 1 << 64))
def test_a_number_is_read_however_it_is_grouped(value):
    for text in (
        f"{value}",
        f"{value:,}",
        f"{value:_}",
        f"{value:#x}",
        f"{value:,}".replace(",", " "),
    ):
        assert read(text, COUNT) == value
    for text in (f"{value:#x}", f"{value:X}", f"{value:#_x}"):
        assert read(text, ADDRESS) == value


@pytest.fixture
def question():
    return course.question("ept.references", 0, 1)


def test_a_verdict_says_what_was_understood(question):
    wrong = next(iter(question.wrong.items()))
    verdict = course.check(question, wrong[1])
    assert not verdict
    assert verdict.mistake == wrong[0]
    assert verdict.feedback.startswith(f"Not {wrong[1]} references: ")
    assert course.check(question, 777) == course.Verdict("wrong", "Not 777 references.")


def test_what_cannot_be_read_is_unclear_and_nothing_is_raised(question):
    verdict = course.check(question, "some 24")
    assert (verdict.outcome, verdict.ok) == ("unclear", False)
    assert course.check(question, object()).outcome == "unclear"
    assert course.check(question, f"{question.answer:x}" + " KiB").outcome == "unclear"


def test_a_right_number_in_the_other_base_is_unclear_and_not_wrong():
    """But a misconception that gives these very digits comes first: 172 is 0x172 without a base."""
    offset = course.question("address.offset", 7)
    digits = str(offset.answer)
    verdict = course.check(offset, digits)
    assert verdict.outcome == "unclear"
    assert "read as hex here" in verdict.feedback
    index = course.question("address.index", 168)
    assert (index.answer, course.check(index, "172").mistake) == (0x172, "levels-reversed")


def test_a_right_size_without_its_unit_is_unclear_and_not_wrong():
    question = course.question("slot.which", 7)
    target = course.question("balloon.memtotal", 7)
    in_bytes = target.answer << 10
    assert course.check(target, f"{in_bytes}").outcome == "unclear"
    assert course.check(target, f"{in_bytes} bytes").ok
    assert course.check(question, "二").outcome == "unclear"


def test_feedback_is_in_the_language_spoken(question):
    with speaking("zh"):
        assert course.check(question, question.answer).feedback.startswith("正确")
        assert "不是" in course.check(question, "x").feedback


def test_a_sentence_of_a_question_is_said_when_it_is_read(question):
    with speaking("zh"):
        chinese = question.text
    assert chinese != question.text
    assert repr(question) == "question('ept.references', seed=0, difficulty=1)"
    assert question.id == "ept.references-1-0@v1"
