"""The translation look-aside buffer: set-associative arrays with exact LRU, and what drops entries.

SDM, "Caching Translation Information".  Real processors hash their set indices and approximate
LRU in ways that are not published; here a set is the page number modulo the number of sets and
the least recently used way goes.  A stale entry is used until it is flushed, as in silicon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kvmlab.base.errors import BadSize


@dataclass(frozen=True, slots=True)
class ArrayShape:
    """One array of a TLB: how many entries in how many ways, for which page sizes."""

    entries: int
    ways: int
    shifts: tuple[int, ...]

    @property
    def sets(self) -> int:
        """Number of sets; a power of two."""
        return self.entries // self.ways


@dataclass(frozen=True, slots=True)
class Geometry:
    """The arrays of a processor's TLB: first level for data and fetches, second level for both."""

    name: str
    data: tuple[ArrayShape, ...]
    fetch: tuple[ArrayShape, ...]  # empty: fetches share the arrays of the data side
    second: tuple[ArrayShape, ...]
    walk_caches: tuple[tuple[int, int], ...] = ()  # (level, entries); empty: none
    nested: ArrayShape | None = None  # the nested TLB; None: there is none

    def __post_init__(self) -> None:
        """Refuse a shape whose sets are no power of two."""
        for one in (*self.data, *self.fetch, *self.second):
            if one.ways <= 0 or one.entries % one.ways or one.sets & one.sets - 1 or not one.sets:
                raise BadSize(
                    f"a TLB array of {one.entries} entries in {one.ways} ways has no "
                    "power-of-two number of sets; write for example 64 in 4"
                )


FOUR_K, LARGE, HUGE = (12,), (21, 22), (30,)

SMALL = (12, 21, 22)
ALL_SIZES = (*SMALL, 30)

UNIFIED = Geometry(
    "unified",
    data=(ArrayShape(64, 4, FOUR_K), ArrayShape(32, 4, LARGE), ArrayShape(4, 4, HUGE)),
    fetch=(),
    second=(ArrayShape(1536, 12, SMALL), ArrayShape(16, 4, HUGE)),
)
"""Skylake's data side, shared by fetches: the default, and simple enough to follow by hand."""

_TEACHING_CACHES = ((2, 32), (3, 4), (4, 4), (5, 2))
_TEACHING_NESTED = ArrayShape(16, 16, ALL_SIZES)
"""Sizes of these are published by nobody: small fully associative ones, to reason about."""

SKYLAKE = Geometry(
    "Skylake",
    data=(ArrayShape(64, 4, FOUR_K), ArrayShape(32, 4, LARGE), ArrayShape(4, 4, HUGE)),
    fetch=(ArrayShape(128, 8, FOUR_K), ArrayShape(8, 8, LARGE)),
    second=(ArrayShape(1536, 12, SMALL), ArrayShape(16, 4, HUGE)),
    walk_caches=_TEACHING_CACHES,
    nested=_TEACHING_NESTED,
)
"""Intel Skylake (Intel 64 Optimization Reference Manual, cache and TLB parameters)."""

ZEN4 = Geometry(
    "Zen 4",
    data=(ArrayShape(72, 72, ALL_SIZES),),
    fetch=(ArrayShape(64, 64, ALL_SIZES),),
    second=(ArrayShape(3072, 24, SMALL),),
    walk_caches=_TEACHING_CACHES,
    nested=_TEACHING_NESTED,
)
"""AMD Zen 4: 72 and 3072 entries as CPUID tells; 24 ways of the second level are a choice.

Both sides share one second level here; silicon has another 512 entries for fetches.
"""

TINY = Geometry(
    "tiny",
    data=(ArrayShape(4, 2, ALL_SIZES),),
    fetch=(),
    second=(ArrayShape(8, 4, ALL_SIZES),),
    walk_caches=((2, 2), (3, 1)),
    nested=ArrayShape(4, 4, ALL_SIZES),
)
"""Small enough to fill on a blackboard."""

GEOMETRIES = (UNIFIED, SKYLAKE, ZEN4, TINY)


class Tag(NamedTuple):
    """Whose translation an entry is (SDM, "Cached Translation Information")."""

    vpid: int
    pcid: int  # GLOBAL for a global page
    ept_root: int  # EPTP bits 51:12; 0 with EPT off


GLOBAL = -1


@dataclass(slots=True)
class TlbEntry:
    """One cached translation: page, size, rights of the guest's tables, and what else it allows."""

    vpn: int
    page: int  # host-physical address of the page's first byte
    shift: int
    rights: int  # of the guest's tables (or the only tables), all levels together
    allows: int  # kinds that EPT allows, less WRITE while the leaf's D bit is clear
    leaf: int  # the leaf entry, for the protection key
    tag: Tag
    span: int  # shift of the page of the guest's tables, of which this may be a fragment

    def belongs_to(self, gva: int) -> bool:
        """Whether this is a translation of the page, as the guest's tables have it, of ``gva``."""
        return self.vpn << self.shift >> self.span == gva >> self.span


Key = tuple[int, int, Tag]
"""Of an entry: page number, shift, whose it is."""

Place = tuple[dict[Key, TlbEntry], Key]
"""A set, and the key of one of its entries."""


class Array:
    """The sets of one array: each a dict in order of use, least recent first."""

    __slots__ = ("mask", "sets", "shape")

    def __init__(self, shape: ArrayShape) -> None:
        self.shape = shape
        self.mask = shape.sets - 1
        self.sets: list[dict[Key, TlbEntry]] = [{} for _ in range(shape.sets)]

    def find(self, gva: int, tags: tuple[Tag, ...]) -> TlbEntry | None:
        """The translation of ``gva`` under one of ``tags``, made the most recent of its set."""
        for shift in self.shape.shifts:
            vpn = gva >> shift
            ways = self.sets[vpn & self.mask]
            for tag in tags:
                key = (vpn, shift, tag)
                entry = ways.get(key)
                if entry is not None:
                    del ways[key]  # to the most recent end
                    ways[key] = entry
                    return entry
        return None

    def remove(self, gva: int, tags: tuple[Tag, ...]) -> int:
        """Drop the translations of ``gva`` under ``tags``; returns how many were held."""
        count = 0
        for shift in self.shape.shifts:
            vpn = gva >> shift
            for tag in tags:
                count += self.sets[vpn & self.mask].pop((vpn, shift, tag), None) is not None
        return count

    def insert(self, entry: TlbEntry) -> None:
        """Cache ``entry`` as the most recent of its set; the least recent makes room."""
        ways = self.sets[entry.vpn & self.mask]
        key = (entry.vpn, entry.shift, entry.tag)
        ways.pop(key, None)
        if len(ways) == self.shape.ways:
            del ways[next(iter(ways))]
        ways[key] = entry

    def drop(self, unwanted: Callable[[TlbEntry], object]) -> int:
        """Drop what is ``unwanted``; returns how many entries that were."""
        count = 0
        for ways in filter(None, self.sets):  # most are empty soon after another such drop
            for key in [key for key, entry in ways.items() if unwanted(entry)]:
                del ways[key]
                count += 1
        return count


class Tlb:
    """A two-level TLB of the given geometry."""

    def __init__(self, geometry: Geometry = UNIFIED) -> None:
        self.geometry = geometry
        self._data = [Array(shape) for shape in geometry.data]
        self._fetch = [Array(shape) for shape in geometry.fetch] or self._data
        self._second = [Array(shape) for shape in geometry.second]
        self._tags: dict[Tag, None] = {}  # every tag that was ever filled
        self._broken: set[tuple[int, int]] = set()  # (shift, page) of pages held in fragments

    def lookup(
        self, gva: int, tags: tuple[Tag, ...], *, fetch: bool
    ) -> tuple[TlbEntry | None, str]:
        """The cached translation of ``gva`` under one of ``tags``, and where it was found.

        ``"L1"``, ``"L2"`` (which then also goes to L1) or ``"miss"``.
        """
        first = self._fetch if fetch else self._data
        for array in first:
            if entry := array.find(gva, tags):
                return entry, "L1"
        for array in self._second:
            if entry := array.find(gva, tags):
                self._put(first, entry)
                return entry, "L2"
        return None, "miss"

    def place(self, gva: int, tags: tuple[Tag, ...], *, fetch: bool) -> Place | None:
        """The set of the first level that holds ``gva``, and the key; nothing is used by this."""
        for array in self._fetch if fetch else self._data:
            for shift in array.shape.shifts:
                ways = array.sets[gva >> shift & array.mask]
                for tag in tags:
                    key = (gva >> shift, shift, tag)
                    if key in ways:
                        return ways, key
        return None

    def remember(self, entry: TlbEntry) -> None:
        """Take note that ``entry`` is cached: `drop_page` looks for such ones."""
        self._tags[entry.tag] = None
        if entry.span > entry.shift:
            self._broken.add((entry.span, entry.vpn << entry.shift >> entry.span))

    def fill(self, entry: TlbEntry, *, fetch: bool) -> None:
        """Cache ``entry`` in both levels, where an array holds its page size."""
        self.remember(entry)
        self._put(self._fetch if fetch else self._data, entry)
        self._put(self._second, entry)

    def drop_page(self, gva: int, tag: Tag) -> int:
        """Drop the translations of the page of ``gva``: of this VPID and PCID, and global ones.

        An EPT root does not matter: a guest's INVLPG concerns all of them.  Where small EPT
        pages broke a large guest page into fragments, all of them go (SDM, "Operations that
        Invalidate TLBs and Paging-Structure Caches").
        """
        pcids = (tag.pcid, GLOBAL)
        tags = tuple(one for one in self._tags if one.vpid == tag.vpid and one.pcid in pcids)
        if any((span, gva >> span) in self._broken for span in (*LARGE, *HUGE)):
            return self.drop(lambda one: one.tag in tags and one.belongs_to(gva))
        return sum(one.remove(gva, tags) for one in self.arrays())

    def drop(self, unwanted: Callable[[TlbEntry], object] = lambda _entry: True) -> int:
        """Drop every entry that is ``unwanted``; returns how many were held."""
        return sum(one.drop(unwanted) for one in self.arrays())

    def entries(self) -> list[TlbEntry]:
        """What is cached now, each translation once."""
        found = {}
        for array in self.arrays():
            for ways in array.sets:
                found.update(ways)
        return list(found.values())

    def arrays(self) -> list[Array]:
        """Each array once: fetches may share those of the data side."""
        shared = self._fetch is self._data
        return [*self._data, *([] if shared else self._fetch), *self._second]

    @staticmethod
    def _put(arrays: list[Array], entry: TlbEntry) -> None:
        for array in arrays:
            if entry.shift in array.shape.shifts:
                array.insert(entry)
                return
