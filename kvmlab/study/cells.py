"""One cell of a sweep: what is sent to a worker, what the worker does, what it sends back.

All of it is plain data, so that a worker may be this process, another one, or another machine.
"""

import hashlib
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvmlab.base.errors import KvmlabError
from kvmlab.kvm.policy import NAIVE
from kvmlab.study.compare import HOST_PER_GUEST, Row, compare
from kvmlab.study.counters import Tally
from kvmlab.study.grid import Cell
from kvmlab.workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class Parcel:
    """A trace, packed for the way to a worker: addresses by their differences, all compressed."""

    name: str
    kinds: bytes
    differences: bytes
    sizes: bytes

    @staticmethod
    def of(trace: Trace) -> "Parcel":
        """Pack ``trace``."""
        differences = np.diff(trace.addresses, prepend=np.uint64(0))  # modulo 2**64, as is the sum
        columns = (trace.kinds, differences, trace.sizes)
        return Parcel(trace.name, *(zlib.compress(one.tobytes(), 1) for one in columns))

    def unpack(self) -> Trace:
        """The trace as it was."""
        differences = np.frombuffer(zlib.decompress(self.differences), np.uint64)
        return Trace(
            self.name,
            np.frombuffer(zlib.decompress(self.kinds), np.uint8),
            np.cumsum(differences, dtype=np.uint64),
            np.frombuffer(zlib.decompress(self.sizes), np.uint16),
        )


def digest(trace: Trace) -> str:
    """What tells ``trace`` from any other: SHA-256 of its columns."""
    sha = hashlib.sha256()
    for column in (trace.kinds, trace.addresses, trace.sizes):
        sha.update(np.ascontiguousarray(column).tobytes())
    return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class Task:
    """A cell, the trace that it runs, and how much memory the guest has for that."""

    cell: Cell
    parcel: Parcel
    guest_memory: int


def run_task(task: Task) -> dict[str, Any]:
    """Replay; returns the line of the journal: the cell, and its counts or why there are none.

    Whatever goes wrong in the cell is its result, in one line, and no business of other cells.
    """
    try:
        found: dict[str, Any] = {"counts": _counts(_row(task))}
    except KvmlabError as error:
        found = {"failed": _line(str(error))}
    except Exception as error:  # noqa: BLE001  a sweep goes on
        found = {"failed": _line(f"{type(error).__name__}: {error}")}
    return {"cell": task.cell.to_json(), **found}


def _line(text: str) -> str:
    return " ".join(text.split())


def _row(task: Task) -> Row:
    cell = task.cell
    (row,) = compare(
        task.parcel.unpack(),
        [cell.mmu],
        guest_memory=task.guest_memory,
        host_memory=HOST_PER_GUEST * task.guest_memory,
        guest_levels=cell.guest_levels,
        host_levels=cell.host_levels or 4,
        guest_page=cell.guest_page,
        host_page=cell.host_page or "4K",
        policy=cell.policy or NAIVE.name,
        geometry=cell.geometry,
    )
    return row


def _counts(row: Row) -> dict[str, Any]:
    """All that was counted, so that any table of costs can be applied to it later."""
    return {
        "records": row.records,
        "accesses": row.accesses,
        "program": _tally(row.program),
        "kernel": _tally(row.kernel),
        "table_bytes": row.table_bytes,
        "shadow_bytes_peak": row.shadow_bytes_peak,
    }


def row_of(cell: Cell, counts: dict[str, Any]) -> Row:
    """The row of a comparison that ``counts`` were made of; raises `KeyError`, `TypeError`."""
    return Row(
        trace=cell.trace,
        mmu=cell.mmu,
        records=counts["records"],
        accesses=counts["accesses"],
        program=_tally_of(counts["program"]),
        kernel=_tally_of(counts["kernel"]),
        table_bytes=counts["table_bytes"],
        shadow_bytes_peak=counts["shadow_bytes_peak"],
        policy=cell.policy,
    )


def _tally(tally: Tally) -> dict[str, Any]:
    return {
        "lookups": tally.lookups,
        "references": tally.references,
        "exits": [[*key, number] for key, number in sorted(tally.exits.items())],
        "page_faults": tally.page_faults,
        "levels": [[*key, number] for key, number in sorted(tally.levels.items())],
        "cached": tally.cached,
    }


def _tally_of(data: dict[str, Any]) -> Tally:
    return Tally(
        data["lookups"],
        data["references"],
        Counter({(reason, deed): number for reason, deed, number in data["exits"]}),
        data["page_faults"],
        Counter({(table, level): number for table, level, number in data["levels"]}),
        data["cached"],
    )
