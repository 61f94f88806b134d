"""What is said to the learner: one catalogue of sentences for each language, one loader.

A sentence has a key such as ``walk.tlb.miss`` and may hold ``{placeholders}``.  Code holds keys
only, so a language is a set of files: ``en.json`` is what labs and commands say, ``course.en.json``
what questions ask.  Which one is spoken is a matter of the context: two labs of one notebook may
speak two.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from kvmlab.base.errors import BadChoice

LANGUAGES = MappingProxyType({"en": "English", "zh": "中文"})
"""The languages there are, each by its own name."""

_spoken = ContextVar("kvmlab.language", default="en")


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Inside, `say` speaks ``language``; raises `BadChoice` for one that there is not."""
    if language not in LANGUAGES:
        raise BadChoice(f"no sentences in {language!r}; there are {', '.join(LANGUAGES)}")
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def say(key: str, /, **values: object) -> str:
    """The sentence called ``key`` with ``values`` put in.

    Raises KeyError, naming the key, for a key or a value that is missing.
    """
    language = _spoken.get()
    sentences = catalogue(language)
    if key not in sentences:
        message = f"there is no sentence {key!r} in {language}.json"
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
def catalogue(language: str) -> Mapping[str, str]:
    """All sentences of a language by key, from every file of this folder that is named for it.

    Raises KeyError for a key that stands in two files.
    """
    found: dict[str, str] = {}
    names = sorted(one.name for one in files(__package__).iterdir())
    for name in names:
        if name.split(".")[-2:] != [language, "json"]:
            continue
        text = files(__package__).joinpath(name).read_text(encoding="utf-8")
        sentences: dict[str, str] = json.loads(text)
        if twice := found.keys() & sentences.keys():
            message = f"the sentence {min(twice)!r} of {name} is in another file of {language} too"
            raise KeyError(message)
        found |= sentences
    return MappingProxyType(found)
