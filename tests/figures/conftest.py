"""A walk made by hand: the records of one cold EPT access, without an engine."""

from collections.abc import Callable

import pytest

from kvmlab.figures.walk import Setting
from kvmlab.hardware.records import AccessedDirty, Kind, Step, TlbFill, TlbLookup, Verdict
from kvmlab.machine import Chain

GVA, GPA, HVA, HPA = 0x7F12_3456_7008, 0x3A8_F008, 0x7F00_0000_0008, 0x9B4_F008
LEAF_VERDICT = {True: Verdict.LEAF, False: Verdict.TABLE}

Stream = list[object]


def entry(table: str, row: int, level: int) -> Step:
    """A made-up entry whose place tells which one it is."""
    where = 0x100_0000 + row * 0x1_0000 + level * 0x1000
    hpa = where if table == "ept" else where + 0x800_0000
    word = 0x200_0000 + where | 0x67
    return Step(table, level, row, where, hpa, word, LEAF_VERDICT[level == 1])


@pytest.fixture
def chain() -> Chain:
    return Chain(GVA, GPA, HVA, HPA)


@pytest.fixture
def nested() -> Callable[..., Stream]:
    """The records of a cold two-dimensional walk of so many guest and EPT levels."""

    def make(guest: int = 4, ept: int = 4) -> Stream:
        records: Stream = [TlbLookup(GVA, Kind.READ, user=True, where="miss")]
        for row in [*range(guest, 0, -1), 0]:
            records += [entry("ept", row, level) for level in range(ept, 0, -1)]
            records += [entry("guest", row, row)] if row else []
        last = records[-ept - 1]
        assert isinstance(last, Step)
        mark = AccessedDirty("guest", 1, last.hpa, last.entry & ~0x20, last.entry)
        return [*records, mark, TlbFill(GVA, HPA, 12, 15)]

    return make


@pytest.fixture
def flat() -> Callable[[str], Stream]:
    """The records of a cold walk through one table of four levels."""

    def make(table: str) -> Stream:
        steps = [entry(table, level, level) for level in range(4, 0, -1)]
        lookup = TlbLookup(GVA, Kind.WRITE, user=True, where="miss")
        return [lookup, *steps, TlbFill(GVA, HPA, 12, 15)]

    return make


@pytest.fixture
def ept(chain: Chain) -> Setting:
    return Setting("ept", {"guest": "4-level", "ept": "EPT-4"}, chain)
