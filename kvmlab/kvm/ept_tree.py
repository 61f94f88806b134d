"""The tree of the direct MMU: tables in host frames, found by walking from the root.

Linux, arch/x86/kvm/mmu/tdp_mmu.c and tdp_iter.c.  With ``legacy`` the tables are shadow pages
(mmu.c: direct_map()), and say so in records.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kvmlab.base.tap import silent
from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.host.kernel import ZERO_PAGE
from kvmlab.kvm.ept_entries import ADDRESS, PS, Bits
from kvmlab.kvm.records import ShadowPageMade, ShadowPageZapped, Split, SpteSet, Zap
from kvmlab.kvm.vm import Vm

_ENTRIES = 512


@dataclass(slots=True)
class Entry:
    """One entry of the tree, as it was when it was read."""

    level: int
    gpa: int  # the first that it covers
    hpa: int  # of the entry
    spte: int

    @property
    def leaf(self) -> bool:
        """Whether it maps a page, if it maps anything."""
        return self.level == 1 or bool(self.spte & PS)

    @property
    def gpas(self) -> range:
        """What it covers."""
        return range(self.gpa, self.gpa + (1 << shift_of(self.level)))


class EptTree:
    """One tree of tables for a VM."""

    def __init__(self, vm: Vm, bits: Bits, levels: int, *, legacy: bool) -> None:
        self._vm, self._bits, self._levels, self._legacy = vm, bits, levels, legacy
        self.root = vm.host.alloc_table()
        self.table_frames = 1
        self.stale = False  # something was dropped that a TLB may still hold
        self.on_free: list[Callable[[int], None]] = []  # told of each table that goes

    @property
    def width(self) -> int:
        """How many bits of a guest-physical address it translates."""
        return shift_of(self._levels + 1)

    # -- finding ------------------------------------------------------------------------

    def find(self, gpa: int) -> Entry:
        """Where the walk for ``gpa`` ends: at a leaf, or at an entry that maps nothing."""
        entry = self._entry(self.root, self._levels, gpa)
        while self._is_table(entry):
            entry = self._entry(entry.spte & ADDRESS, entry.level - 1, gpa)
        return entry

    def leaves(self, gpas: range) -> Iterator[Entry]:
        """Every leaf that maps some of ``gpas``."""
        return (one for one in self.entries(gpas) if one.leaf)

    def entries(self, gpas: range) -> Iterator[Entry]:
        """Every entry on the way to ``gpas`` that points or maps somewhere, from the top down."""
        return self._below(self.root, self._levels, 0, gpas, lowest=1)

    def _below(
        self, table: int, level: int, base: int, gpas: range, *, lowest: int
    ) -> Iterator[Entry]:
        shift = shift_of(level)
        for index in _indices(base, shift, gpas):
            hpa = table + 8 * index
            spte = self._vm.ram.load(hpa)
            if not self._bits.live(spte):
                continue
            entry = Entry(level, base | index << shift, hpa, spte)
            yield entry
            entry.spte = self._vm.ram.load(hpa)  # it may have been changed meanwhile
            if level > lowest and self._is_table(entry):
                below = entry.spte & ADDRESS
                yield from self._below(below, level - 1, entry.gpa, gpas, lowest=lowest)

    def _entry(self, table: int, level: int, gpa: int) -> Entry:
        shift = shift_of(level)
        hpa = table + (gpa >> shift & _ENTRIES - 1) * 8
        return Entry(level, gpa >> shift << shift, hpa, self._vm.ram.load(hpa))

    def _is_table(self, entry: Entry) -> bool:
        return not entry.leaf and self._bits.live(entry.spte)

    # -- changing -----------------------------------------------------------------------

    def reach(self, gpa: int, level: int) -> Entry:
        """The entry for ``gpa`` at ``level``, with tables made and larger leaves split above."""
        entry = self._entry(self.root, self._levels, gpa)
        while entry.level > level:
            if not self._is_table(entry):
                self._open(entry)
            entry = self._entry(entry.spte & ADDRESS, entry.level - 1, gpa)
        return entry

    def _open(self, entry: Entry) -> None:
        """Make a table of an entry that maps nothing, or a large page."""
        if not self._bits.live(entry.spte):
            self.add_table(entry)
        elif self._legacy:  # drop_large_spte(): the rest is faulted in again
            self.zap(entry)
            self.add_table(entry)
        else:
            self.split(entry)

    def add_table(self, entry: Entry) -> int:
        """Let an entry that maps nothing point to a new table; returns its address."""
        table = self._new_table(entry)
        self._link(entry, table)
        return table

    def split(self, entry: Entry) -> None:
        """Put a table of 512 smaller leaves in the place of a large one; nothing else changes.

        tdp_mmu_split_huge_page().  Pages of 4 KiB may be executable whatever the large one was.
        """
        table, shift = self._new_table(entry), shift_of(entry.level - 1)
        spte = entry.spte
        if entry.level == 2:
            spte = self._bits.with_execute(spte & ~PS)
        for index in range(_ENTRIES):
            child = Entry(entry.level - 1, entry.gpa + (index << shift), table + 8 * index, 0)
            self._write(child, spte + (index << shift))
        self._vm.tap(Split("ept", entry.level, entry.gpa >> PAGE_SHIFT))
        self._vm.tap(Zap("ept", entry.level, entry.gpa >> PAGE_SHIFT, entry.hpa, entry.spte))
        self._link(entry, table)

    def set(self, entry: Entry, spte: int) -> None:
        """Make ``entry`` a leaf; a table that was there goes with all below it."""
        moved = self._bits.live(entry.spte) and (entry.spte ^ spte) & ADDRESS
        if moved or self._is_table(entry):
            self.zap(entry)
        self._write(entry, spte)

    def zap(self, entry: Entry) -> None:
        """Drop an entry, and the tables below it."""
        below = entry.spte & ADDRESS if self._is_table(entry) else None
        if below is not None:
            self._free(below, entry.level - 1, entry.gpa)
        self._vm.ram.store(entry.hpa, 0)
        self._vm.tap(Zap("ept", entry.level, entry.gpa >> PAGE_SHIFT, entry.hpa, entry.spte))
        entry.spte, self.stale = 0, True

    def zap_leaves(self, gpas: range) -> None:
        """Drop every leaf that maps some of ``gpas``; tables stay (tdp_mmu_zap_leafs)."""
        for entry in self._below(self.root, self._levels, 0, gpas, lowest=2):
            if entry.leaf:
                self.zap(entry)
            elif entry.level == 2:
                self._zap_small(entry, gpas)

    def _zap_small(self, above: Entry, gpas: range) -> None:
        """Drop those in the table that ``above`` points to, as `zap` does one by one."""
        indices = _indices(above.gpa, PAGE_SHIFT, gpas)
        hpa, gfn = (above.spte & ADDRESS) + 8 * indices.start, above.gpa >> PAGE_SHIFT
        words = self._vm.ram.words_at(hpa, len(indices)).copy()
        gone = np.flatnonzero(self._bits.which_live(words))
        if not len(gone):
            return
        sptes, self.stale = words[gone], True
        words[gone] = 0
        self._vm.ram.store_words(hpa, words)
        if self._vm.tap is silent:
            return
        for at, spte in zip(gone.tolist(), sptes.view(np.uint64).tolist(), strict=True):
            self._vm.tap(Zap("ept", 1, gfn + indices.start + at, hpa + 8 * at, spte))

    def clear(self) -> None:
        """Empty the tree; entries that remember MMIO go too."""
        self._clear(self.root, self._levels, 0)

    def end(self) -> None:
        """The VM is no more: the root of the empty tree is the host's again.

        Who still walks it finds the zero page there, as under KVM's dummy root
        (kvm_mmu_get_dummy_root()).
        """
        if self.root != ZERO_PAGE:
            self._vm.host.free_table(self.root)
            self.root = ZERO_PAGE
            self.table_frames -= 1

    def _free(self, table: int, level: int, gpa: int) -> None:
        self._clear(table, level, gpa)
        for tell in self.on_free:
            tell(table)
        self._vm.host.free_table(table)
        self.table_frames -= 1
        if self._legacy:
            self._vm.tap(ShadowPageZapped(gpa >> PAGE_SHIFT, level, "unlinked"))

    def _clear(self, table: int, level: int, gpa: int) -> None:
        for index in range(_ENTRIES):
            entry = self._entry(table, level, gpa + (index << shift_of(level)))
            if self._bits.live(entry.spte):
                self.zap(entry)
            elif entry.spte:
                self._vm.ram.store(entry.hpa, 0)

    def _new_table(self, entry: Entry) -> int:
        self.table_frames += 1
        if self._legacy:
            self._vm.tap(ShadowPageMade(entry.gpa >> PAGE_SHIFT, entry.level - 1, direct=True))
        return self._vm.host.alloc_table()

    def _link(self, entry: Entry, table: int) -> None:
        self._write(entry, table | self._bits.table)

    def _write(self, entry: Entry, spte: int) -> None:
        entry.spte = spte
        self._vm.ram.store(entry.hpa, spte)
        self._vm.tap(SpteSet("ept", entry.level, entry.gpa >> PAGE_SHIFT, entry.hpa, spte))


def _indices(base: int, shift: int, gpas: range) -> range:
    """Which entries of a table cover some of ``gpas``, if it covers all from ``base`` on."""
    first, last = gpas.start - base >> shift, gpas.stop - 1 - base >> shift
    return range(max(0, first), min(_ENTRIES, last + 1))


def shift_of(level: int) -> int:
    """The shift of what an entry at ``level`` covers."""
    return PAGE_SHIFT + 9 * (level - 1)
