"""Agile paging: shadowed at rest, nested where the guest keeps writing, and back again."""

from collections import Counter

import pytest

from kvmlab.base.errors import BadChoice, SegmentationFault
from kvmlab.hardware.agile import SWITCH
from kvmlab.hardware.records import Kind, PageFault, Step, Verdict, VmExit
from kvmlab.kvm.agile_policy import AgilePolicy
from kvmlab.kvm.memslots import READONLY
from kvmlab.kvm.records import ModeSwitched, TlbFlushed, WriteTrapped
from kvmlab.machine import Machine

AREA = 0x7F12_3440_0000  # its pages share one leaf table; AREA + 2 MiB has another
WIDE = 2 << 20


def started(**options):
    records = []
    machine = Machine("agile", tap=records.append, **options)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, 4 * WIDE)
    machine.guest.store(AREA, 1)
    return machine, process, records


def references(machine, records, gva=AREA, kind=Kind.READ):
    """What one cold walk reads, by table, once all that it needs is filled in."""
    machine.cpu.flush_tlb()
    machine.guest.touch(gva, kind)
    machine.cpu.flush_tlb()
    records.clear()
    machine.guest.touch(gva, kind)
    return Counter(one.table for one in records if isinstance(one, Step))


def tables_of(machine, process, gva):
    """The guest frames of the tables on the way to ``gva``, from the root down."""
    tables, table = [], process.root
    for level in range(machine.guest.tables.format.levels, 0, -1):
        tables.append(table >> 12)
        slot = machine.guest.tables.slot(table, gva, level)
        table = machine.guest.tables.read(slot) & 0x000F_FFFF_FFFF_F000
    return tables


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("host_levels", [4, 5])
def test_the_higher_the_switch_the_longer_the_walk(levels, host_levels):
    """k + r + r*H: 4, 8, 12, 16, 20 for 4 and 4 levels (Gandhi et al., ISCA 2016)."""
    machine, process, records = started(guest_levels=levels, host_levels=host_levels)
    mmu = machine.vcpu.mmu
    assert references(machine, records) == {"shadow": levels}
    for nested, gfn in enumerate(reversed(tables_of(machine, process, AREA)), 1):
        mmu.nested.switch(gfn)
        machine.vm.go_on()
        found = references(machine, records)
        shadow = levels - nested
        assert found == +Counter(shadow=shadow, guest=nested, ept=nested * host_levels)
        switches = [one for one in records if isinstance(one, Step)]
        assert [one.verdict is Verdict.SWITCH for one in switches[:shadow]] == [
            row == shadow - 1 for row in range(shadow)
        ]


def test_before_the_guest_sets_wp_and_nx_all_is_nested():
    """No third root: even the guest's root is found through EPT, 24 references at most."""
    machine, _, records = started()
    boot = [one for one in records if isinstance(one, Step)]
    first = next(n for n, one in enumerate(boot) if one.table == "shadow")
    assert {one.table for one in boot[:first]} == {"guest", "ept"}
    assert machine.cpu.context.shadow is not None


def test_the_second_write_to_a_table_is_the_last_that_traps():
    machine, _, records = started()
    machine.tick()
    records.clear()
    for page in range(1, 40):
        machine.guest.store(AREA + page * 4096, page)
    assert len([one for one in records if isinstance(one, WriteTrapped)]) == 2
    assert [one.mode for one in records if isinstance(one, ModeSwitched)] == ["nested"]
    exits = Counter(one.reason.name for one in records if isinstance(one, VmExit))
    # Twice as under shadow paging (#PF, write, fill), then the table itself is made writable.
    assert exits["EXCEPTION"] == 2 * 3 + 1
    assert len([one for one in records if isinstance(one, PageFault)]) == 39
    assert references(machine, records) == {"shadow": 3, "guest": 1, "ept": 4}


def test_no_exit_where_the_guest_remaps_what_is_backed_and_nested():
    """Shadow paging needs 3 exits a page here, EPT none."""
    machine, process, records = started()
    for page in range(30):
        machine.guest.store(AREA + page * 4096, page)
    for page in range(2):  # the first ones were shadowed: EPT does not know them yet
        machine.guest.load(AREA + page * 4096)
    records.clear()
    process.mprotect(AREA, write=False)
    process.mprotect(AREA, write=True)
    for page in range(30):
        machine.guest.store(AREA + page * 4096, page)
    assert not [one for one in records if isinstance(one, VmExit)]


def test_a_table_at_rest_is_shadowed_again_by_the_scan():
    machine, _, records = started()
    for page in range(8):
        machine.guest.store(AREA + page * 4096, page)
    assert references(machine, records)["ept"] == 4
    machine.tick()  # it was written: only its dirty bit is taken
    machine.guest.load(AREA)
    assert references(machine, records)["ept"] == 4
    machine.guest.store(AREA + 8 * 4096, 8)  # a demand fault: written again
    machine.tick()
    assert references(machine, records)["ept"] == 4
    machine.tick()
    machine.guest.load(AREA)
    assert references(machine, records) == {"shadow": 4}
    assert len(machine.vcpu.mmu.nested) == 0


@pytest.mark.parametrize("threshold, scans", [(1, 1), (3, 2), (5, 3)])
def test_threshold_and_scans_are_what_the_policy_says(threshold, scans):
    machine, _, records = started()
    nested = machine.vcpu.mmu.nested
    nested._policy = AgilePolicy(write_threshold=threshold, clean_scans=scans)
    nested.scan()
    records.clear()
    page = 0
    while not len(nested):
        page += 1
        machine.guest.store(AREA + page * 4096, page)
    assert len([one for one in records if isinstance(one, WriteTrapped)]) == threshold
    machine.tick()
    for done in range(scans):
        assert len(nested) == 1, done
        machine.tick()
    assert len(nested) == 0


def test_the_switching_entry_carries_the_rights_of_the_entries_above_it():
    machine, process, _ = started()
    for page in range(8):
        machine.guest.store(AREA + page * 4096, page)
    gfn = tables_of(machine, process, AREA)[-1]
    pages = machine.vcpu.mmu.pages
    (slot,) = [one for one in pages.leaves_of(gfn) if pages.read(one) & SWITCH]
    host = machine.vm.look(gfn << 12).host.address
    assert pages.read(slot) & ~SWITCH == host | 0x27  # P, W, U, A and no XD
    assert slot.page.role.level == 2


def test_a_switch_in_the_kernels_half_keeps_users_out():
    """The rights of the upper entries are in the switching entry alone: it must lack U."""
    machine, process, records = started()
    kernel, pages = machine.guest.direct_map, machine.vcpu.mmu.pages
    gfn = tables_of(machine, process, kernel)[2]
    machine.vcpu.mmu.nested.switch(gfn)
    machine.vm.go_on()
    machine.cpu.access(kernel, Kind.READ)
    (slot,) = [one for one in pages.leaves_of(gfn) if pages.read(one) & SWITCH]
    assert not pages.read(slot) & 4
    records.clear()
    with pytest.raises(SegmentationFault):
        machine.guest.load(kernel)
    (fault,) = [one for one in records if isinstance(one, PageFault)]
    assert fault.error_code == 5  # present, user read
    assert not [one for one in records if isinstance(one, VmExit)]  # it went straight to the guest


def test_a_store_through_ept_to_a_shadowed_table_traps():
    """The kernel's direct map is walked nested here, so its stores to tables go through EPT."""
    machine, process, records = started()
    machine.vcpu.mmu.nested.switch(tables_of(machine, process, machine.guest.direct_map)[2])
    machine.vm.go_on()
    records.clear()
    process.mprotect(AREA, write=False)
    (trapped,) = [one for one in records if isinstance(one, WriteTrapped)]
    assert trapped.gpa >> 12 == tables_of(machine, process, AREA)[-1]
    reasons = {one.reason.name for one in records if isinstance(one, VmExit)}
    assert "EPT_VIOLATION" in reasons
    with pytest.raises(SegmentationFault):
        machine.guest.store(AREA, 2)


def test_a_store_to_a_shadowed_table_in_a_readonly_slot_is_nobodys():
    """As under EPT: the device model is asked, and the table stays what it was."""
    machine, process, records = started()
    table = tables_of(machine, process, AREA)[-1] << 12
    (slot,) = machine.vm.slots
    machine.vm.set_region(slot.slot, 0, 0, 0)
    for number, begin, end in ((0, 0, table), (2, table + 4096, slot.size)):
        machine.vm.set_region(number, begin, end - begin, slot.hva + begin)
    machine.vm.set_region(1, table, 4096, slot.hva + table, READONLY)
    machine.guest.load(AREA)
    machine.vcpu.mmu.nested.switch(tables_of(machine, process, machine.guest.direct_map)[2])
    machine.vm.go_on()
    machine.guest.load(AREA)
    assert machine.vcpu.mmu.pages.tracked(table >> 12)
    entry = machine.guest.tables.slot(table, AREA, 1)
    before = machine.guest.tables.read(entry)
    records.clear()
    machine.guest.tables.write(entry, 0)
    assert not [one for one in records if isinstance(one, WriteTrapped)]
    assert machine.guest.tables.read(entry) == before


def test_what_is_below_a_switched_table_is_shadowed_no_more():
    machine, process, records = started()
    pages = machine.vcpu.mmu.pages
    *_, upper, leaf = tables_of(machine, process, AREA)
    assert pages.shadowing(leaf)
    machine.vcpu.mmu.nested.switch(upper)
    machine.vm.go_on()
    assert not pages.shadowing(upper) + pages.shadowing(leaf)
    records.clear()
    for page in range(1, 9):
        machine.guest.store(AREA + page * 4096, page)
    assert not [one for one in records if isinstance(one, WriteTrapped)]


def test_tables_of_the_shadow_part_are_read_only_in_ept_too():
    machine, process, _ = started()
    for page in range(8):
        machine.guest.store(AREA + page * 4096, page)
    mmu = machine.vcpu.mmu
    for gfn in [*tables_of(machine, process, AREA)[:-1]]:
        assert mmu.pages.tracked(gfn)
        entry = mmu.ept.direct.tree.find(gfn << 12)
        assert not entry.spte & 7 or (entry.level == 1 and not entry.spte & 2)
        for leaf in mmu.pages.leaves_of(gfn):
            assert not mmu.pages.read(leaf) & 2


def test_a_table_that_two_entries_lead_to_is_switched_with_the_one_above_it():
    machine, process, _ = started()
    directory = tables_of(machine, process, AREA)[2]
    tables = machine.guest.tables
    entry = tables.read(tables.slot(directory << 12, AREA, 2))
    tables.write(tables.slot(directory << 12, AREA + WIDE, 2), entry)
    assert (machine.cpu.load(AREA), machine.cpu.load(AREA + WIDE)) == (1, 1)
    mmu, before = machine.vcpu.mmu, len(machine.vcpu.mmu.pages)
    mmu.nested.switch(directory)
    machine.vm.go_on()
    assert len(mmu.pages) == before - 2  # the directory and the one leaf table, each once
    assert (machine.cpu.load(AREA), machine.cpu.load(AREA + WIDE)) == (1, 1)


def test_a_scan_that_finds_nothing_to_do_flushes_nothing():
    machine, process, records = started()
    nested = machine.vcpu.mmu.nested
    records.clear()
    machine.tick()
    assert not [one for one in records if isinstance(one, TlbFlushed)]
    nested.switch(tables_of(machine, process, AREA)[-1])
    machine.vm.go_on()
    records.clear()
    machine.tick()  # it rests, and comes back
    assert [one.why for one in records if isinstance(one, TlbFlushed)] == ["scan"]


def test_32_bit_guests_are_refused():
    with pytest.raises(BadChoice, match="agile paging shadows guests of 4 or 5 levels, not of 3"):
        Machine("agile", guest_levels=3)


def test_table_bytes_count_both_kinds_of_tables():
    machine, _, _ = started()
    assert machine.table_bytes()["ept"] == machine.vcpu.mmu.ept.table_frames * 4096 > 0
    assert machine.table_bytes()["shadow"] == len(machine.vcpu.mmu.pages) * 4096 > 0
