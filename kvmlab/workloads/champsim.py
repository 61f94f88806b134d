"""Traces for the ChampSim simulator: binary, one record of 64 bytes an instruction, no header.

Little-endian: the instruction's address, whether it is a branch and was taken, registers, then
two addresses that it writes and four that it reads; 0 stands for none.  Records of CloudSuite's
traces have four of each and an address space's number: 96 bytes.  Which of the two a file holds
shows in its bytes: read at the wrong stride, instructions lie at address 0.

Sizes of accesses are not recorded; each is read as one byte.
"""

from collections.abc import Iterator
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import TraceError
from kvmlab.hardware.records import Kind
from kvmlab.workloads.files import HEAD, Columns, beginning
from kvmlab.workloads.trace import acceptable, refusal

EXAMPLE = "64 bytes of ChampSim or 96 of CloudSuite"

_LAYOUTS = MappingProxyType(
    {
        size: np.dtype(
            {
                "names": ["ip", "flags", "writes", "reads"],
                "formats": ["<u8", ("u1", 2), ("<u8", writes), ("<u8", 4)],
                "offsets": [0, 8, first, first + 8 * writes],
                "itemsize": size,
            }
        )
        for size, first, writes in ((64, 16, 2), (96, 24, 4))
    }
)


def record_size(head: bytes) -> int | None:
    """64 or 96, if a file that begins like this can hold such records; else None."""
    fitting = []
    for size, layout in _LAYOUTS.items():
        records = np.frombuffer(head, layout, len(head) // size)
        if len(records) and (records["flags"] <= 1).all() and (records["ip"] != 0).all():
            fitting.append(size)
    return min(fitting, key=lambda size: (len(head) % size, size), default=None)


def fits(head: bytes) -> bool:
    """Whether a file that begins like this can be ChampSim's: text cannot."""
    return b"\0" in head and record_size(head) is not None


def parse(pieces: Iterator[bytes], shown: str) -> Iterator[Columns]:
    """The accesses of each piece of whole records; raises `TraceError` at the first bad one."""
    head, pieces = beginning(pieces, HEAD)
    size, offset, rest = record_size(head) or min(_LAYOUTS), 0, b""
    for piece in pieces:
        data = rest + piece
        whole = len(data) // size * size
        yield _columns(np.frombuffer(data[:whole], _LAYOUTS[size]), offset, shown)
        rest, offset = data[whole:], offset + whole
    if rest:
        raise TraceError(
            f"{shown}, offset {offset:#x}: the file ends inside record {offset // size},"
            f" after {len(rest)} of its {size} bytes"
        )


def _columns(records: NDArray[np.void], offset: int, shown: str) -> Columns:
    """Of each instruction: its fetch, its reads, its writes."""
    fetch, reads, writes = records["ip"][:, None], records["reads"], records["writes"]
    every = np.concatenate([fetch, reads, writes], axis=1)
    kinds = [Kind.FETCH] + 4 * [Kind.READ] + writes.shape[1] * [Kind.WRITE]
    ones = np.ones(len(every), np.uint64)
    bad = (records["flags"] > 1).any(axis=1) | (records["ip"] == 0)
    bad |= ~acceptable(every, ones[:, None]).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        size = records.dtype.itemsize
        place = f"record {offset // size + row}, offset {offset + row * size:#x}"
        raise TraceError(f"{shown}, {place}: {_problem(records[row], every[row])}")
    there = every != 0
    of_access = np.broadcast_to(np.array(kinds, np.uint8), every.shape)[there]
    addresses = every[there].astype(np.uint64)
    return Columns(of_access, addresses, np.ones(len(addresses), np.uint64))


def _problem(record: np.void, addresses: NDArray[np.uint64]) -> str:
    """What is wrong with one record."""
    for name, flag in zip(("is_branch", "branch_taken"), record["flags"].tolist(), strict=True):
        if flag > 1:
            return f"{name} is {flag}, neither 0 nor 1: not a ChampSim record"
    if not record["ip"]:
        return "its instruction lies at address 0: not a ChampSim record"
    return next(why for one in addresses.tolist() if (why := refusal(one, 1)))
