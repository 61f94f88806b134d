"""Leaves of the direct map: how large they are, when they are split, collapsed, aged, protected."""

import pytest

from kvmlab.hardware.records import Kind, VmExit
from kvmlab.kvm.dirty_log import pages_in
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES, READONLY
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.records import FastFault, Split
from kvmlab.qemu.machine import reserve_huge
from tests.small_guest import (
    DESIGNS,
    DIRECT,
    FIRST,
    LARGE,
    PAGES,
    ROOT,
    SHADOW,
    SIZE,
    TABLE,
    WINDOW,
    Fault,
    SmallGuest,
)

PLACE = 4 << 20  # nothing but data lies there
NX = {"parameters": Parameters(nx_huge_pages=True)}


def level(guest, gpa):
    return guest.mmu.direct.tree.find(gpa).level


# -- how large a leaf may be ----------------------------------------------------------------


@pytest.mark.parametrize("design", DIRECT)
@pytest.mark.parametrize("host_shift, expected", [(12, 1), (21, 2)])
def test_a_leaf_is_as_large_as_the_hosts_page(design, host_shift, expected):
    guest = SmallGuest(design, host_shift=host_shift)
    guest.cpu.load(LARGE + PLACE)
    assert level(guest, PLACE) == expected


@pytest.mark.parametrize("design", DIRECT)
def test_no_leaf_is_large_across_the_edge_of_a_slot_or_where_frames_are_not_congruent(design):
    guest = SmallGuest(design, host_shift=21)
    reserve_huge(guest.host, SIZE + (8 << 20), 21)
    hva = guest.process.mmap(8 << 20, 21)
    guest.vm.set_region(1, 64 << 20, 3 << 20, hva)  # ends inside its second large page
    guest.vm.set_region(2, 128 << 20, 2 << 20, hva + (4 << 20) + 4096)
    for gpa, expected in ((64 << 20, 2), (66 << 20, 1), (128 << 20, 1)):
        guest.mmu.direct.fill(gpa, guest.vm.back(gpa), Kind.READ)
        assert level(guest, gpa) == expected, hex(gpa)


def test_a_1g_leaf_needs_a_1g_page_of_the_host():
    guest = SmallGuest("ept eager_page_split=0", ram=4 << 30)
    reserve_huge(guest.host, 2 << 30, 30)
    hva = guest.process.mmap(2 << 30, 30)
    guest.vm.set_region(1, 2 << 30, 2 << 30, hva)
    guest.mmu.direct.fill(2 << 30, guest.vm.back(2 << 30), Kind.READ)
    assert level(guest, 2 << 30) == 3
    assert guest.statistics.values()["pages_1g"] == 1
    guest.vm.set_region(1, 2 << 30, 2 << 30, hva, LOG_DIRTY_PAGES)
    few = guest.statistics.values()["pages_4k"]
    guest.mmu.direct.fill(2 << 30, guest.vm.back(2 << 30), Kind.WRITE)
    values = guest.statistics.values()
    assert (values["pages_1g"], values["pages_2m"], values["pages_4k"]) == (0, 511, few + 512)
    guest.vm.set_region(1, 2 << 30, 2 << 30, hva)
    assert level(guest, 2 << 30) == 3


# -- when the host's pages change -----------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_leaves_follow_when_the_host_collapses_and_splits_its_pages(design):
    """The notifier drops what was there; the next fault finds the new size."""
    guest = SmallGuest(design)
    hva, huge = guest.hva + PLACE, guest.process.advise_huge
    assert leaves_made(guest, "pages_4k")
    huge(hva, wanted=True)
    while guest.process.translate(hva).shift == 12:
        guest.host.khugepaged.scan()
    assert guest.of(VmExit) == []
    assert leaves_made(guest, "pages_2m")
    guest.process.madvise_dontneed(hva + 8192, 4096)
    assert guest.of(VmExit) == []
    assert leaves_made(guest, "pages_4k")
    assert guest.cpu.load(LARGE + PLACE + 8192) == 0


def leaves_made(guest, kind):
    """Whether touching two pages made leaves of a kind; what they held is still there."""
    before, held = guest.statistics.values(), guest.process.translate(guest.hva + PLACE)
    if held:
        assert guest.cpu.load(LARGE + PLACE) == 77
    guest.cpu.store(LARGE + PLACE, 77)
    guest.cpu.store(LARGE + PLACE + 4096, 78)
    guest.records.clear()
    return guest.statistics.values()[kind] > before[kind]


@pytest.mark.parametrize("design", DIRECT)
def test_a_large_leaf_in_the_place_of_a_table_gives_the_tables_frame_back(design):
    guest = SmallGuest(design, host_shift=21)
    guest.log()
    guest.cpu.store(LARGE + PLACE, 1)
    tables, free = guest.mmu.table_frames, guest.host.buddy.free_frames
    guest.log(False)
    guest.cpu.store(LARGE + PLACE, 2)
    assert level(guest, PLACE) == 2
    pml = int(design in ("ept", "ept eager_page_split=0"))
    assert guest.host.buddy.free_frames - free == tables - guest.mmu.table_frames + pml > pml


# -- the mitigation of iTLB multihit --------------------------------------------------------


def test_a_fetch_splits_a_large_leaf_that_must_not_be_executable():
    guest = SmallGuest("ept", host_shift=21, **NX)
    guest.cpu.load(LARGE + PLACE)
    assert level(guest, PLACE) == 2
    assert guest.statistics.values()["nx_lpage_splits"] == 0
    guest.cpu.access(LARGE + PLACE, Kind.FETCH)
    assert level(guest, PLACE) == 1
    assert guest.statistics.values()["nx_lpage_splits"] == 1
    assert len(guest.of(Split)) == 1
    all_executable = guest.counted(lambda: guest.cpu.access(LARGE + PLACE + 4096, Kind.FETCH))
    assert all_executable == {}
    assert guest.statistics.values()["nx_lpage_splits"] == 1


def test_what_was_split_is_recovered_a_sixtieth_a_period():
    guest = SmallGuest("ept", host_shift=21, **NX)
    for page in range(2, 16):
        guest.cpu.access(LARGE + (page << 21), Kind.FETCH)
    assert guest.statistics.values()["nx_lpage_splits"] == 14
    guest.cpu.access(LARGE + PLACE, Kind.FETCH)  # of all pages the TLB has this one for certain
    assert guest.mmu.direct.nx.recover() == 1
    assert guest.statistics.values()["nx_lpage_splits"] == 13
    again = guest.counted(lambda: guest.cpu.load(LARGE + PLACE))  # no TLB has the small page
    assert again["pf_fixed"] == 1
    assert level(guest, PLACE) == 2


def test_without_the_mitigation_large_leaves_are_executable():
    guest = SmallGuest("ept", host_shift=21)
    guest.cpu.access(LARGE + PLACE, Kind.FETCH)
    assert level(guest, PLACE) == 2


# -- faults without the lock ----------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_a_write_to_a_protected_page_is_served_without_the_lock_by_direct_mmus_alone(design):
    guest = SmallGuest(design)
    guest.cpu.store(0, 1)
    guest.log()
    guest.vm.get_dirty_log(0)
    counted = guest.counted(lambda: guest.cpu.store(0, 2))
    if design in ("ept", "ept eager_page_split=0"):  # the processor logs by itself
        assert "pf_taken" not in counted
    else:
        assert counted["pf_taken"] == counted["pf_fixed"] >= 1
        assert counted.get("pf_fast", 0) == (0 if design in SHADOW else counted["pf_taken"])


def test_no_large_leaf_is_made_writable_while_writes_are_logged():
    guest = SmallGuest("ept pml=0 eager_page_split=0", host_shift=21)
    guest.cpu.store(LARGE + PLACE, 1)
    guest.log()
    guest.records.clear()
    guest.cpu.store(LARGE + PLACE, 1)
    assert level(guest, PLACE) == 1
    assert PLACE >> 12 not in {one.gfn for one in guest.of(FastFault)}


# -- ageing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_pages_are_young_once_the_guest_used_them(design):
    guest = SmallGuest(design)
    vm, hva = guest.vm, guest.hva + FIRST
    for page in range(PAGES):
        guest.cpu.store(page << 12, page)
    assert vm.clear_flush_young(hva, hva + (PAGES << 12))
    assert not vm.test_young(hva, hva + (PAGES << 12))
    for page in (3, 40):
        guest.cpu.load(page << 12)
    young = {page for page in range(PAGES) if vm.test_young(*here(hva, page))}
    assert {3, 40} <= young
    assert len(young) <= (2 if design in DIRECT else 16)  # a fill of the shadow MMU may be large
    assert vm.clear_flush_young(*here(hva, 3))
    assert not vm.clear_flush_young(*here(hva, 3))
    assert vm.test_young(*here(hva, 40))
    assert [guest.cpu.load(page << 12) for page in range(PAGES)] == list(range(PAGES))


def here(hva, page):
    return hva + (page << 12), hva + (page + 1 << 12)


def test_without_a_bits_an_aged_page_costs_a_fault_and_with_them_none():
    for design, exits in (("ept", 0), ("npt", 0), ("ept eptad=0", 1)):
        guest = SmallGuest(design)
        guest.cpu.store(0, 1)
        guest.vm.clear_flush_young(guest.hva + FIRST, guest.hva + FIRST + 4096)
        counted = guest.counted(lambda g=guest: g.cpu.load(0))
        assert counted.get("pf_fast", 0) == counted.get("exits", 0) == exits
        guest.cpu.store(0, 2)
        assert guest.cpu.load(0) == 2


@pytest.mark.parametrize("design", DIRECT)
def test_an_aged_page_goes_with_its_frame(design):
    guest = SmallGuest(design)
    guest.cpu.store(0, 7)
    hva = guest.hva + FIRST
    guest.vm.clear_flush_young(hva, hva + 4096)
    guest.process.madvise_dontneed(hva, 4096)
    assert guest.cpu.load(0) == 0


# -- guest tables in a READONLY slot --------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("flags", [TABLE, TABLE & ~0x60])
def test_accessed_and_dirty_bits_of_tables_in_a_readonly_slot_are_left_alone(design, flags):
    """What KVM's emulator stores instead of the processor is dirty too."""
    guest = SmallGuest(design)
    hva = guest.process.mmap(1 << 20)
    at, gva = 64 << 20, 3 << 39
    guest.vm.set_region(1, at, 1 << 20, hva, READONLY)
    words = {at: at + 4096 | flags, at + 4096: at + 8192 | flags, at + 8192: FIRST | flags}
    words |= {at + 8192 + 8: PLACE | flags, at + 8192 + 16: (200 << 20) | flags}
    for gpa, word in words.items():
        guest.vm.write(gpa, word.to_bytes(8, "little"))
    guest.cpu.store(WINDOW + ROOT + 8 * 3, at | TABLE)
    guest.vm.write(FIRST, (0x1234).to_bytes(8, "little"))
    assert guest.cpu.load(gva) == 0x1234
    guest.log()
    guest.cpu.store(gva + 4096, 0x77)
    assert PLACE >> 12 in pages_in(guest.vm.get_dirty_log(0))
    assert guest.cpu.load(LARGE + PLACE) == guest.cpu.load(gva + 4096) == 0x77
    assert guest.cpu.load(gva + 8192) == (1 << 64) - 1  # in no slot
    with pytest.raises(Fault):
        guest.cpu.load(gva + (3 << 12))
    for gpa, word in words.items():
        assert guest.vm.ram.load(guest.vm.look(gpa).host.address) == word
