"""What must hold of every question, and a digest of all that a kind says.

As a program, ``python -m tests.course.proof KIND SEEDS``, it prints the digest: another process,
with another hash seed or of another Python, must print the same.
"""

import hashlib
import sys

from kvmlab import course
from kvmlab.course.problem import Bits, Choice, Number
from kvmlab.course.questions import DIFFICULTIES
from kvmlab.text import LANGUAGES, speaking


def asked(kind, seeds):
    """The questions of a kind: so many seeds of each difficulty."""
    for seed in range(seeds):
        for difficulty in DIFFICULTIES:
            yield course.question(kind, seed, difficulty)


def prove(question):
    """In the language spoken: right is right, each misconception is known, and nothing coincides.

    Returns all that a learner may read of the question.
    """
    judged(question, question.answer, "right", None)
    for name, answer in question.wrong.items():
        judged(question, answer, "wrong", name)
    form = question.form
    shown = [form.show(one) for one in (question.answer, *question.wrong.values())]
    assert len(set(shown)) == len(shown), question
    if isinstance(form, Choice):
        options(question, form)
    elif isinstance(form, Bits):
        assert len(set(form.names)) == len(form.names), question
        for bit in form.names:  # one bit more or less is another answer
            assert not course.check(question, question.answer ^ {bit}).ok, question
    elif isinstance(form, Number):
        for near in (question.answer - 1, question.answer + 1):
            assert not course.check(question, near).ok, question
    return render(question)


def judged(question, answer, outcome, mistake):
    """An answer, as a value and as it would be written, has this verdict."""
    for given in (answer, question.form.show(answer)):
        verdict = course.check(question, given)
        assert (verdict.outcome, verdict.mistake) == (outcome, mistake), (question, given)
        assert verdict.feedback


def options(question, form):
    """Exactly one option is right, no two read alike, and each is found by its letter and words."""
    names = [name for name, _ in form.options]
    words = [str(one) for _, one in form.options]
    letters = [form.letter(name) for name in names]
    assert 1 < len(names) <= 26, question
    right = []
    for name, said, letter in zip(names, words, letters, strict=True):
        verdicts = {course.check(question, way) for way in (name, said, letter, form.show(name))}
        assert len(verdicts) == 1, (question, verdicts)
        right += [name] if verdicts.pop().ok else []
    assert right == [question.answer], question


def render(question):
    """All that a learner may read of a question, in the language spoken."""
    said = [question.id, question.text, question.expects, *question.hints, question.explanation]
    said += [course.check(question, one).feedback for one in question.wrong.values()]
    assert all(said), question
    return "\n".join(said)


def essence(question):
    """What decides the answer, as text, and the answer: two that ask the same have the same."""
    form = question.form
    if not isinstance(form, Choice):
        return (question.prompt, *map(str, question.given), question.expects), question.answer
    words = {name: str(one) for name, one in form.options}
    key = (question.prompt, *map(str, question.given), *sorted(words.values()))
    return key, words[question.answer]


def proved(kind, seeds):
    """Prove all of a kind; returns the misconceptions met and the digest of all that was said."""
    met, answers, digest = set(), {}, hashlib.sha256()
    for question in asked(kind, seeds):
        said = []
        for language in LANGUAGES:
            with speaking(language):
                said.append(prove(question))
        assert len(set(said)) == len(said), question
        digest.update("\n".join(said).encode())
        key, answer = essence(question)
        assert answers.setdefault(hash(key), answer) == answer, (question, key)
        met |= set(question.wrong)
    return met, digest.hexdigest()


def digest_of(kind, seeds):
    """The digest alone."""
    digest = hashlib.sha256()
    for question in asked(kind, seeds):
        said = []
        for language in LANGUAGES:
            with speaking(language):
                said.append(render(question))
        digest.update("\n".join(said).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    kinds = course.kinds() if sys.argv[1] == "all" else sys.argv[1].split(",")
    for name in kinds:
        print(name, digest_of(name, int(sys.argv[2])))
