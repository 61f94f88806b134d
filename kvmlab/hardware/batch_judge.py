"""What the entries of a level say, judged for many of them at once.

The masks of a `Row` decide, as in the scalar walk.  Most entries of a program's tables are alike in
the bits that matter: then the scalar walk's own verdict on one of them is that on all.
"""

from dataclasses import dataclass

import numpy as np

from kvmlab.hardware.batch_pages import Bytes, Ints, signed
from kvmlab.hardware.formats import XD, Row, Tables
from kvmlab.hardware.records import Verdict
from kvmlab.hardware.walker import judge

# What became of a row: it goes on below, it arrived, or why it stopped.
TABLE, LEAF, ABSENT, RESERVED, FOREIGN, WIDTH = range(6)
WHY = ("", "", "absent", "reserved", "", "width")

_EPT_TYPE = 7 << 3  # the memory type in an entry of EPT


@dataclass(slots=True)
class State:
    """What is known of each row of a level once its entry was judged."""

    why: Bytes
    level: Bytes  # of the entry that ended the walk
    merged: Ints  # all entries down to here, bit by bit, with XD turned round
    entry: Ints  # the last entry read
    base: Ints  # the table below, or the page


def judge_all(tables: Tables, row: Row, entry: Ints) -> State:
    """`walker.judge` and the address of what is below, for many entries."""
    alike = _alike(tables, row, entry)
    if alike is None:
        return _judge_each(tables, row, entry)
    base = entry & (row.page_address if alike == LEAF else row.table_address)
    if alike == LEAF and row.page_high:
        base |= (entry & row.page_high) << 19
    why = np.full(len(entry), alike, np.uint8)
    return State(why, np.full(len(entry), row.level, np.uint8), entry, entry, base)


def _alike(tables: Tables, row: Row, entry: Ints) -> int | None:
    """`TABLE` or `LEAF` where all of these entries are the same, as those of most programs are.

    Where they agree in the bits that decide, all of them together are judged as one.
    """
    some, every = int(np.bitwise_or.reduce(entry)), int(np.bitwise_and.reduce(entry))
    deciding = row.present | row.leaf | (_EPT_TYPE if tables.bad_rights else 0)
    if (some ^ every) & deciding:
        return None
    verdict = judge(tables, row, some)
    return {Verdict.TABLE: TABLE, Verdict.LEAF: LEAF}.get(verdict)


def _judge_each(tables: Tables, row: Row, entry: Ints) -> State:
    absent = entry & signed(row.present) == 0
    leaf = np.full(len(entry), fill_value=True) if row.always_leaf else entry & row.leaf != 0
    page = entry & row.page_address
    if row.page_high:
        page |= (entry & row.page_high) << 19
    if row.always_leaf:
        reserved, base = entry & signed(row.page_reserved) != 0, page
    else:
        masks = np.where(
            leaf, np.int64(signed(row.page_reserved)), np.int64(signed(row.table_reserved))
        )
        reserved, base = entry & masks != 0, np.where(leaf, page, entry & row.table_address)
    if tables.bad_rights:
        pattern = entry & 7 | (entry >> 7 & 8 if tables.switches.mode_based else 0)
        reserved |= (tables.bad_rights >> pattern & 1).astype(np.bool_)
        reserved |= leaf & (tables.bad_types >> (entry >> 3 & 7) & 1).astype(np.bool_)
    why = leaf.view(np.uint8).copy()
    why[reserved] = RESERVED
    why[absent] = ABSENT
    level = np.full(len(entry), row.level, np.uint8)
    return State(why, level, entry, entry, base)


def turned(tables: Tables, entry: Ints) -> Ints:
    """An entry in which every right is a bit that is set, so that rights are merged by AND."""
    if tables.format.mode == "ept":
        return entry
    return entry ^ signed(XD) if tables.switches.nxe else entry | signed(XD)


def traits(tables: Tables, merged: Ints, entry: Ints) -> Ints:
    """All that a verdict depends on, as a number below `TRAITS` that `Traits` reads.

    It is made of the entries' own bits, which takes four operations; what the bits mean is
    worked out for the few numbers that occur.
    """
    fmt = tables.format
    if fmt.mode == "ept":
        return merged & (7 | fmt.accessed | 1 << 10) | entry & fmt.dirty
    found = merged & (2 | 4 | fmt.accessed) | entry & fmt.dirty
    found |= merged >> 63 & 1
    if tables.switches.keys and fmt.long_mode:
        found |= (entry >> 59 & 15) << 7
    return found
