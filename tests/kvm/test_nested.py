"""Nested guests: what an exit of L2 costs L0, and how EPT02 stays true to EPT12."""

from collections import Counter

import pytest

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.hardware.records import ExitReason, Step, VmEntry, VmExit
from kvmlab.kvm.dirty_log import pages_in
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.kvm.records import ExitToL1, WriteTrapped
from kvmlab.machine import Machine

AREA = 0x7F12_3440_0000
LEAF = 0x000F_FFFF_FFFF_F000


def started(mmu, **options):
    records = []
    machine = Machine(mmu, tap=records.append, **options)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "4M", page=machine.guest_page)
    machine.guest.store(AREA, 1)  # the tables are there
    return machine, process, records


def exits(records):
    return Counter(one.reason.name for one in records if isinstance(one, VmExit))


def traps_of_a_first_touch(mmu, **options):
    """Exits to L0 of one demand fault of L2, and how many trapped table writes were among them."""
    machine, _, records = started(mmu, **options)
    machine.guest.store(AREA + 4096, 2)  # warm: L1 has its frames at hand
    records.clear()
    machine.guest.store(AREA + 2 * 4096, 3)
    written = len([one for one in records if isinstance(one, WriteTrapped)])
    return exits(records), written, records


def test_ept_on_ept_needs_the_traps_that_pvm_counts():
    """PVM, SOSP 2023: n + 2 traps and one more, n tables of EPT12 being written; here one is.

    EPT violation, the write to EPT12, VMRESUME; then the violation that L0 serves itself.
    """
    found, written, records = traps_of_a_first_touch("l2-ept")
    assert (written, [one.reason for one in records if isinstance(one, ExitToL1)]) == (
        1,
        ["EPT_VIOLATION"],
    )
    assert found == {"EPT_VIOLATION": written + 2, "VMRESUME": 1}


def test_shadow_on_ept_needs_the_traps_that_pvm_counts():
    """PVM, SOSP 2023: 2n + 2 traps and two more, n guest tables being written; here one is.

    #PF, table write and fill, each handed to L1, and a VMRESUME for each.  The violation is no
    part of it: L0 gives L1 the memory that it gave to L2.
    """
    found, written, _ = traps_of_a_first_touch("l2-shadow")
    assert written == 1
    assert found == {"EXCEPTION": written + 2, "VMRESUME": written + 2, "EPT_VIOLATION": 1}


def test_without_vmcs_shadowing_each_vmread_and_vmwrite_exits():
    spared, _, _ = traps_of_a_first_touch("l2-ept")
    naive, _, records = traps_of_a_first_touch("l2-ept", vmcs_shadowing=False)
    assert not spared["VMREAD"] + spared["VMWRITE"]
    assert naive["VMREAD"] >= 4  # reason, qualification and two addresses
    extra = naive["VMREAD"] + naive["VMWRITE"]
    assert naive.total() == spared.total() + extra
    one, _, _ = traps_of_a_first_touch("l2-shadow", vmcs_shadowing=False)
    assert one["VMWRITE"] > 0 < one["VMREAD"]
    assert len([one for one in records if isinstance(one, ExitToL1)]) == 1


def test_every_exit_has_its_entry():
    _, _, records = traps_of_a_first_touch("l2-shadow", vmcs_shadowing=False)
    kinds = Counter(type(one) for one in records)
    assert kinds[VmExit] == kinds[VmEntry] > 0


@pytest.mark.parametrize("mmu", ["l2-ept", "l2-shadow"])
@pytest.mark.parametrize(
    "guest_page, host_page, references", [("4K", "4K", 24), ("4K", "2M", 19), ("2M", "2M", 15)]
)
def test_two_dimensions_are_walked_not_three(mmu, guest_page, host_page, references):
    machine, _, records = started(mmu, guest_page=guest_page, host_page=host_page)
    machine.cpu.flush_tlb()
    records.clear()
    machine.guest.load(AREA)
    tables = [one.table for one in records if isinstance(one, Step)]
    assert len(tables) == references
    assert set(tables) == {"ept", "guest" if mmu == "l2-ept" else "shadow"}


def walk_by_hand(load, table, levels, address):
    """The leaf entry, its level and where it is, in tables of 512 entries."""
    for level in range(levels, 0, -1):
        slot = table + (address >> 12 + 9 * (level - 1) & 511) * 8
        entry = load(slot)
        if not entry & 7:
            return 0, level, slot
        if level == 1 or entry & 0x80:
            return entry, level, slot
        table = entry & LEAF
    raise AssertionError


def composed(machine, gpa):
    """Where an L2 address leads by EPT12 and then by L0's memslots and page table."""
    quiet, vcpu = machine.l1.ram, machine.vcpu
    quiet.quiet = True
    entry, level, _ = walk_by_hand(quiet.load, vcpu.vmcs12.eptp & LEAF, 4, gpa)
    quiet.quiet = False
    if not entry & 1:
        return None
    inside = (1 << 12 + 9 * (level - 1)) - 1
    backing = machine.qemu.vm.look((entry & LEAF & ~inside) | gpa & inside)
    return backing.host.address if backing else None


def test_ept02_is_ept12_and_then_ept01():
    machine, process, _ = started("l2-ept")
    for page in range(40):
        machine.guest.store(AREA + page * 4096, page)
    process.munmap(AREA)
    root, mapped = machine.vcpu.vmcs02.eptp & LEAF, 0
    for gpa in range(0, 64 << 20, 4096):
        entry, level, _ = walk_by_hand(machine.ram.load, root, 4, gpa)
        if entry & 1:
            assert level == 1
            assert entry & LEAF == composed(machine, gpa), hex(gpa)
            mapped += 1
    assert mapped > 40


def test_tables_of_ept12_are_read_only_to_l1_and_its_stores_drop_what_was_merged():
    machine, _, records = started("l2-ept")
    machine.guest.store(AREA, 7)
    l1, l0 = machine.l1, machine.vcpu
    gpa = machine.chain(AREA).gpa & ~0xFFF
    l1.ram.quiet = True
    entry, _, slot = walk_by_hand(l1.ram.load, l0.vmcs12.eptp & LEAF, 4, gpa)
    l1.ram.quiet = False
    assert l0.merged.pages.tracked(slot >> 12)
    records.clear()
    l1.ram.store(slot, entry & ~2)  # L1 takes W away
    assert exits(records)["EPT_VIOLATION"] == 1
    assert not walk_by_hand(machine.ram.load, l0.vmcs02.eptp & LEAF, 4, gpa)[0]
    assert machine.guest.load(AREA) == 7
    records.clear()
    machine.guest.store(AREA, 8)  # denied by EPT12: L1 must see it, and maps it again
    (seen,) = [one.reason for one in records if isinstance(one, ExitToL1)]
    assert seen == "EPT_VIOLATION"
    assert machine.guest.load(AREA) == 8


@pytest.mark.parametrize(
    "entry, reason, qualification",
    [
        (0, ExitReason.EPT_VIOLATION, 0x181),  # absent: the read, linear, final, no rights
        (2, ExitReason.EPT_MISCONFIG, 0),  # W without R
        (4, ExitReason.EPT_MISCONFIG, 0),  # X without R: L0 offers L1 no execute-only pages
        (0x10 | 7, ExitReason.EPT_MISCONFIG, 0),  # memory type 2
    ],
)
def test_l1_sees_what_ept12_calls_for(entry, reason, qualification):
    machine, _, _ = started("l2-ept")
    machine.guest.store(AREA, 7)
    l1, l0 = machine.l1, machine.vcpu
    gpa = machine.chain(AREA).gpa
    l1.ram.quiet = True
    old, _, slot = walk_by_hand(l1.ram.load, l0.vmcs12.eptp & LEAF, 4, gpa)
    l1.ram.quiet = False
    l1.ram.store(slot, old & LEAF | entry if entry else 0)
    seen, handler = [], l0.vmcs12.host_entry

    def l1_repairs(exit_):
        seen.append((exit_.reason, exit_.qualification, exit_.gpa))
        l1.ram.store(slot, old)

    l0.vmcs12.host_entry = l1_repairs
    assert machine.guest.load(AREA) == 7
    l0.vmcs12.host_entry = handler
    assert seen == [(reason, qualification, gpa)]


def test_the_host_takes_a_page_of_l2_back():
    """L0's notifier drops it from EPT01 and from EPT02; L2 finds zeroes, as L1's memory is."""
    for mmu in ("l2-ept", "l2-shadow"):
        machine, _, _ = started(mmu)
        machine.guest.store(AREA + 4096, 9)
        l1_gpa = machine.l1.look(machine.chain(AREA + 4096).gpa)
        hva = machine.qemu.vm.slots.find(l1_gpa).hva_of(l1_gpa)
        gpa, root = machine.chain(AREA + 4096).gpa, machine.vcpu.vmcs02.eptp & LEAF
        key = gpa if mmu == "l2-ept" else l1_gpa  # what the tables that the CPU walks translate
        assert walk_by_hand(machine.ram.load, root, 4, key)[0] & 1
        machine.qemu.process.madvise_dontneed(hva & ~0xFFF, 4096)
        assert not walk_by_hand(machine.ram.load, root, 4, key)[0]
        assert machine.chain(AREA + 4096).hpa is None
        assert machine.guest.load(AREA + 4096) == 0
        assert machine.guest.load(AREA) == 1


def test_l1s_host_takes_a_page_of_l2_back():
    for mmu in ("l2-ept", "l2-shadow"):
        machine, _, _ = started(mmu)
        machine.guest.store(AREA + 4096, 9)
        hva = machine.chain(AREA + 4096).hva
        machine.l1.qemu.process.madvise_dontneed(hva & ~0xFFF, 4096)
        assert machine.guest.load(AREA + 4096) == 0
        assert machine.guest.load(AREA) == 1


def test_table_bytes_count_both_hypervisors():
    machine, _, _ = started("l2-ept")
    l0, l1 = machine.vcpu, machine.l1.vcpu
    frames = l0.mmu.table_frames + len(l0.merged.pages) + l1.mmu.table_frames
    assert machine.table_bytes()["ept"] == 4096 * frames
    machine, _, _ = started("l2-shadow")
    assert machine.table_bytes()["shadow"] == 4096 * machine.l1.vcpu.mmu.table_frames > 0


def test_looking_at_a_chain_changes_nothing():
    machine, _, records = started("l2-ept")
    image = machine.ram.image()
    records.clear()
    chain = machine.chain(AREA)
    assert chain.hpa is not None
    assert (machine.ram.image(), records) == (image, [])


def test_what_cannot_be_nested_is_refused():
    with pytest.raises(BadChoice, match="one virtual CPU here, not 2"):
        Machine("l2-shadow", vcpus=2)
    with pytest.raises(BadSize, match="leaves L1"):
        Machine("l2-ept", guest_memory="3G", host_memory="8G")


def frame_of_l1(machine, gva):
    """Where L1 has the page of L2: its gfn for L0."""
    vm, hpa = machine.vcpu.vm, machine.chain(gva).hpa & ~0xFFF
    slot = vm.slots.find(0)
    backed = {gpa: vm.look(gpa) for gpa in range(slot.gpa, slot.gpa + slot.size, 4096)}
    (found,) = [gpa for gpa, one in backed.items() if one and one.host.address == hpa]
    return found >> 12


def log(machine):
    vm = machine.vcpu.vm
    slot = vm.slots.find(0)
    vm.set_region(slot.slot, slot.gpa, slot.size, slot.hva, LOG_DIRTY_PAGES)
    return lambda: set(pages_in(vm.get_dirty_log(slot.slot)))


@pytest.mark.parametrize("mmu", ["l2-ept", "l2-shadow"])
def test_l0s_dirty_log_has_what_l2_wrote(mmu):
    """EPT02 is write-protected (kvm_mmu_page_ad_need_write_protect); over EPT01 L2 uses PML."""
    machine, _, _ = started(mmu)
    gvas = [AREA + 4096 * page for page in range(4)]
    for gva in gvas:
        machine.guest.store(gva, 1)
    where = [frame_of_l1(machine, gva) for gva in gvas]
    dirty = log(machine)
    for number in range(3):
        dirty()
        for gva in gvas[: number + 1]:
            machine.guest.store(gva, number)
        assert set(where) & dirty() == set(where[: number + 1])


def test_a_log_that_l2_fills_is_drained_by_l0():
    machine, _, records = started("l2-shadow")
    pages = [AREA + 4096 * page for page in range(600)]
    for gva in pages:
        machine.guest.store(gva, 1)
    dirty = log(machine)
    records.clear()
    for gva in pages:
        machine.guest.store(gva, 2)
    assert exits(records)["PML_FULL"] >= 1
    assert "PML_FULL" not in [one.reason for one in records if isinstance(one, ExitToL1)]
    assert len(dirty()) >= 600


@pytest.mark.parametrize("mmu", ["l2-ept", "l2-shadow"])
def test_an_interrupt_of_the_host_is_l0s_own_affair(mmu):
    machine, _, records = started(mmu)
    records.clear()
    machine.vcpu.kick()
    assert exits(records) == {"EXTERNAL_INTERRUPT": 1}
    assert not [one for one in records if isinstance(one, ExitToL1)]
    assert machine.guest.load(AREA) == 1


@pytest.mark.parametrize("mmu", ["l2-ept", "l2-shadow"])
def test_l0s_host_learns_what_l2_uses(mmu):
    machine, _, _ = started(mmu)
    vm = machine.vcpu.vm
    hva = vm.slots.find(0).hva_of(frame_of_l1(machine, AREA) << 12)
    assert vm.clear_flush_young(hva, hva + 4096)
    assert not vm.test_young(hva, hva + 4096)
    machine.guest.load(AREA)
    assert vm.test_young(hva, hva + 4096)
