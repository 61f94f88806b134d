"""What a question is made of: its words, the form of its answer, and wrong answers with names.

Words are keys with values and are said when they are read, so one question speaks all languages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvmlab.course.draw import Draw
from kvmlab.text import say


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence of the catalogue that is yet to be said; values may be such sentences."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """The sentence in the language spoken now."""
        return say(self.key, **{name: str(value) for name, value in self.values.items()})


Words = str | Said

Answer = int | str | frozenset[str] | tuple[int, ...]
"""A number; the name of an option; a set of bits; a sequence of numbers."""

Item = tuple[str, Words]
"""An option: its name in the code, and what is shown."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number, asked for in base 10 or 16; ``unit`` names a sentence ``course.unit.*``."""

    unit: str = ""
    base: int = 10

    def show(self, answer: Answer) -> str:
        """``answer`` as it would be written."""
        assert isinstance(answer, int)  # noqa: S101  what this form holds
        digits = f"{answer:#x}" if self.base == 16 else f"{answer}"
        return f"{digits} {say(f'course.unit.{self.unit}')}" if self.unit else digits


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several options, lettered from A."""

    options: tuple[Item, ...]

    def letter(self, name: str) -> str:
        """The letter of an option."""
        return chr(ord("A") + [one for one, _ in self.options].index(name))

    def show(self, answer: Answer) -> str:
        """The letter and the words of an option."""
        assert isinstance(answer, str)  # noqa: S101  what this form holds
        return f"{self.letter(answer)}) {dict(self.options)[answer]}"


@dataclass(frozen=True, slots=True)
class Bits:
    """Those of ``names`` that are set; perhaps none."""

    names: tuple[str, ...]

    def show(self, answer: Answer) -> str:
        """The names in their order."""
        assert isinstance(answer, frozenset)  # noqa: S101  what this form holds
        return ", ".join(one for one in self.names if one in answer) or say("course.none")


@dataclass(frozen=True, slots=True)
class Sequence:
    """Several whole numbers in order."""

    count: int
    base: int = 10

    def show(self, answer: Answer) -> str:
        """The numbers, with commas."""
        assert isinstance(answer, tuple)  # noqa: S101  what this form holds
        return ", ".join(f"{one:#x}" if self.base == 16 else f"{one}" for one in answer)


Form = Number | Choice | Bits | Sequence


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its solution: what the engine did, and what each misconception says."""

    form: Form
    answer: Answer
    values: Mapping[str, object] = field(default_factory=dict)  # of the question's sentence
    wrong: Mapping[str, Answer] = field(default_factory=dict)  # by the misconception's name
    given: tuple[Words, ...] = ()  # lines shown below the question: memory, records, a listing
    steps: tuple[Words, ...] = ()  # what the engine did, in sentences


Maker = Callable[[Draw, int], Problem]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question: ``topic.name``, and what makes one from a draw and a difficulty."""

    name: str
    make: Maker

    @property
    def topic(self) -> str:
        """What it is about."""
        return self.name.partition(".")[0]


def kind(name: str) -> Callable[[Maker], Kind]:
    """A decorator: the function below makes questions of the kind ``name``."""
    return lambda make: Kind(name, make)


def picked(draw: Draw, options: Mapping[str, Words]) -> Choice:
    """A choice of ``options`` in a drawn order."""
    return Choice(tuple(draw.shuffled(list(options.items()))))


def distinct(answer: Answer, wrong: Mapping[str, Answer]) -> dict[str, Answer]:
    """The wrong answers that are wrong here, each once: of equal ones the first named."""
    found: dict[str, Answer] = {}
    for name, value in wrong.items():
        if value != answer and value not in found.values():
            found[name] = value
    return found
