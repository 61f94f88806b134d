"""What a programming task is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmlab.course.draw import Draw
from kvmlab.course.problem import Said, Words


@dataclass(frozen=True, slots=True)
class Case:
    """One call: what the function is given, what the engine says, and the case in words."""

    arguments: tuple[Any, ...]
    expected: Any
    words: Words


@dataclass(frozen=True, slots=True)
class Task:
    """A named task: its function, what makes a case, what judges an answer (None: it is right)."""

    name: str
    function: str  # what learners call it
    make: Callable[[Draw], Case]
    judge: Callable[[Case, Any], Words | None]


def expected(want: str, got: str) -> Said:
    """The sentence that compares both."""
    return Said("course.program.expected", {"want": want, "got": got})
