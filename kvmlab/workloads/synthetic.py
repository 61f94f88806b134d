"""Synthetic programs by name: ``zipf``, or ``zipf:seed=3,pages=4096`` with parameters.

A pattern of access is a `Trace`, as one that was recorded; what also calls its kernel is a
`Scenario`.  Whoever compares designs takes either.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kvmlab.base.errors import BadChoice
from kvmlab.workloads import patterns, storms
from kvmlab.workloads.storms import Scenario
from kvmlab.workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class Parameter:
    """A whole number that may be set: its default and its range."""

    default: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes a synthetic program, and what may be said about it."""

    make: Callable[..., Trace | Scenario]
    about: str
    parameters: Mapping[str, Parameter]


_SEED = Parameter(1, 0, (1 << 32) - 1)
_PAGES = Parameter(2048, 1, 1 << 18)
_COUNT = Parameter(100_000, 1, 10_000_000)
_WRITES = Parameter(25, 0, 100)


def _recipe(make: Callable[..., Trace | Scenario], about: str, **parameters: Parameter) -> Recipe:
    return Recipe(make, about, MappingProxyType(parameters))


RECIPES = MappingProxyType(
    {
        "sequential": _recipe(
            patterns.sequential, "every word in order",
            pages=_PAGES, count=_COUNT, writes=_WRITES, seed=_SEED,
        ),
        "strided": _recipe(
            patterns.strided, "a word every stride bytes",
            pages=_PAGES, count=_COUNT, stride=Parameter(4160, 1, 1 << 30),
            writes=_WRITES, seed=_SEED,
        ),
        "random": _recipe(
            patterns.uniform, "words at random",
            pages=_PAGES, count=_COUNT, writes=_WRITES, seed=_SEED,
        ),
        "zipf": _recipe(
            patterns.zipf, "some pages far more popular than others; skew in hundredths",
            pages=Parameter(2048, 1, 1 << 16), count=_COUNT, skew=Parameter(100, 0, 400),
            writes=_WRITES, seed=_SEED,
        ),
        "chase": _recipe(
            patterns.chase, "a list through all pages, followed round and round",
            pages=_PAGES, count=_COUNT, seed=_SEED,
        ),
        "matmul": _recipe(
            patterns.matmul, "a product of two matrices of size x size doubles",
            size=Parameter(96, 1, 2048), count=_COUNT,
        ),
        "gups": _recipe(
            patterns.gups, "words at random, each updated",
            pages=_PAGES, count=_COUNT, seed=_SEED,
        ),
        "fork": _recipe(
            storms.fork_storm, "a shell that forks children which touch pages and end",
            pages=Parameter(64, 1, 1 << 14), forks=Parameter(100, 1, 100_000),
            touched=Parameter(8, 0, 1 << 14), seed=_SEED,
        ),
        "mmap": _recipe(
            storms.mmap_storm, "mappings made, written to and unmapped",
            pages=Parameter(64, 1, 1 << 14), rounds=Parameter(100, 1, 100_000), seed=_SEED,
        ),
        "server": _recipe(
            storms.server, "worker processes that serve requests",
            workers=Parameter(4, 1, 64), requests=Parameter(500, 1, 1_000_000),
            pages=Parameter(256, 1, 1 << 14), seed=_SEED,
        ),
    }
)  # fmt: skip
"""Every synthetic program by its name."""


def is_synthetic(text: str) -> bool:
    """Whether ``text`` begins with the name of one; a file of such a name is written ./zipf."""
    return text.partition(":")[0] in RECIPES


def make(text: str) -> Trace | Scenario:
    """The program that ``text`` asks for: NAME or NAME:KEY=VALUE,KEY=VALUE.

    It is called what is asked for.  Raises `BadChoice` for a name, a key or a value that is not
    on offer.
    """
    name, colon, rest = text.partition(":")
    if name not in RECIPES:
        raise BadChoice(f"no program {name[:40]!r} is made up; choose one of: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    values = {key: one.default for key, one in recipe.parameters.items()}
    given = set()
    for setting in rest.split(",") if colon else ():
        key, sign, number = setting.partition("=")
        if key not in values or not sign:
            keys = ", ".join(values)
            raise BadChoice(f"{name}: {setting[:40]!r} is not KEY=VALUE; its keys are {keys}")
        if key in given:
            raise BadChoice(f"{name}: {key} is given twice")
        given.add(key)
        values[key] = _value(name, key, number, recipe.parameters[key])
    return recipe.make(text, **values)


def _value(name: str, key: str, number: str, allowed: Parameter) -> int:
    fits = number.isascii() and number.isdigit() and len(number) <= 12
    if not fits or not allowed.least <= int(number) <= allowed.most:
        span = f"{allowed.least:,} to {allowed.most:,}"
        raise BadChoice(f"{name}: {key}={number[:40]} is not possible; write {span}")
    return int(number)
