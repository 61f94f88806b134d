"""What students get: everybody's questions in one file, without kinds, seeds and answers.

A notebook that is the same for all shows each student's own questions from it.  Students stand in
it by a digest of their id, so a list of the class it is not.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from kvmlab.base.errors import BadChoice
from kvmlab.course.answers import BadAnswer, read
from kvmlab.course.asked import submitted_by
from kvmlab.course.problem import Bits, Choice, Form, Number, Sequence
from kvmlab.course.questions import Question
from kvmlab.text import say, speaking

FORMAT = "kvmlab-questions-1"


def ticket(assignment: str, student: str) -> str:
    """Under which name a student stands in the file."""
    return blake2b(json.dumps([assignment, student]).encode(), digest_size=12).hexdigest()


def entry(question: Question) -> dict[str, Any]:
    """What a student is told of a question, in the language that is spoken."""
    return {
        "text": question.text,
        "expects": question.expects,
        "form": _plain(question.form),
    }


class Sheet:
    """The questions of one student, from the file that came with the notebook.

    Raises `BadChoice` if ``student`` is not a name in it, or ``path`` not such a file.
    """

    def __init__(self, path: str, student: object) -> None:
        data = _load(Path(path))
        self._language, name = data["language"], data["assignment"]
        with speaking(self._language):
            self.student = submitted_by(student)
            found = data["students"].get(ticket(name, self.student))
            if found is None:
                raise BadChoice(say("sheet.stranger", student=repr(self.student), name=name))
        self._questions: list[dict[str, Any]] = found

    def question(self, number: int) -> str:
        """The text of a question, and how an answer is to be written."""
        one = self._numbered(number)
        return f"{one['text']}\n({one['expects']})"

    def understood(self, number: int, answer: object) -> str:
        """How an answer was read, right or wrong; raises `BadAnswer` for one that cannot be."""
        one = self._numbered(number)
        with speaking(self._language):
            if answer is None or answer is ...:
                raise BadAnswer(say("sheet.none", expects=one["expects"]))
            form = _form(one["form"])
            return say("sheet.understood", answer=form.show(read(answer, form)))

    def _numbered(self, number: int) -> dict[str, Any]:
        if type(number) is not int or not 1 <= number <= len(self._questions):
            with speaking(self._language):
                raise BadChoice(say("sheet.number", number=number, count=len(self._questions)))
        return self._questions[number - 1]

    def __repr__(self) -> str:
        """Whose it is, and how many questions it has."""
        return f"Sheet({self.student!r}, {len(self._questions)} questions)"


def _load(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] == FORMAT and isinstance(data["students"], dict):
            return dict(data)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BadChoice(say("sheet.broken", path=path.name))


def _plain(form: Form) -> dict[str, Any]:
    """A form as JSON; of options the letters and words only, for their names tell too much."""
    if isinstance(form, Number):
        return {"is": "number", "unit": form.unit, "base": form.base}
    if isinstance(form, Choice):
        return {"is": "choice", "options": [str(words) for _, words in form.options]}
    if isinstance(form, Bits):
        return {"is": "bits", "names": list(form.names)}
    return {"is": "sequence", "count": form.count, "base": form.base}


def _form(data: Mapping[str, Any]) -> Form:
    """The form that `_plain` wrote."""
    if data["is"] == "number":
        return Number(data["unit"], data["base"])
    if data["is"] == "choice":
        return Choice(tuple((words, words) for words in data["options"]))
    if data["is"] == "bits":
        return Bits(tuple(data["names"]))
    return Sequence(data["count"], data["base"])
