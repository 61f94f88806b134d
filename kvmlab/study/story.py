"""An experiment is what was done: a beginning and a list of deeds, done again at any time.

A lab keeps only its plan: plain values, and under ``did`` the deeds, each a list of a verb and its
values.  The engine is deterministic, so doing a plan anew gives the very same machine; undo, share
strings and the code that a lab shows all rest on that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kvmlab.base.errors import BadChoice
from kvmlab.study.share import Plan

E = TypeVar("E")
Deed = Sequence[object]  # a verb and its values: ["inflate", "64M"]

MOST_DEEDS = 500


@dataclass(frozen=True, slots=True)
class Verb(Generic[E]):
    """What can be done to an experiment ``E``, and the types of the values that it takes."""

    act: Callable[..., None]
    takes: tuple[type, ...] = ()


class Story(Generic[E]):
    """The experiment of a plan, done as far as it has not been done yet."""

    def __init__(self, begin: Callable[[Plan], E], verbs: Mapping[str, Verb[E]]) -> None:
        """``begin`` makes the experiment from a plan's values, ``verbs`` are its deeds."""
        self._begin, self._verbs = begin, verbs
        self._reached: tuple[dict[str, object], list[Deed], E] | None = None

    def reach(self, plan: Plan) -> E:
        """The experiment after all deeds of ``plan``; what was done already is not done again.

        Raises what ``begin`` or a deed raises, and `BadChoice` for a deed that there is not; then
        the next call begins anew, so nothing half done is ever seen.
        """
        setting = {key: value for key, value in plan.items() if key != "did"}
        deeds = self._checked(plan.get("did", []))
        reached, self._reached = self._reached, None
        if reached and reached[0] == setting and deeds[: len(reached[1])] == reached[1]:
            done, experiment = len(reached[1]), reached[2]
        else:
            done, experiment = 0, self._begin(plan)
        for verb, *values in deeds[done:]:
            self._verbs[str(verb)].act(experiment, *values)
        self._reached = setting, deeds, experiment
        return experiment

    def _checked(self, deeds: object) -> list[Deed]:
        """The deeds as lists; raises `BadChoice` for a verb or a value that does not exist."""
        if not isinstance(deeds, list | tuple) or len(deeds) > MOST_DEEDS:
            raise BadChoice(f"the deeds are a list of at most {MOST_DEEDS}")
        return [self._deed(deed) for deed in deeds]

    def _deed(self, deed: object) -> Deed:
        if not isinstance(deed, list | tuple) or not deed:
            raise BadChoice(f"a deed is a list of a verb and its values, not {deed!r:.60}")
        verb, *values = deed
        known = self._verbs.get(verb) if isinstance(verb, str) else None
        if known is None:
            raise BadChoice(f"nothing is called {verb!r:.40}; there are {', '.join(self._verbs)}")
        if tuple(map(type, values)) != known.takes:
            names = ", ".join(one.__name__ for one in known.takes) or "nothing"
            raise BadChoice(f"{verb} takes {names}, not {values!r:.60}")
        return [verb, *values]
