"""All kinds of questions by name, in the order of the course."""

from types import MappingProxyType

from kvmlab.course import (
    about_addresses,
    about_balloon,
    about_cloud,
    about_entries,
    about_ept,
    about_faults,
    about_host,
    about_huge,
    about_nested,
    about_shadow,
    about_slots,
    about_stats,
    about_tlb,
    about_walks,
)
from kvmlab.course.problem import Kind

_ROOMS = (
    about_addresses,
    about_entries,
    about_walks,
    about_faults,
    about_slots,
    about_ept,
    about_tlb,
    about_shadow,
    about_huge,
    about_balloon,
    about_stats,
    about_cloud,
    about_host,
    about_nested,
)

KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {one.name: one for room in _ROOMS for one in room.KINDS}
)
