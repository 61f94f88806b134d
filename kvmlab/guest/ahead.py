"""Entries for pages that a mapping is given before it is touched (MAP_POPULATE), many at a time.

All is as faults one by one would leave it: frames, tables, and what the CPU has cached.  It is for
when nobody listens; a store that a hypervisor traps is made by itself.
"""

import numpy as np

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.guest.frames import Frames
from kvmlab.guest.smp import Smp
from kvmlab.guest.tables import PRESENT, PageTables, pointing
from kvmlab.hardware.batch_pages import Ints
from kvmlab.hardware.batch_store import store_quietly
from kvmlab.hardware.records import Kind

_WORTH = 16  # tables that take longer one by one than to take over the TLB and give it back


class Ahead:
    """Fills tables of small pages."""

    def __init__(self, smp: Smp, tables: PageTables, frames: Frames) -> None:
        self._smp, self._tables, self._frames = smp, tables, frames

    def fill_rest(self, slot: int, pages: int, flags: int) -> Ints:
        """Map ``pages`` more after the one at ``slot``, in its table; their frames.

        They are fewer if the table ends, or frames run out.
        """
        room = self._tables.entries(1) - 1 - self._tables.index(slot)
        frames = self._frames.take_run(min(room, pages))
        self._tables.fill(slot + self._tables.format.entry_bytes, frames, flags)
        return frames

    def fill_tables(self, root: int, gva: int, end: int, flags: int) -> int:
        """Map whole tables that are not there yet, from ``gva`` to ``end``; how many bytes.

        They are entered in one table above them, which is there: 0 if not, or for a few.
        """
        shift, pages = self._tables.shift_of(2), self._tables.entries(1)
        most = min(end - gva >> shift, self._frames.buddy.free_frames // (pages + 1))
        if most < _WORTH or gva & (1 << shift) - 1:
            return 0
        slots = self._tables.way(root, gva, 2)
        count = self._empty(slots[-1], most) if slots else 0
        if count < _WORTH:
            return 0
        runs = self._frames.take_tables(count, pages)
        if not self._at_once(slots, runs, flags):
            self._one_by_one(slots, runs, flags)
        return count << shift

    def _empty(self, slot: int, most: int) -> int:
        """How many entries from ``slot`` on are empty, at most so many, in its table."""
        first = self._tables.index(slot)
        entries = self._tables.read_all(slot & -PAGE_SIZE)[first : first + most]
        return next((count for count, entry in enumerate(entries) if entry), len(entries))

    def _at_once(self, slots: list[int], runs: Ints, flags: int) -> bool:
        """Make the accesses of `_one_by_one` together, if none of them does more than that."""
        fmt, count = self._tables.format, len(runs)
        kinds = [Kind.READ] * len(slots) + [Kind.WRITE, Kind.READ, Kind.WRITE]
        gpa = np.empty((count, len(kinds)), np.int64)
        gpa[:, : len(slots)] = slots
        gpa[:, len(slots) - 1] += np.arange(count) * fmt.entry_bytes
        gpa[:, -3], gpa[:, -2], gpa[:, -1] = gpa[:, len(slots) - 1], runs[:, 1], runs[:, 1]
        gva = (gpa.astype(np.uint64) + np.uint64(self._tables.virtual(0))).view(np.int64).ravel()
        word = np.uint64 if fmt.entry_bytes == 8 else np.uint32
        data = []
        for number, run in enumerate(runs):
            last = (number + 1) * len(kinds) - 1
            entries = np.delete(run, 1).astype(np.uint64) | np.uint64(flags | PRESENT)
            data.append((last - 2, pointing(int(run[1])).to_bytes(fmt.entry_bytes, "little")))
            data.append((last, entries.astype(word).tobytes()))
        return store_quietly(self._smp.cpu, gva, np.tile(np.array(kinds, np.uint8), count), data)

    def _one_by_one(self, slots: list[int], runs: Ints, flags: int) -> None:
        """Enter each table where it belongs, and its pages in it."""
        *above, slot = slots
        for run in runs:
            page, table, *others = run.tolist()
            for one in (*above, slot):
                self._tables.read(one)
            self._tables.write(slot, pointing(table))
            self._tables.read(table)
            self._tables.fill(table, [page, *others], flags)
            slot += self._tables.format.entry_bytes
