"""Dirty logs: the pages that the guest wrote, however the MMU notices.

What must be reported is stated a second time: the pages that the guest stored to, by the test's
own account, and the pages of tables that the processor or KVM's walker wrote, by their records.
That a read may report a page too, where it maps it writable, was measured on a live KVM (shadow
paging, Linux 6.18): reading a page whose PTE has W and D sets its bit, without D it does not.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.hardware.records import AccessedDirty, ExitReason, PmlLogged, Step, VmExit
from kvmlab.kvm.dirty_log import pages_in
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.kvm.records import Collapsed, PmlDrained, Split
from tests.small_guest import DESIGNS, FIRST, LARGE, PAGES, PT, SHADOW, SIZE, WINDOW, SmallGuest

FIRST_GFN = FIRST >> 12
SMALL = 8  # pages that a random program uses
ACCESSED, DIRTY = 1 << 5, 1 << 6


def warm(design, pages=SMALL, **options):
    """A guest whose pages, tables and window are mapped writable, with a log that is empty."""
    guest = SmallGuest(design, **options)
    for page in range(pages):
        guest.cpu.store(page << 12, page)
    for page in range(16):
        guest.cpu.load(WINDOW + (page << 12))
    guest.cpu.store(WINDOW + PT + 8 * 511, 0)
    for page in range(pages):
        guest.cpu.load(page << 12)
    guest.log()
    guest.vm.get_dirty_log(0)
    guest.records.clear()
    return guest


def dirty(guest):
    return set(pages_in(guest.vm.get_dirty_log(0)))


def tables_written(guest, design):
    """Frames of guest tables that were written, by the processor's and the walker's records.

    Where EPT keeps A and D, and always on AMD, reading a table counts as writing it.
    """
    if design in SHADOW or "eptad=0" in design:
        where = {guest.vm.look(gfn << 12).host.address >> 12: gfn for gfn in range(16)}
        marked = [one.hpa >> 12 for one in guest.of(AccessedDirty) if one.table == "guest"]
        return {where[pfn] for pfn in marked}
    return {one.address >> 12 for one in guest.of(Step) if one.table == "guest"}


accesses = st.lists(st.tuples(st.sampled_from("rrwwfg"), st.integers(0, SMALL - 1)), max_size=20)


@pytest.mark.parametrize("design", DESIGNS)
@given(accesses)
@settings(max_examples=20)
def test_the_log_names_the_pages_that_were_written_and_no_others(design, program):
    guest = warm(design)
    stored = set()
    for deed, page in [*program, ("g", 0)]:
        if deed == "w":
            guest.cpu.store(page << 12, 7)
            stored.add(FIRST_GFN + page)
        elif deed == "r":
            guest.cpu.load(page << 12)
        elif deed == "f":
            guest.cpu.flush_tlb()
        else:
            assert dirty(guest) == stored | tables_written(guest, design)
            stored.clear()
            guest.records.clear()


edits = st.lists(st.tuples(st.sampled_from("rrwwadg"), st.integers(0, SMALL - 1)), max_size=20)


@pytest.mark.parametrize("design", DESIGNS)
@given(edits)
@settings(max_examples=20)
def test_no_write_is_missed_when_the_guest_edits_its_tables(design, program):
    """A refilled page is reported if it was read: its entry is writable.  Nothing else is."""
    guest = warm(design)
    stored, read = set(), set()
    for deed, page in [*program, ("g", 0)]:
        if deed == "w":
            guest.cpu.store(page << 12, 7)
            stored.add(FIRST_GFN + page)
        elif deed == "r":
            guest.cpu.load(page << 12)
            read.add(FIRST_GFN + page)
        elif deed == "g":
            found, least = dirty(guest), stored | tables_written(guest, design)
            assert least <= found <= least | read | {PT >> 12}
            stored.clear(), read.clear(), guest.records.clear()
        else:
            slot = WINDOW + PT + 8 * page
            guest.cpu.store(slot, guest.cpu.load(slot) & ~(ACCESSED if deed == "a" else DIRTY))
            stored.add(PT >> 12)
            guest.cpu.forget(page << 12, "INVLPG")
            guest.vcpu.handle(VmExit(ExitReason.INVLPG, page << 12, page << 12, 0)) if (
                design in SHADOW
            ) else None


@pytest.mark.parametrize("design", DESIGNS)
def test_each_page_costs_one_exit_a_harvest_and_none_with_pml(design):
    guest = warm(design, pages=PAGES)
    for exits in (1, 1):
        for page in range(PAGES):
            guest.cpu.load(page << 12)
        for expected in (exits, 0):
            guest.records.clear()
            for page in range(PAGES):
                guest.cpu.store(page << 12, 1)
            left = [one for one in guest.of(VmExit) if one.gpa >> 12 >= FIRST_GFN or not one.gpa]
            logs = design in ("ept", "ept eager_page_split=0")
            assert len(left) == (0 if logs else expected * PAGES)
        assert dirty(guest) >= set(range(FIRST_GFN, FIRST_GFN + PAGES))


@pytest.mark.parametrize("design", DESIGNS)
def test_what_is_filled_beside_a_fault_does_not_look_written(design):
    guest = SmallGuest(design)
    for page in range(PAGES):
        guest.vm.back(FIRST + (page << 12))  # at hand for a prefetch
    guest.log()
    guest.cpu.load(8 << 12)
    assert dirty(guest) & set(range(FIRST_GFN, FIRST_GFN + PAGES)) == {FIRST_GFN + 8}


def test_a_full_log_of_the_processor_exits_with_reason_62_and_loses_nothing():
    guest = SmallGuest("ept")
    pages = range(1 << 20, SIZE, 4096)
    for gpa in pages:
        guest.cpu.store(LARGE + gpa, 1)
    guest.log()
    guest.vm.get_dirty_log(0)
    guest.records.clear()
    for gpa in pages:
        guest.cpu.store(LARGE + gpa, 2)
    exits = {one.reason for one in guest.of(VmExit)}
    assert exits == {ExitReason.PML_FULL}
    full = [one for one in guest.of(PmlDrained) if one.entries == 512]
    assert len(full) == len(guest.of(VmExit)) == (len(guest.of(PmlLogged)) - 1) // 512
    assert dirty(guest) >= {gpa >> 12 for gpa in pages}


@pytest.mark.parametrize("design", DESIGNS)
def test_large_leaves_are_small_while_writes_are_logged_and_large_again_after(design):
    guest = SmallGuest(design, host_shift=21)
    places = [LARGE + (4 << 20), LARGE + (6 << 20)]
    for place in places:
        guest.cpu.store(place, 1)
    many = guest.statistics.values()["pages_2m"]
    assert many >= 2
    guest.records.clear()
    guest.log()
    eager = design not in SHADOW and "eager_page_split=0" not in design
    assert len(guest.of(Split)) == (many if eager else 0)
    guest.vm.get_dirty_log(0)
    for place in places:
        guest.cpu.store(place + 4096, 2)
    assert {(4 << 20) + 4096 >> 12, (6 << 20) + 4096 >> 12} <= dirty(guest)
    assert not {4 << 20 >> 12, 6 << 20 >> 12} & dirty(guest)
    assert guest.statistics.values()["pages_2m"] < many - 1
    guest.log(False)
    guest.records.clear()
    for place in places:
        guest.cpu.store(place, 3)
        assert guest.cpu.load(place + 4096) == 2
    assert guest.statistics.values()["pages_2m"] >= 2
    with pytest.raises(BadChoice, match="no dirty log"):
        guest.vm.get_dirty_log(0)


def test_recovered_large_leaves_are_made_at_once_without_a_fault():
    guest = SmallGuest("ept", host_shift=21)
    guest.cpu.store(LARGE + (4 << 20), 1)
    guest.log()
    tables = guest.mmu.table_frames
    guest.records.clear()
    guest.log(False)
    assert guest.of(Collapsed)
    assert guest.mmu.table_frames < tables
    guest.cpu.store(LARGE + (4 << 20), 1)
    assert guest.of(VmExit) == []


@pytest.mark.parametrize("design", DESIGNS)
def test_by_hand_only_what_was_read_is_cleared(design):
    """KVM_CLEAR_DIRTY_LOG: a page written between reading and clearing is not lost."""
    guest = warm(design)
    guest.vm.logs.manual_protect = True
    guest.cpu.store(0x1000, 1)
    read = guest.vm.get_dirty_log(0)
    assert guest.vm.get_dirty_log(0) == read
    guest.cpu.store(0x2000, 1)
    first = FIRST_GFN & ~63
    guest.vm.clear_dirty_log(0, first, 64, read[first // 8 :])
    found = dirty(guest)
    assert FIRST_GFN + 1 not in found
    assert FIRST_GFN + 2 in found
    guest.cpu.store(0x1000, 2)
    assert FIRST_GFN + 1 in dirty(guest)


def test_a_range_that_is_no_range_of_longs_is_refused():
    guest = warm("ept")
    with pytest.raises(BadChoice, match="manual_protect"):
        guest.vm.clear_dirty_log(0, 0, 64, bytes(8))
    guest.vm.logs.manual_protect = True
    pages = SIZE >> 12
    for first, count, bits in ((1, 64, 8), (0, 63, 8), (0, 64, 7), (pages, 64, 8), (-64, 64, 8)):
        with pytest.raises(BadSize, match="multiples of 64"):
            guest.vm.clear_dirty_log(0, first, count, bytes(bits))
    guest.vm.clear_dirty_log(0, 0, pages, bytes(pages // 8))


@pytest.mark.parametrize("design", DESIGNS)
def test_a_log_ends_with_its_slot_and_moves_with_it(design):
    guest = SmallGuest(design)
    hva = guest.process.mmap(1 << 20)
    guest.vm.set_region(1, 64 << 20, 1 << 20, hva, LOG_DIRTY_PAGES)
    assert pages_in(guest.vm.get_dirty_log(1)) == []
    guest.vm.mark_dirty((64 << 20) + 0x5000)
    guest.vm.set_region(1, 128 << 20, 1 << 20, hva, LOG_DIRTY_PAGES)
    assert pages_in(guest.vm.get_dirty_log(1)) == [5]
    guest.vm.set_region(1, 0, 0, 0)
    with pytest.raises(BadChoice, match="memslot 1"):
        guest.vm.get_dirty_log(1)
    assert guest.vm.logs.listeners


@pytest.mark.parametrize("design", DESIGNS)
def test_the_processor_stops_to_log_when_the_last_logged_slot_is_deleted(design):
    """kvm_mmu_slot_apply_flags() counts slots with a log, whatever becomes of them."""
    guest = SmallGuest(design)
    hva = guest.process.mmap(1 << 20)
    frames = guest.host.buddy.free_frames
    guest.vm.set_region(1, 64 << 20, 1 << 20, hva, LOG_DIRTY_PAGES)
    guest.vm.set_region(1, 0, 0, 0)
    assert guest.vcpu.vmcs.pml is None
    assert guest.host.buddy.free_frames >= frames
    guest.records.clear()
    guest.cpu.store(0x1000, 1)
    assert not guest.of(PmlLogged)
