"""Holding the engine against the reference: numbering cases, running both sides, comparing.

What is compared is the whole outcome: result, addresses, sizes, error code, CR2 or exit, each
entry read in order, logged addresses, and memory afterwards.
"""

import itertools
import os
import random

from tests import reference
from tests.engine_under_test import Engine
from tests.reference import Memory

SEED = int(os.environ.get("KVMLAB_SEED", random.SystemRandom().randrange(1 << 32)))

COMPARED = ["result", "gpa", "hpa", "page_size", "ept_page", "error_code", "cr2", "when"]
COMPARED += ["exit_reason", "qualification", "gla", "pml"]


def combinations(**values):
    """Every choice of one value for each name."""
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


class Counter:
    """All of several lists together, numbered; the last list turns fastest."""

    def __init__(self, *wheels):
        self.wheels = wheels

    def __len__(self):
        total = 1
        for wheel in self.wheels:
            total *= len(wheel)
        return total

    def __getitem__(self, number):
        chosen = []
        for wheel in reversed(self.wheels):
            number, at = divmod(number, len(wheel))
            chosen.append(wheel[at])
        return chosen[::-1]

    def sample(self, rng, count):
        """Some numbers in rising order, so that the slow wheels are turned seldom."""
        return sorted(rng.randrange(len(self)) for _ in range(count))


def differences(engine, answer, outcome, memory):
    """What the two say differently, as {field: (reference, engine)}."""
    found = {
        name: (getattr(outcome, name), getattr(answer, name))
        for name in COMPARED
        if getattr(outcome, name) != getattr(answer, name)
    }
    trace = [(one.table, one.level, one.hpa, one.value) for one in outcome.trace]
    if outcome.when is None and trace != answer.trace:  # what MOV CR3 reads is not counted
        found["trace"] = (trace, answer.trace)
    for address, word in memory.words.items():
        if engine.ram.load4(address) != word:
            found[f"word at {address:#x}"] = (hex(word), hex(engine.ram.load4(address)))
    return found


def warm_differences(engine, access, outcome):
    """An access that arrived arrives there again, without a reference: the TLB has it."""
    if outcome.result != "ok":
        return {}
    expected = outcome.gpa if outcome.hpa is None else outcome.hpa, 0
    said = engine.again(access)
    return {} if said == expected else {"again": (expected, said)}


class Bench:
    """Both sides, with the same controls, for one access after another."""

    def __init__(self, controls, nested=None):
        self.engine, self.controls, self.nested = Engine(controls, nested), controls, nested

    def differences(self, words, access):
        """Lay out `words`, by address, and make one access on each side."""
        memory, store = Memory(words), self.engine.ram.store4
        for address, word in words.items():
            store(address, word)
        outcome = reference.translate(self.controls, memory, access, self.nested)
        found = differences(self.engine, self.engine.ask(access), outcome, memory)
        return found | warm_differences(self.engine, access, outcome)


def say(capsys, text):
    with capsys.disabled():
        print(f"\nEngine and reference, {text}, seed {SEED}: no difference")
