"""What is in CR3, with and without page-table isolation and PCIDs."""

import pytest

from kvmlab.base.errors import BadChoice, SegmentationFault
from kvmlab.guest.contexts import ENTRY_CODE
from kvmlab.hardware.records import ControlWrite, ExitReason, Kind, PageFault, TlbLookup, VmExit
from kvmlab.machine import Machine

AREA = 0x1000_0000
USER_ROOT, USER_PCID, NO_FLUSH = 1 << 12, 1 << 11, 1 << 63
DESIGNS = ["native", "ept", "shadow"]


def started(mmu="native", **options):
    records = []
    machine = Machine(mmu, tap=records.append, **options)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "64K")
    machine.guest.store(AREA, 1)
    records.clear()
    return machine, process, records


def loads(records):
    """Every value that was moved to CR3."""
    return [one.value for one in records if isinstance(one, ControlWrite)]


def kernel_load(records, process):
    """What was moved to CR3 when the kernel switched to ``process``."""
    roots = [one for one in loads(records) if one & ~(NO_FLUSH | 0xFFF) == process.root]
    return roots[0]


@pytest.mark.parametrize("kpti, expected", [(False, 0), (True, 2)])
def test_a_system_call_writes_cr3_twice_if_tables_are_isolated(kpti, expected):
    machine, process, records = started(kpti=kpti)
    machine.guest.syscall()
    assert loads(records) == [process.root, process.root | USER_ROOT][:expected]


@pytest.mark.parametrize("kpti, expected", [(False, 0), (True, 2)])
def test_a_page_fault_writes_cr3_twice_if_tables_are_isolated(kpti, expected):
    machine, _, records = started(kpti=kpti)
    machine.guest.store(AREA + 4096, 1)
    assert len([one for one in records if isinstance(one, PageFault)]) == 1
    assert len(loads(records)) == expected


@pytest.mark.parametrize("kpti, expected", [(False, 1), (True, 3)])
def test_a_context_switch_enters_loads_the_other_root_and_leaves(kpti, expected):
    machine, process, records = started(kpti=kpti)
    other = machine.guest.spawn("other")
    records.clear()
    machine.guest.switch(other)
    assert (
        loads(records)
        == {
            1: [other.root],
            3: [process.root, other.root, other.root | USER_ROOT],
        }[expected]
    )


@pytest.mark.parametrize("kpti, policy, exits", [(False, "naive", 0), (True, "today", 2)])
def test_under_shadow_paging_each_of_these_loads_exits(kpti, policy, exits):
    machine, _, records = started("shadow", kpti=kpti, policy=policy)
    machine.guest.syscall()
    machine.guest.syscall()
    records.clear()
    machine.guest.syscall()
    reasons = [one.reason for one in records if isinstance(one, VmExit)]
    assert reasons == [ExitReason.CR_ACCESS] * exits


def test_under_ept_none_of_them_does():
    machine, _, records = started("ept", kpti=True)
    machine.guest.syscall()
    records.clear()
    machine.guest.syscall()
    assert len(loads(records)) == 2
    assert not [one for one in records if isinstance(one, VmExit)]


@pytest.mark.parametrize("mmu", DESIGNS)
@pytest.mark.parametrize("levels", [4, 5])
def test_user_mode_finds_of_the_kernel_only_its_entry_code(mmu, levels):
    machine, process, _ = started(mmu, kpti=True, guest_levels=levels)
    guest = machine.guest
    with pytest.raises(SegmentationFault, match="error code 0x4"):  # not even present
        guest.load(guest.direct_map)
    with pytest.raises(SegmentationFault, match="error code 0x5"):  # there, and not for users
        guest.load(ENTRY_CODE)
    tables = guest.tables
    with guest.contexts.entered():
        assert tables.find(process.root, guest.direct_map)
        assert not tables.find(process.root | USER_ROOT, guest.direct_map)
        assert tables.find(process.root | USER_ROOT, AREA) == tables.find(process.root, AREA)


def test_the_kernels_root_cannot_execute_a_users_code():
    machine, process, _ = started(kpti=True)
    process.mmap(AREA * 2, "4K", execute=True)
    guest = machine.guest
    guest.touch(AREA * 2, Kind.FETCH)
    top = guest.tables.slot(process.root, AREA, 4)
    with guest.contexts.entered():
        assert guest.tables.read(top) >> 63
        assert not guest.tables.read(top | USER_ROOT) >> 63


def test_pcids_keep_translations_over_entry_and_return():
    for pcid in (False, True):
        machine, _, records = started(kpti=True, pcid=pcid)
        guest = machine.guest
        for _ in range(2):
            guest.syscall()
            guest.load(AREA)
        records.clear()
        guest.syscall()
        guest.load(AREA)
        values = loads(records)
        assert [bool(one & NO_FLUSH) for one in values] == [pcid] * 2
        assert [one & USER_PCID for one in values] == ([0, USER_PCID] if pcid else [0, 0])
        lookups = [one.where for one in records if isinstance(one, TlbLookup)]
        assert lookups.count("miss") == (0 if pcid else 1)  # the entry code is global


@pytest.mark.parametrize("kpti", [False, True])
def test_a_seventh_address_space_takes_the_pcid_of_the_first(kpti):
    machine, first, records = started(kpti=kpti, pcid=True)
    guest = machine.guest
    others = [guest.spawn(f"p{number}") for number in range(6)]
    for process in others[:5]:
        guest.switch(process)
    records.clear()
    guest.switch(first)
    assert kernel_load(records, first) & NO_FLUSH
    for process in others:
        guest.switch(process)
    records.clear()
    guest.switch(first)
    assert not kernel_load(records, first) & NO_FLUSH


@pytest.mark.parametrize("mmu", DESIGNS)
@pytest.mark.parametrize("kpti", [False, True])
@pytest.mark.parametrize("pcid", [False, True])
def test_what_is_unmapped_while_another_runs_is_not_found_later(mmu, kpti, pcid):
    machine, process, _ = started(mmu, kpti=kpti, pcid=pcid)
    guest = machine.guest
    other = guest.spawn("other")
    guest.switch(other)
    process.munmap(AREA)
    guest.switch(process)
    with pytest.raises(SegmentationFault):
        guest.load(AREA)
    process.mmap(AREA, "4K")
    assert guest.load(AREA) == 0
    process.munmap(AREA)  # and while it runs itself
    with pytest.raises(SegmentationFault):
        guest.load(AREA)


@pytest.mark.parametrize("mmu", DESIGNS)
@pytest.mark.parametrize("kpti", [False, True])
def test_a_forked_parent_with_pcids_does_not_write_through_old_translations(mmu, kpti):
    machine, _process, _ = started(mmu, kpti=kpti, pcid=True)
    guest = machine.guest
    child = guest.fork("child")
    guest.store(AREA, 2)
    guest.switch(child)
    assert guest.load(AREA) == 1


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("option", ["kpti", "pcid"])
def test_32_bit_guests_have_neither(levels, option):
    with pytest.raises(BadChoice, match="need 4 or 5 guest levels"):
        Machine("ept", guest_levels=levels, **{option: True})
