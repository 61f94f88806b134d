"""How the references of a walk add up, row by row: 4 × (4 + 1) + 4 = 24.

Every number is counted from the references that were read.  Only where they add up to it is the
formula of a two-dimensional walk shown: (g + 1) × (h + 1) − 1 for g guest and h EPT levels
(Bhargava et al., ASPLOS 2008, with the data access left out).
"""

from collections import Counter
from collections.abc import Sequence

from kvmlab.figures.fold import DATA_ROW, Reference


def total(references: Sequence[Reference]) -> str:
    """The references so far as a sum of rows: ``2 × (4 + 1) + 3 = 13``."""
    whole, rest = _rows(references)
    if not whole:
        return str(rest)
    first = next(iter(whole.values()))
    if first > 1 and set(whole.values()) == {first}:
        parts = [f"{len(whole)} × ({first - 1} + 1)"]
    else:
        parts = [str(number) for number in whole.values()]
    parts += [str(rest)] if rest else []
    return f"{' + '.join(parts)} = {len(references)}" if len(parts) + first > 2 else parts[0]


def formula(references: Sequence[Reference]) -> str:
    """``(4 + 1) × (4 + 1) − 1 = 24``, or nothing where the walk does not follow it."""
    whole, rest = _rows(references)
    guest, ept = len(whole), rest
    if not guest or not ept or set(whole.values()) != {ept + 1}:
        return ""
    return f"({guest} + 1) × ({ept} + 1) − 1 = {len(references)}"


def _rows(references: Sequence[Reference]) -> tuple[dict[int, int], int]:
    """How many references each row took that ends in a table's entry; and those left over."""
    rows = Counter(one.row for one in references)
    ended = [one.row for one in references if one.step.table != "ept"]
    whole = {row: rows[row] for row in ended if row != DATA_ROW}
    return whole, len(references) - sum(whole.values())
