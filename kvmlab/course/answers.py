"""Answers as people write them: numbers in three bases and with units, letters, bits, sequences.

What cannot be read raises `BadAnswer` with one line that says how to write it.
"""

import operator
import re
import unicodedata
from types import MappingProxyType
from typing import SupportsIndex

from kvmlab.base.errors import KvmlabError
from kvmlab.course.problem import Answer, Bits, Choice, Form, Number, Sequence
from kvmlab.text import LANGUAGES, say, speaking

_SIZES = MappingProxyType({"bytes": 0, "KiB": 10, "MiB": 20, "GiB": 30})
_UNITS = MappingProxyType(
    {"b": 0, "byte": 0, "bytes": 0, "字节": 0}
    | {f"{unit}{tail}": shift for unit, shift in zip("kmgt", (10, 20, 30, 40), strict=True)
       for tail in ("", "b", "ib")}
)  # fmt: skip
_EXPLICIT = r"0x[0-9a-f]+|0b[01]+|[0-9][0-9a-f]*h(?![a-z])"
_BINARY = re.compile("0b[01]+")
_NUMBERS = MappingProxyType(
    {
        10: re.compile(rf"([-+]?)({_EXPLICIT}|[0-9]+)([^0-9]*)"),
        16: re.compile(rf"([-+]?)({_EXPLICIT}(?![0-9a-f])|[0-9a-f]+)([^0-9a-f].*)?"),
    }
)
_GROUPED = MappingProxyType(  # by spaces, as long numbers are printed
    {10: re.compile("[0-9]{1,3}( [0-9]{3})+"), 16: re.compile("(0x)?[0-9a-f]{1,4}( [0-9a-f]{4})+")}
)
_GROUPING = re.compile(r"(?<=\w)[_'](?=\w)|(?<=\d),(?=\d{3}\b)")
_NUMERALS = frozenset("零〇一二三四五六七八九十百千万亿两")
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2019": "'", "。": "."})
_NOTHING = frozenset({"none", "no", "nothing", "-", "0", "{}", "empty", "无", "没有", "都没有"})
_BETWEEN = r"[,;|/+\s]+"  # the numbers of a sequence
_MOST_CHARACTERS, _MOST_DIGITS = 400, 64


class BadAnswer(KvmlabError, ValueError):
    """An answer that cannot be read; the text says what was expected, in the language spoken."""


def read(answer: object, form: Form) -> Answer:
    """What ``answer`` says, as ``form`` holds it; raises `BadAnswer`."""
    if isinstance(form, Number):
        return _number(answer, form.unit, form.base)
    if isinstance(form, Choice):
        return _option(answer, form)
    if isinstance(form, Bits):
        return _bits(answer, form)
    return _sequence(answer, form)


def slip(answer: object, form: Form, right: Answer) -> str | None:
    """One line if ``answer`` is right in the other base, or in another unit; None if not."""
    if isinstance(form, Sequence) and isinstance(right, tuple):
        try:
            texts = _parts(answer, _BETWEEN)
        except BadAnswer:
            return None
        return _other_base(texts, form.base, right)
    if not isinstance(form, Number) or not isinstance(right, int):
        return None
    return _other_base([_tidy(answer)], form.base, (right,)) or _other_size(answer, form, right)


def _other_base(texts: list[str], base: int, right: tuple[int, ...]) -> str | None:
    """The line on digits of the other base, if all of ``texts`` are that."""
    other, digits = (10, "[0-9]+") if base == 16 else (16, "[0-9a-f]+")
    if not all(re.fullmatch(digits, one) for one in texts):
        return None
    if tuple(int(one, other) for one in texts) != right:
        return None
    text = " ".join(texts)
    return say(f"course.read.base{base}", text=text, digits=", 0x".join(texts))


def _other_size(answer: object, form: Number, right: int) -> str | None:
    """The line on a size without a unit that would be right with one."""
    text = _tidy(answer)
    if form.unit not in _SIZES or not re.fullmatch("[0-9]+", text) or not right:
        return None
    for unit, shift in _SIZES.items():
        if unit != form.unit and int(text) << shift == right << _SIZES[form.unit]:
            return say("course.read.size", text=text, given=_unit(unit), unit=_unit(form.unit))
    return None


def _tidy(answer: object) -> str:
    """The text in half-width characters and lower case, without what only groups digits."""
    text = unicodedata.normalize("NFKC", str(answer)[:_MOST_CHARACTERS]).translate(_SIGNS)
    text = " ".join(text.split())  # a line is one line
    if not text.isprintable():  # zero-width spaces and their kin
        text = "".join(one for one in text if one.isprintable())
    return _GROUPING.sub("", text.lower())


def _whole(answer: object) -> int | None:
    """A whole number of Python or NumPy; None for what is text, or yes and no."""
    if isinstance(answer, bool) or not isinstance(answer, SupportsIndex):
        return None
    try:
        return operator.index(answer)
    except TypeError:  # an array of NumPy says that it can, and cannot
        return None


def _number(answer: object, unit: str, base: int) -> int:
    if (whole := _whole(answer)) is not None:
        return whole
    text = _tidy(answer).rstrip(".")
    if _GROUPED[base].fullmatch(text):
        text = text.replace(" ", "")
    found = _NUMBERS[base].fullmatch(text)
    if not found or len(found[2]) > _MOST_DIGITS:
        raise _no_number(text, base)
    sign, digits, rest = found.groups(default="")
    value = _value(digits, base) * (-1 if sign == "-" else 1)
    return _in_unit(value, rest.strip(), unit, text) if rest.strip() else value


def _no_number(text: str, base: int) -> BadAnswer:
    if text and set(text) <= _NUMERALS:
        return BadAnswer(say("course.read.numerals", text=text[:40]))
    if base == 10 and re.fullmatch("[0-9a-f]+", text) and not text.isdecimal():
        return BadAnswer(say("course.read.letters", text=text[:40], digits=text[:40]))
    return BadAnswer(say(f"course.read.number{base}", text=text[:40]))


def _value(digits: str, base: int) -> int:
    if digits.endswith("h"):
        return int(digits[:-1], 16)
    return int(digits, 0 if digits.startswith("0x") or _BINARY.fullmatch(digits) else base)


def _in_unit(value: int, rest: str, unit: str, text: str) -> int:
    """``value`` with the unit ``rest``, in the unit that is asked for."""
    if unit in _SIZES and rest in _UNITS:
        size, shift = value << _UNITS[rest], _SIZES[unit]
        if size >> shift << shift != size:
            raise BadAnswer(say("course.read.part", text=text[:40], unit=_unit(unit)))
        return size >> shift
    if unit and rest in _names(unit):
        return value
    if re.fullmatch("[0-9a-f]+", text):
        raise _no_number(text, 10)
    wanted = _unit(unit) if unit else say("course.read.nounit")
    raise BadAnswer(say("course.read.unit", text=text[:40], unit=wanted))


def _unit(unit: str) -> str:
    return say(f"course.unit.{unit}")


def _names(unit: str) -> set[str]:
    """What a unit is called in all languages, and its singular in English."""
    found = set()
    for language in LANGUAGES:
        with speaking(language):
            found.add(_unit(unit).lower())
    return found | {name.removesuffix("s") for name in found}


def _option(answer: object, form: Choice) -> str:
    text = _tidy(answer)
    short = text.strip("().、 ")
    letters = {form.letter(name).lower(): name for name, _ in form.options}
    if short in letters:
        return letters[short]
    for letter, (name, words) in zip(letters, form.options, strict=True):
        if short == _tidy(name).strip("().、 ") or _without(letter, text) == _tidy(words):
            return name
    shown = ", ".join(letters).upper()
    raise BadAnswer(say("course.read.choice", text=text[:40], letters=shown))


def _without(letter: str, text: str) -> str:
    """The words behind the letter of an option, if ``text`` begins with it."""
    return text[2:].strip() if text[:1] == letter and text[1:2] in (")", ".", ":", "、") else text


def _parts(answer: object, between: str) -> list[str]:
    if isinstance(answer, (list, tuple, set, frozenset)):
        return [_tidy(one) for one in answer]
    text = re.sub(r",\s*", ", ", str(answer)[:_MOST_CHARACTERS])  # a comma parts, it groups none
    text = _tidy(text).replace("、", ",").strip("{}[]()")
    return [one for one in re.split(between, text) if one]


def _bits(answer: object, form: Bits) -> frozenset[str]:
    parts = _parts(answer, r"[,;|+\s]+")
    if not parts or (len(parts) == 1 and parts[0] in _NOTHING):
        return frozenset()
    known = {_tidy(name): name for name in form.names}
    for part in parts:
        if part not in known:
            names = ", ".join(form.names)
            raise BadAnswer(say("course.read.bits", text=part[:40], names=names))
    return frozenset(known[part] for part in parts)


def _sequence(answer: object, form: Sequence) -> tuple[int, ...]:
    parts = _parts(answer, _BETWEEN)
    if len(parts) != form.count:
        raise BadAnswer(say("course.read.count", number=form.count, found=len(parts)))
    return tuple(_number(one, "", form.base) for one in parts)
