"""One question of an assignment: everybody's kind, each student's numbers.

A student's seed is a keyed digest of the assignment's name, the id and the question's number.
Without the key, which is the instructor's, nobody can tell the seed, so none can ask the engine for
the question's own answer.
"""

import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from kvmlab.base.errors import BadChoice
from kvmlab.course.questions import Question, Verdict, check, question
from kvmlab.text import say, speaking

_KEY_BYTES = 64  # as many as BLAKE2b takes


def seed_of(secret: str, assignment: str, student: str, number: int) -> int:
    """A seed for `question` and `check_program`: the same for the same four."""
    text = json.dumps([assignment, student, number]).encode()
    key = blake2b(secret.encode(), digest_size=_KEY_BYTES).digest()
    return int.from_bytes(blake2b(text, key=key, digest_size=8).digest(), "big") >> 1


def submitted_by(student: object) -> str:
    """Whose work is being graded; raises `BadChoice` if nobody has been named.

    nbgrader grades in ``autograded/STUDENT/ASSIGNMENT``, and that folder's word counts more than
    what somebody wrote into the notebook.
    """
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        return Path.cwd().parent.name
    if not isinstance(student, str) or not student.strip():
        raise BadChoice(say("sheet.nobody"))
    return student.strip()


@dataclass(frozen=True, slots=True)
class Asked:
    """Question ``number`` of an assignment; ``language`` is that of what is said."""

    assignment: str
    number: int
    kind: str
    difficulty: int
    language: str = "en"

    def question(self, secret: str, student: str) -> Question:
        """The question with a student's own numbers."""
        seed = seed_of(secret, self.assignment, student, self.number)
        return question(self.kind, seed, self.difficulty)

    def judge(self, secret: str, student: object, answer: object) -> Verdict:
        """The verdict on a student's answer; raises `BadChoice` if nobody is named."""
        with speaking(self.language):
            return check(self.question(secret, submitted_by(student)), answer)
