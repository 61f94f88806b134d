"""What a term means: `glossary` in plain Python."""

from difflib import get_close_matches

from kvmlab.base.errors import BadChoice
from kvmlab.figures.glossary import Term, spellings, terms


def glossary(term: str = "") -> str:
    """What ``term`` means, in the language spoken; without one, all terms, one to a line.

    A term is found however it is spelled in either language.  Raises `BadChoice`, which names
    the nearest ones.
    """
    every = terms()
    if not term:
        return "\n".join(map(str, every))
    known = spellings()
    wanted = str(term).strip().casefold()
    name = known.get(wanted) or known.get(wanted.removesuffix("s"))
    if name is None:
        near = [_called(known[one], every) for one in get_close_matches(wanted, known, 3)]
        hint = f"; near it are {', '.join(dict.fromkeys(near))}" if near else ""
        raise BadChoice(f"the glossary has no {str(term)[:40]!r}{hint}")
    return str(next(one for one in every if one.name == name))


def _called(name: str, every: list[Term]) -> str:
    return next(one.term for one in every if one.name == name)
