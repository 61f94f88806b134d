"""Answers as people write them: numbers in three bases and with units, letters, bits, sequences.

What cannot be read raises `BadAnswer` with one line that says how to write it.
"""

import re
import unicodedata
from types import MappingProxyType

from kvmlab.base.errors import KvmlabError
from kvmlab.course.problem import Answer, Bits, Choice, Form, Number, Sequence
from kvmlab.text import LANGUAGES, say, speaking

_SIZES = MappingProxyType({"bytes": 0, "KiB": 10, "MiB": 20, "GiB": 30})
_UNITS = MappingProxyType(
    {"b": 0, "byte": 0, "bytes": 0, "字节": 0}
    | {f"{unit}{tail}": shift for unit, shift in zip("kmgt", (10, 20, 30, 40), strict=True)
       for tail in ("", "b", "ib")}
)  # fmt: skip
_EXPLICIT = r"0x[0-9a-f]+|[0-9][0-9a-f]*h(?![a-z])"
_NUMBERS = MappingProxyType(
    {
        10: re.compile(rf"(-?)({_EXPLICIT}|0b[01]+|[0-9]+)([^0-9]*)"),
        16: re.compile(rf"(-?)({_EXPLICIT}|[0-9a-f]+)([^0-9a-f].*)?"),
    }
)
_NOTHING = frozenset({"none", "no", "nothing", "-", "0", "{}", "empty", "无", "没有", "都没有"})
_MOST_CHARACTERS = 400


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
    """One line if ``answer`` is right in the other base; None if not."""
    if not isinstance(form, Number) or not isinstance(right, int):
        return None
    text = _tidy(answer)
    other = 10 if form.base == 16 else 16
    if not re.fullmatch("[0-9]+", text) or int(text, other) != right:
        return None
    return say(f"course.read.base{form.base}", text=text)


def _tidy(answer: object) -> str:
    """The text in half-width characters and lower case, without what only groups digits."""
    text = unicodedata.normalize("NFKC", str(answer)[:_MOST_CHARACTERS]).strip().lower()
    return re.sub(r"(?<=\w)[_'](?=\w)|(?<=\d),(?=\d{3}\b)", "", text)


def _number(answer: object, unit: str, base: int) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    text = _tidy(answer)
    found = _NUMBERS[base].fullmatch(text)
    if not found:
        raise _no_number(text, base)
    sign, digits, rest = found.groups(default="")
    value = _value(digits, base) * (-1 if sign else 1)
    return _in_unit(value, rest.strip(), unit, text) if rest.strip() else value


def _no_number(text: str, base: int) -> BadAnswer:
    if base == 10 and re.fullmatch("[0-9a-f]+", text):
        return BadAnswer(say("course.read.letters", text=text[:40], digits=text[:40]))
    return BadAnswer(say(f"course.read.number{base}", text=text[:40]))


def _value(digits: str, base: int) -> int:
    if digits.endswith("h"):
        return int(digits[:-1], 16)
    return int(digits, 0 if digits[:2] in ("0x", "0b") and base == 10 else base)


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
    text = _tidy(answer).rstrip(".)").strip()
    for name, words in form.options:
        if text in (form.letter(name).lower(), *map(_tidy, (words, form.show(name), name))):
            return name
    letters = ", ".join(form.letter(name) for name, _ in form.options)
    raise BadAnswer(say("course.read.choice", text=text[:40], letters=letters))


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
    parts = _parts(answer, r"[,;|/+\s]+")
    if len(parts) != form.count:
        raise BadAnswer(say("course.read.count", number=form.count, found=len(parts)))
    return tuple(_number(one, "", form.base) for one in parts)
