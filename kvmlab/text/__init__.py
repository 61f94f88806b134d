"""What is said to the learner: one catalogue of sentences, one loader.

A sentence has a key such as ``walk.tlb.miss`` and may hold ``{placeholders}``.  Code holds keys
only, so a second language is a second file.
"""

import json
from functools import cache
from importlib.resources import files

LANGUAGE = "en"


def say(key: str, /, **values: object) -> str:
    """The sentence called ``key`` with ``values`` put in.

    Raises KeyError, naming the key, for a key or a value that is missing.
    """
    sentences = _catalogue(LANGUAGE)
    if key not in sentences:
        message = f"there is no sentence {key!r} in {LANGUAGE}.json"
        raise KeyError(message)
    try:
        return sentences[key].format(**values)
    except KeyError as missing:
        message = f"the sentence {key!r} needs a value for {missing}"
        raise KeyError(message) from None


def count(key: str, number: int, /, **values: object) -> str:
    """The sentence for ``number`` things: ``key.one`` for exactly one, else ``key.many``."""
    return say(f"{key}.one" if number == 1 else f"{key}.many", number=number, **values)


@cache
def _catalogue(language: str) -> dict[str, str]:
    text = files(__package__).joinpath(f"{language}.json").read_text(encoding="utf-8")
    sentences: dict[str, str] = json.loads(text)
    return sentences
