"""The second dimension of a batch: EPT or NPT, for many guest-physical pages at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvmlab.hardware.batch_judge import ABSENT, LEAF, TABLE, WHY, WIDTH
from kvmlab.hardware.batch_pages import Bools, Bytes, Ints, holds
from kvmlab.hardware.batch_traits import Traits
from kvmlab.hardware.batch_tree import Found, Home, walk_on, walk_pages
from kvmlab.hardware.ept import Ept
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import USER, WRITE, Fault

Roots = Callable[[Ints], tuple[Ints, Bytes]]


def one_root(root: int, else_why: int = ABSENT) -> Roots:
    """The tables at ``root``, for addresses that have nothing above what they translate."""

    def roots(above: Ints) -> tuple[Ints, Bytes]:
        inside = above == 0
        return np.where(inside, np.int64(root), np.int64(0)), np.where(
            inside, TABLE, else_why
        ).astype(np.uint8)

    return roots


def four_roots(first_table: Callable[[int], int | None]) -> Roots:
    """PAE's page-directory-pointer registers: bits 31:30 choose one."""
    tables = [first_table(number << 30) for number in range(4)]
    present = np.array([one is not None for one in tables])
    bases = np.array([one or 0 for one in tables], np.int64)

    def roots(above: Ints) -> tuple[Ints, Bytes]:
        return bases.take(above), np.where(present.take(above), TABLE, ABSENT).astype(np.uint8)

    return roots


def reach(ept: Ept, ram: Ram, pages: Ints, before: Found | None = None) -> Found:
    """Translate guest-physical page numbers; ``before`` is what came of others in this batch."""
    found = walk_on(before, pages, ram) if before else None
    return found or walk_pages(ept.tables, one_root(ept.root, WIDTH), pages, ram)


def needed(ept: Ept, wants: int) -> int:
    """The rights that an access which ``wants`` these must find: NPT's are a user's."""
    return wants | (USER if ept.npt else 0)


def refusal(ept: Ept, found: Found, row: int, gpa: int, wants: int) -> Fault:
    """Why the page of ``row`` does not grant ``wants``: the same as `ept.nested` would say."""
    why, level = int(found.state.why[row]), int(found.state.level[row])
    if why == LEAF:
        return Fault(
            "ept",
            level,
            "rights",
            gpa,
            Traits(found.tables, int(found.traits()[row])).rights,
            wants,
        )
    return Fault(ept.tables.format.table, level, WHY[why], gpa, 0, wants)


@dataclass(slots=True)
class TablePages:
    """Guest tables of one level, found through EPT."""

    found: Found
    granted: Bools
    due: tuple[bool, bool]  # whether A, and whether D, of the way there is still to be set

    def mark(self, ram: Ram) -> None:
        """Set A and D on the way: a table is read as if it were written, for its own A bits."""
        self.found.mark(ram, self.granted, self.granted)


class Locator:
    """Finds guest tables for `walk_pages`, and remembers what that owes."""

    def __init__(self, ept: Ept, ram: Ram) -> None:
        self._ept, self._ram = ept, ram
        self.tables: list[TablePages] = []  # a level each, from the top down
        self.found: Found | None = None  # the last of them
        self.unwritable = False  # a table lies where EPT lets nobody write: A cannot be set

    def __call__(self, addresses: Ints, wanted: Bools) -> Home:
        """Where the tables at guest-physical ``addresses`` lie."""
        gpa = np.where(wanted, addresses, 0)
        self.found = found = reach(self._ept, self._ram, gpa >> 12, self.found)
        wants, rights = needed(self._ept, self._ept.table_access), found.rights()
        granted = wanted & found.arrived & (wants & ~rights == 0)
        self.tables.append(TablePages(found, granted, due(self._ept, found, granted, granted)))
        if not wants & WRITE:
            self.unwritable |= holds(granted & (rights & WRITE == 0))
        return Home(found.frame | gpa & 0xFFF, ~granted & wanted, found.count)


def due(ept: Ept, found: Found, used: Bools, written: Bools) -> tuple[bool, bool]:
    """Whether A, and whether D, is still to be set for these pages."""
    if not ept.accessed_dirty or not holds(used):
        return False, False
    return (
        holds(used & found.lacks_accessed()),
        holds(written & found.lacks_dirty()),
    )
