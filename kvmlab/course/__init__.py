"""What is asked: seeded questions that the engine solves, and checks of learners' programs.

`question` makes one from its kind and a seed, `check` judges an answer to it and knows the
misconception behind a wrong one, `kinds` and `topics` say what there is.
"""

from kvmlab.course.questions import Question, Verdict, check, kinds, question, quiz, topics

__all__ = ["Question", "Verdict", "check", "kinds", "question", "quiz", "topics"]
