"""One access of a machine made for it: what is recorded, and what is refused before it runs."""

import pytest

from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.hardware.records import Kind, PageFault, Step, TlbFill, TlbLookup
from kvmlab.machine import Machine
from kvmlab.study.access import (
    Request,
    address_bits,
    cold_access,
    first_access,
    page_sizes,
    usual_address,
)


def kinds(records):
    return {type(record) for record in records}


def steps(recorded):
    return [record for record in recorded.records if isinstance(record, Step)]


@pytest.mark.parametrize(
    "levels, bits, sizes",
    [
        (2, 32, ["4K", "4M"]),
        (3, 32, ["4K", "2M"]),
        (4, 48, ["4K", "2M", "1G"]),
        (5, 57, ["4K", "2M", "1G"]),
    ],
)
def test_a_guest_of_so_many_levels_has_these_addresses_and_pages(levels, bits, sizes):
    assert address_bits(levels) == bits
    assert page_sizes(levels) == sizes
    assert usual_address(levels) < 1 << bits - 1 or levels < 4
    assert usual_address(levels) < 1 << bits


def test_the_walk_is_cold_and_what_came_before_is_kept_apart():
    recorded = first_access(Request(usual_address(4), kind=Kind.WRITE))
    first = recorded.records[0]
    assert isinstance(first, TlbLookup)
    assert (first.gva, first.where) == (usual_address(4), "miss")
    assert len(steps(recorded)) == 24
    assert PageFault not in kinds(recorded.records)
    assert PageFault in kinds(recorded.before.touch)
    assert recorded.before.earlier
    assert recorded.gva == usual_address(4)
    assert recorded.machine.chain(recorded.gva).hpa is not None


@pytest.mark.parametrize("mapping, kind", [("none", Kind.READ), ("read", Kind.FETCH)])
def test_an_access_that_no_mapping_allows_ends_in_a_page_fault(mapping, kind):
    recorded = first_access(Request(usual_address(4), mapping=mapping, kind=kind))
    assert PageFault in kinds(recorded.records)
    assert TlbFill not in kinds(recorded.records)
    assert (recorded.before is None) == (mapping == "none")  # what may be read was read first


@pytest.mark.parametrize("levels, page", [(2, "4M"), (3, "2M"), (4, "1G")])
def test_the_largest_page_of_a_guest_is_mapped_by_an_entry_above_the_last(levels, page):
    recorded = first_access(Request(usual_address(levels), guest_levels=levels, guest_page=page))
    assert min(one.level for one in steps(recorded) if one.table == "guest") > 1
    assert recorded.machine.chain(recorded.gva).hpa is not None


@pytest.mark.parametrize("levels", [2, 3])
def test_an_address_of_more_than_32_bits_is_refused_where_there_are_32(levels):
    with pytest.raises(BadAddress, match="0x100000000 does not fit in the 32 bits of"):
        first_access(Request(1 << 32, guest_levels=levels))
    machine = Machine(guest_levels=levels)
    machine.guest.switch(machine.guest.spawn("own"))
    with pytest.raises(BadAddress, match="does not fit"):
        cold_access(machine, Request(1 << 32))


@pytest.mark.parametrize("levels", [2, 3])
def test_pages_of_1g_back_no_guest_that_has_less_memory(levels):
    with pytest.raises(BadChoice, match=f"cannot back a guest of {levels} levels"):
        first_access(Request(usual_address(levels), guest_levels=levels, host_page="1G"))


def test_what_the_machine_refuses_is_refused():
    with pytest.raises(BadChoice, match="6 guest levels are not on offer"):
        first_access(Request(0, guest_levels=6))


def test_a_machine_of_ones_own_is_walked_as_it_stands_and_keeps_its_tap():
    told = []
    machine = Machine("native", guest_levels=3, tap=told.append)
    process = machine.guest.spawn("own")
    machine.guest.switch(process)
    process.mmap(0x40_0000, 0x1000)
    recorded = cold_access(machine, Request(0x40_0008))
    assert [one.level for one in steps(recorded)] == [2, 1]
    assert recorded.before is None
    assert machine.cpu.tap == told.append
    assert told[-len(recorded.records) :] == recorded.records
