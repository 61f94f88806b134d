"""The results of a sweep as a NumPy structured array, and as files.

A row is a cell at the prices of one cost model.  The name of a field says its unit: fields that end
in ``_bytes`` are bytes, ``cycles`` and those that begin with it are cycles of the cost model, and
all others count what they are called.  A file is written beside its name and then takes its place:
it is complete or absent.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import parse_size
from kvmlab.study.compare import Row
from kvmlab.study.costs import GRADED, CostTable
from kvmlab.study.counters import TABLES, Tally
from kvmlab.study.grid import Cell
from kvmlab.study.sweep import Outcome

Results = NDArray[np.void]
"""Rows of a sweep: the fields of `axes_of`, ``cost_model``, those of `counts_of` and `cycles_of`,
and ``slowdown_ratio``."""

SLOWDOWN = "slowdown_ratio"
"""Time over that of the native cell of the same trace, guest and processor; NaN without one."""


def axes_of(cell: Cell) -> dict[str, Any]:
    """What was chosen.  "" and 0 stand for what a design does not have."""
    return {
        "trace": cell.trace,
        "mmu": cell.mmu,
        "policy": cell.policy,
        "guest_levels": cell.guest_levels,
        "host_levels": cell.host_levels,
        "guest_page_bytes": parse_size(cell.guest_page),
        "host_page_bytes": parse_size(cell.host_page) if cell.host_page else 0,
        "tlb": cell.tlb,
        "walk_caches": cell.walk_caches,
    }


def counts_of(row: Row) -> dict[str, int]:
    """What was counted (study/counters.py), program and guest kernel together."""
    total = row.total
    return {
        "records": row.records,
        "accesses": row.accesses,
        "tlb_hits_l1": total.lookups["L1"],
        "tlb_hits_l2": total.lookups["L2"],
        "tlb_misses": total.lookups["miss"],
        "walk_cache_hits": total.cached,
        "references": total.all_references,
        **{f"references_{name}": total.references[name] for name in TABLES},
        "page_faults": total.page_faults,
        "exits": total.all_exits,
        **{f"exits_{deed}": number for deed, number in total.by_deed.items()},
        "table_bytes": sum(row.table_bytes.values()),
        **{f"{name}_table_bytes": row.table_bytes.get(name, 0) for name in TABLES},
        "shadow_peak_bytes": row.shadow_bytes_peak,
    }


def cycles_of(row: Row, prices: CostTable) -> dict[str, int]:
    """What that comes to by ``prices`` (study/costs.py)."""
    found = prices.cycles(row.total)
    return {
        "cycles_walks": found.walks,
        "cycles_exits": found.total - found.walks,
        "cycles": found.total,
    }


def results(outcome: Outcome, prices: Sequence[CostTable] = (GRADED,)) -> Results:
    """The finished cells as rows, in order, each cell once for every table of costs."""
    native = {_native(cell): row for cell, row in outcome.done if cell.mmu == "native"}
    rows = [
        _values(cell, row, native.get(_native(cell)), table)
        for cell, row in outcome.done
        for table in prices
    ]
    return np.array([tuple(row.values()) for row in rows], dtype=_types(rows))


def _values(cell: Cell, row: Row, native: Row | None, prices: CostTable) -> dict[str, Any]:
    counts, cycles = counts_of(row), cycles_of(row, prices)
    ratio = _time(row, prices) / _time(native, prices) if native else math.nan
    return {**axes_of(cell), "cost_model": prices.name, **counts, **cycles, SLOWDOWN: ratio}


def _time(row: Row, prices: CostTable) -> int:
    return prices.end_to_end(row.accesses, row.total)


def _types(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The fields and their types; a text is as wide as its widest value."""
    nothing = _values(
        Cell("", "", "", 0, 0, "4K", "", "", ""),
        Row("", "", 0, 0, Tally(), Tally(), {}, 0),
        None,
        GRADED,
    )
    kinds = {int: "i8", float: "f8"}
    return [
        (name, kinds.get(type(value)) or f"U{max((len(row[name]) for row in rows), default=1)}")
        for name, value in nothing.items()
    ]


def _native(cell: Cell) -> tuple[Any, ...]:
    """What two cells have in common if one is the other's native run."""
    return cell.trace, cell.guest_levels, cell.guest_page, cell.tlb, cell.walk_caches


def as_rows(array: Results, outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Every row as plain data: finished ones, then failed and skipped ones with their reason.

    A value that there is not is None.
    """
    for one in array:
        values = dict(zip(array.dtype.names or (), one.item(), strict=True))
        ratio = values[SLOWDOWN]
        values[SLOWDOWN] = None if math.isnan(ratio) else ratio
        yield {"state": "done", **values, "reason": ""}
    for state in ("failed", "skipped"):
        for cell, reason in getattr(outcome, state):
            values = dict.fromkeys(array.dtype.names or ())
            yield {"state": state, **values, **axes_of(cell), "reason": reason}


def write_csv(path: str | Path, array: Results, outcome: Outcome) -> None:
    """Save all rows as CSV with a line of names; raises `OSError` with the name of the file."""
    text = io.StringIO(newline="")
    names = ["state", *(array.dtype.names or ()), "reason"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_rows(array, outcome))
    write_whole(path, text.getvalue())


def write_json_lines(path: str | Path, array: Results, outcome: Outcome) -> None:
    """Save all rows as JSON, one object a line; raises `OSError` with the name of the file."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in as_rows(array, outcome)]
    write_whole(path, "".join(lines))


def write_whole(path: str | Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds all of it or what it held before; raises `OSError`.

    What is no plain file (``/dev/stdout``, a pipe) is written to as it is.
    """
    path = Path(path)
    plain = path.is_file() or not path.exists()
    beside = path.with_name(f".{path.name}.{os.getpid()}.part") if plain else path
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            if plain:
                os.fsync(file.fileno())
        if plain:
            beside.replace(path)
    except OSError as error:
        if plain:
            beside.unlink(missing_ok=True)
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
