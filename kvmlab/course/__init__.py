"""What is asked: seeded questions that the engine solves, and checks of learners' programs.

`question` makes one from its kind and a seed, `check` judges an answer to it and knows the
misconception behind a wrong one, `kinds` and `topics` say what there is.  `tasks` are programs to
write, `describe` says what one asks for, and `check_program` tries a learner's function.
`glossary` says what a term means.  `fold` breaks long lines between words, to print them.
"""

from kvmlab.course.checks import Report, check_program, describe, tasks
from kvmlab.course.glossary import glossary
from kvmlab.course.questions import Question, Verdict, check, kinds, question, quiz, topics
from kvmlab.text.fold import fold

__all__ = [
    "Question",
    "Report",
    "Verdict",
    "check",
    "check_program",
    "describe",
    "fold",
    "glossary",
    "kinds",
    "question",
    "quiz",
    "tasks",
    "topics",
]
