"""Questions as plain data: for other programs, and for JupyterQuiz.

JupyterQuiz shows questions in a notebook or a book with no kernel; it knows choices, numbers and
strings, with feedback for each answer that it is told of (its schema: jmshea/jupyterquiz).
"""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from kvmlab.course.problem import Answer, Bits, Choice, Number, Sequence
from kvmlab.course.questions import Question, check
from kvmlab.text import say

_MOST_EXACT = 1 << 53  # JavaScript's numbers tell larger ones no more apart


def as_json(question: Question, *, solved: bool) -> dict[str, Any]:
    """A question with its words in the language spoken; ``solved`` adds what the engine says."""
    found = {
        "id": question.id,
        "kind": question.kind,
        "topic": question.topic,
        "seed": question.seed,
        "difficulty": question.difficulty,
        "question": question.text,
        "expects": question.expects,
        "hints": list(question.hints),
    }
    if solved:
        found |= {"answer": question.solution, "explanation": question.explanation}
    return found


def jupyterquiz(question: Question) -> dict[str, Any]:
    """A question for JupyterQuiz' ``display_quiz``; what it shows is HTML, so all is escaped."""
    given = [str(line) for line in question.given]
    found: dict[str, Any] = {"question": _html(f"{question.prompt} ({question.expects})")}
    if given:
        found["code"] = "\n".join(given)
    form = question.form
    if isinstance(form, Choice):
        answers = [_picked(question, name, str(words)) for name, words in form.options]
        return found | {"type": "multiple_choice", "answers": answers}
    if isinstance(form, Bits):
        return found | {"type": "many_choice", "answers": list(_marked(question, form.names))}
    if isinstance(form, Number) and form.base == 10 and _exact(question):
        return found | {"type": "numeric", "answers": [*_numbers(question), _default(question)]}
    return found | {"type": "string", "answers": [*_texts(question), _default(question)]}


def _html(text: str) -> str:
    return escape(text, quote=False)


def _feedback(question: Question, answer: Answer) -> str:
    return _html(check(question, answer).feedback)


def _picked(question: Question, name: str, words: str) -> dict[str, Any]:
    right = name == question.answer
    return {"answer": _html(words), "correct": right, "feedback": _feedback(question, name)}


def _marked(question: Question, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every bit is an answer; the rule is what is said of each."""
    assert isinstance(question.answer, frozenset)  # noqa: S101  the form holds bits
    for name in names:
        correct = name in question.answer
        yield {"answer": _html(name), "correct": correct, "feedback": _html(question.hints[0])}
    nothing = not question.answer
    none = say("course.none")
    yield {"answer": none, "correct": nothing, "feedback": _html(question.hints[0])}


def _exact(question: Question) -> bool:
    values = (question.answer, *question.wrong.values())
    return all(isinstance(one, int) and abs(one) < _MOST_EXACT for one in values)


def _all(question: Question) -> Iterator[Answer]:
    yield question.answer
    yield from question.wrong.values()


def _numbers(question: Question) -> Iterator[dict[str, Any]]:
    for one in _all(question):
        correct = one == question.answer
        feedback = _feedback(question, one)
        yield {"type": "value", "value": one, "correct": correct, "feedback": feedback}


def _texts(question: Question) -> Iterator[dict[str, Any]]:
    """The usual ways to write each known answer."""
    for one in _all(question):
        correct, feedback = one == question.answer, _feedback(question, one)
        shown = question.form.show(one)
        ways = [shown, shown.removeprefix("0x")]
        if isinstance(question.form, Sequence):
            ways = [shown, shown.replace(", ", ","), shown.replace(",", "")]
        for way in dict.fromkeys(ways):
            yield {"answer": way, "correct": correct, "feedback": feedback}


def _default(question: Question) -> dict[str, Any]:
    return {"type": "default", "feedback": _html(question.hints[0])}
