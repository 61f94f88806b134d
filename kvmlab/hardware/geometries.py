"""Geometries of TLBs and walk caches by the names and shapes that people write."""

import re
from dataclasses import replace

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.tlb import ALL_SIZES, GEOMETRIES, SKYLAKE, ArrayShape, Geometry

MOST_ENTRIES = 1 << 20
"""More than any processor has; a shape that is larger is a slip of the finger."""

_SHAPE = re.compile(r"(\d{1,7})x(\d{1,7})")
_CACHE = re.compile(r"(?:([2-5])|nested):(\d{1,7})")


def geometry_key(geometry: Geometry) -> str:
    """What `geometry_named` calls ``geometry``, without its walk caches: ``zen4``, ``64x4``."""
    return geometry.name.lower().replace(" ", "")


def geometry_named(text: str) -> Geometry:
    """``unified``, ``skylake``, ``zen4``, ``tiny``, or arrays of ENTRIESxWAYS.

    ``64x4+1536x12`` is a first level of 64 entries in 4 ways for all sizes of pages, shared by data
    and fetches, over a second one; ``16x16`` is a first level alone.  Raises `BadChoice`, and
    `BadSize` for sets that are no power of two.
    """
    for one in GEOMETRIES:
        if geometry_key(one) == text.lower():
            return one
    shapes = [_SHAPE.fullmatch(part) for part in text.lower().split("+")]
    arrays = [ArrayShape(int(one[1]), int(one[2]), ALL_SIZES) for one in shapes if one]
    if len(arrays) != len(shapes) or len(arrays) > 2 or any(map(_too_large, arrays)):
        names = ", ".join(map(geometry_key, GEOMETRIES))
        raise BadChoice(
            f"TLB {text[:60]!r} is unknown; choose {names}, or write ENTRIESxWAYS for one level or "
            f"two, such as 64x4+1536x12, of at most {MOST_ENTRIES} entries"
        )
    name = "+".join(f"{one.entries}x{one.ways}" for one in arrays)
    return Geometry(name, data=(arrays[0],), fetch=(), second=tuple(arrays[1:]))


def _too_large(shape: ArrayShape) -> bool:
    return not 0 < shape.ways <= shape.entries <= MOST_ENTRIES


def walk_caches_key(geometry: Geometry) -> str:
    """What `with_walk_caches` calls the caches of ``geometry``: ``off``, ``on`` or their list."""
    if not geometry.walk_caches and geometry.nested is None:
        return "off"
    if (geometry.walk_caches, geometry.nested) == (SKYLAKE.walk_caches, SKYLAKE.nested):
        return "on"
    parts = [f"{level}:{entries}" for level, entries in geometry.walk_caches]
    return ",".join([*parts, *([f"nested:{geometry.nested.entries}"] if geometry.nested else [])])


def with_walk_caches(geometry: Geometry, text: str) -> Geometry:
    """``geometry`` with other paging-structure caches and another nested TLB.

    ``own`` leaves them, ``off`` takes them away, ``on`` gives Skylake's (`tlb.SKYLAKE`); or a list
    such as ``2:32,3:4,nested:16``: entries by the level of the entry that is cached (2 is the PDE
    cache), and a fully associative nested TLB.  Agile walks use the nested TLB alone (`mmu`).
    Raises `BadChoice`.
    """
    if text == "own":
        return geometry
    if text == "off":
        return replace(geometry, walk_caches=(), nested=None)
    if text == "on":
        return replace(geometry, walk_caches=SKYLAKE.walk_caches, nested=SKYLAKE.nested)
    found = [_CACHE.fullmatch(part) for part in text.split(",")]
    sizes = {one[1] or "nested": int(one[2]) for one in found if one}
    if len(sizes) != len(found) or not all(0 < size <= MOST_ENTRIES for size in sizes.values()):
        raise BadChoice(
            f"walk caches {text[:60]!r} are unknown; choose own, off or on, or write LEVEL:ENTRIES "
            "and nested:ENTRIES, such as 2:32,3:4,nested:16"
        )
    nested = sizes.pop("nested", 0)
    caches = tuple(sorted((int(level), size) for level, size in sizes.items()))
    shape = ArrayShape(nested, nested, ALL_SIZES) if nested else None
    return replace(geometry, walk_caches=caches, nested=shape)
