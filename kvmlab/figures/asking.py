"""Questions with one right choice: the wrong ones are what a wrong derivation comes to."""

from collections.abc import Iterable

from kvmlab.figures.scene import Ask


def ask(
    question: str, right: str, praise: str, wrong: Iterable[tuple[str, str]], turn: int
) -> Ask | None:
    """A question; each wrong choice comes with what is said to it, the right one with ``praise``.

    Wrong choices that read like the right one, or like one before them, are left out; without any
    there is no question.  Where the right one stands depends on ``turn`` alone.
    """
    others: dict[str, str] = {}
    for choice, feedback in wrong:
        if choice != right:
            others.setdefault(choice, feedback)
    if not others:
        return None
    place = turn % (len(others) + 1)
    told = list(others.items())
    told.insert(place, (right, praise))
    return Ask(question, [choice for choice, _ in told], place, [said for _, said in told])
