"""Several virtual CPUs: what they share, what KVM flushes where, and what it costs."""

import pytest

from kvmlab.base.errors import SegmentationFault
from kvmlab.hardware import instructions
from kvmlab.hardware.records import ExitReason, IpiSent, OnCpu, VmExit
from kvmlab.kvm.policy import POLICIES
from kvmlab.kvm.records import ShadowPageZapped, WriteTrapped
from kvmlab.kvm.statistics import STATISTICS, Statistics
from kvmlab.machine import Machine
from tests.kvm.test_invariants import check_frames
from tests.two_cpus import AREA, SHADOW, VIRTUAL, TwoCpus, check_tlbs

PAGE = 4096
REMOTE = ("remote_tlb_flush_requests", "remote_tlb_flush")


# -- what is shared, what is not -----------------------------------------------------------


@pytest.mark.parametrize("mmu, policy", VIRTUAL)
def test_tables_are_the_vms_and_the_second_virtual_cpu_finds_them_filled(mmu, policy):
    two = TwoCpus(mmu, policy)
    two.store(0, 7)
    two.load(1)  # whatever a first access on this CPU needs
    tables, (_, exits) = two.machine.vcpu.mmu.table_frames, two.exits(lambda: two.load(1))
    assert exits == []
    assert {one.mmu.table_frames for one in two.machine.vm.vcpus} == {tables}
    frames = {one.page for cpu in two.machine.cpus for one in cpu.tlb.entries() if one.vpn == 65536}
    assert len(frames) == 1
    check_frames(two.machine)


@pytest.mark.parametrize("mmu", ["shadow", "agile"])
def test_shadow_pages_are_one_set_even_if_there_were_none_when_the_virtual_cpus_were_made(mmu):
    first, second = TwoCpus(mmu).machine.vm.vcpus
    assert first.mmu.pages is second.mmu.pages


def test_each_virtual_cpu_has_its_vpid_and_its_registers():
    two = TwoCpus("shadow")
    first, second = two.machine.vm.vcpus
    assert (first.vmcs.vpid, second.vmcs.vpid) == (1, 2)
    two.run(1, two.guest.switch, two.guest.spawn("other"))
    assert first.guest.cr3 != second.guest.cr3
    assert first.vmcs.guest.cr3 != second.vmcs.guest.cr3


@pytest.mark.parametrize("mmu, policy", VIRTUAL)
def test_a_virtual_cpu_does_nothing_before_the_guest_wakes_it(mmu, policy):
    records = []
    Machine(mmu, policy=policy, vcpus=3, tap=records.append)
    woken = [n for n, one in enumerate(records) if isinstance(one, IpiSent)]
    assert [(records[n].destination, records[n].mode) for n in woken] == [(1, 6), (2, 6)]
    spoken = [records.index(OnCpu(number)) for number in (1, 2)]
    assert woken[0] < spoken[0] < woken[1] < spoken[1]


# -- remote flushes ------------------------------------------------------------------------


@pytest.mark.parametrize("mmu, policy", VIRTUAL)
def test_what_the_host_takes_back_no_virtual_cpu_goes_on_using(mmu, policy):
    two = TwoCpus(mmu, policy)
    two.store(1, 7)
    two.load(0)
    gone = two.machine.chain(AREA)
    exits = two.exits(lambda: two.machine.qemu.process.madvise_dontneed(gone.hva, PAGE))
    for cpu in two.machine.cpus:
        assert gone.hpa not in {one.page for one in cpu.tlb.entries()}
    assert sorted(map(len, exits)) == [0, 1]  # the one whose thread it was needs no kick
    assert ["EXTERNAL_INTERRUPT"] in exits
    assert (two.load(0), two.load(1)) == (0, 0)
    two.store(0, 9)
    assert two.load(1) == 9
    check_frames(two.machine)


@pytest.mark.parametrize("mmu, policy", VIRTUAL)
def test_what_a_slot_held_is_gone_for_every_virtual_cpu(mmu, policy):
    two = TwoCpus(mmu, policy)
    vm, hva = two.machine.vm, two.machine.qemu.process.mmap(PAGE)
    vm.set_region(5, 0x3000_0000, PAGE, hva)
    tables = two.guest.tables
    tables.map(two.process.root, 0x5000_0000, 0x3000_0000, 12, 0x67)
    two.store(0, 7, 0x5000_0000)
    assert two.load(1, 0x5000_0000) == 7
    counted = two.counted(lambda: vm.set_region(5, 0x3000_0000, 0, 0))
    assert counted["remote_tlb_flush"] == 1
    assert [two.load(cpu, 0x5000_0000) for cpu in range(2)] == [(1 << 64) - 1] * 2  # a hole
    vm.set_region(5, 0x3000_0000, PAGE, hva)
    assert [two.load(cpu, 0x5000_0000) for cpu in range(2)] == [7, 7]


@pytest.mark.parametrize("policy", ["naive", "update", "bypass"])
def test_a_frame_that_becomes_a_table_is_protected_from_every_virtual_cpu(policy):
    two = TwoCpus("shadow", policy)
    two.store(0, 7)
    slot, _level = two.guest.tables.find(two.process.root, AREA)
    other = two.guest.spawn("other")
    entry = two.guest.tables.read(slot)
    two.run(1, two.guest.tables.write, slot, entry)  # CPU 1 knows how to reach the table
    two.load(1)
    two.run(1, two.guest.switch, other)
    two.load(0)
    del two.records[:]
    two.run(1, two.guest.tables.write, slot, entry & ~2)
    trapped = next(n for n, one in enumerate(two.records) if isinstance(one, WriteTrapped))
    assert [one for one in two.records[:trapped] if isinstance(one, OnCpu)][-1] == OnCpu(1)


@pytest.mark.parametrize("mmu, policy", SHADOW)
def test_a_root_that_one_virtual_cpu_throws_away_is_rebuilt_for_the_other(mmu, policy):
    two = TwoCpus(mmu, policy)
    other = two.guest.spawn("other")
    other.mmap(AREA, "64K")
    two.run(1, two.guest.switch, other)
    two.store(1, 7)
    del two.records[:]
    for index in range(4):  # upper tables: the third store without a walk in between floods it
        two.guest.tables.write(other.root + 8 * (100 + index), 0)
    root = other.root >> 12
    zapped = [one for one in two.records if isinstance(one, ShadowPageZapped) and one.gfn == root]
    assert [one.why for one in zapped] == ["flooded"]
    second = two.machine.vm.vcpus[1]
    assert second.vmcs.guest.cr3 & ~0xFFF in {one.hpa for one in second.mmu.pages.oldest_first()}
    assert two.load(1) == 7
    check_frames(two.machine)


def test_recycling_spares_the_roots_of_every_virtual_cpu():
    two = TwoCpus("shadow", "today")
    other = two.guest.spawn("other")
    other.mmap(AREA, "64K")
    two.run(1, two.guest.switch, other)
    two.store(1, 7)
    (root,) = two.machine.vm.vcpus[1].mmu.pages.shadowing(other.root >> 12)
    two.process.munmap(AREA)
    for table in range(100):  # budget: 4096 frames / 50 = 81 shadow pages
        two.process.mmap(AREA + (table << 21), PAGE)
        two.store(0, table, AREA + (table << 21))
    assert two.statistics.values()["mmu_recycled"] > 0
    assert two.machine.vm.vcpus[1].mmu.pages.shadowing(other.root >> 12) == [root]
    assert two.load(1) == 7


# -- out of step ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["INVLPG", "MOV CR3"])
def test_a_store_without_a_flush_may_be_unseen_by_the_other_virtual_cpu_until_it_flushes(how):
    """An unsync table lags behind as a TLB may: legal until the CPU itself flushes."""
    two = TwoCpus("shadow", "today")
    first, second = AREA, AREA + PAGE
    two.store(0, 7, first)
    two.store(0, 8, second)
    assert two.load(1) == 7
    slots = [two.guest.tables.find(two.process.root, one)[0] for one in (first, second)]
    entry = two.guest.tables.read(slots[1])
    two.guest.tables.write(slots[0], entry)
    assert two.load(1) == 7  # stale, as a native CPU's TLB would have it
    cpu = two.machine.cpus[1]
    if how == "INVLPG":
        two.run(1, instructions.invlpg, cpu, AREA)
    else:
        two.run(1, instructions.mov_cr3, cpu, two.process.root)
    assert two.load(1) == 8


@pytest.mark.parametrize("mmu, policy", [("ept", "naive"), ("native", "naive"), *SHADOW])
def test_a_new_mapping_needs_no_flush_on_any_cpu(mmu, policy):
    two = TwoCpus(mmu, policy)
    for page in range(16):
        with pytest.raises(SegmentationFault):
            two.load(1, AREA + (1 << 20))
        two.store(page & 1, page, AREA + page * PAGE)
        assert two.load(1 - (page & 1), AREA + page * PAGE) == page
    check_tlbs(two.machine)


# -- counters ------------------------------------------------------------------------------


def test_a_shootdown_under_ept_is_one_exit_to_send_and_two_to_receive():
    """WRMSR to the ICR; the host's IPI that brings the target out; WRMSR to its EOI register."""
    two = TwoCpus("ept")
    two.store(0, 7)
    two.load(1)
    exits = two.exits(lambda: two.process.munmap(AREA))
    assert exits == (["WRMSR"], ["EXTERNAL_INTERRUPT", "WRMSR"])


@pytest.mark.parametrize("policy", [one.name for one in POLICIES])
def test_a_shootdown_under_shadow_paging_costs_an_invlpg_exit_on_every_cpu(policy):
    two = TwoCpus("shadow", policy)
    two.store(0, 7)
    two.load(1)
    sender, target = two.exits(lambda: two.process.munmap(AREA))
    assert (sender.count("INVLPG"), sender.count("WRMSR")) == (1, 1)
    assert sorted(target) == ["EXTERNAL_INTERRUPT"] * 2 + ["INVLPG", "WRMSR"]  # a remote flush too


def test_one_change_is_one_request_however_much_it_zaps_and_one_flush_on_each_virtual_cpu():
    two = TwoCpus("shadow", "naive")
    two.store(0, 7)
    two.load(1)
    slot, _level = two.guest.tables.find(two.process.root, AREA)
    before = [two.statistics.of_vcpu(cpu)["tlb_flush"] for cpu in range(2)]
    counted = two.counted(lambda: two.guest.tables.write(slot, 0))
    assert [counted[name] for name in REMOTE] == [1, 1]
    after = [two.statistics.of_vcpu(cpu)["tlb_flush"] for cpu in range(2)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


def test_a_flooded_table_goes_with_the_unsync_ones_below_it_in_one_request():
    """They are one invalid_list, and kvm_mmu_commit_zap_page() flushes once."""
    two = TwoCpus("shadow", "today")
    for page in range(2):  # the second PTE is written to a shadowed table: it goes unsync
        two.store(0, 7, AREA + page * PAGE)
        two.load(1, AREA + page * PAGE)
    tables = two.guest.tables
    slot, _level = tables.find(two.process.root, AREA)
    directory = next(
        one.parents for one in two.machine.vcpu.mmu.pages.shadowing(slot >> 12) if one.unsync
    )
    (above,) = {one.page.gfn << 12 for one in directory}
    for index in range(2):
        tables.write(above + 8 * (100 + index), 0)
    counted = two.counted(lambda: tables.write(above + 8 * 102, 0))
    assert counted["mmu_shadow_zapped"] == 2
    assert [counted[name] for name in REMOTE] == [1, 1]


@pytest.mark.parametrize("mmu, policy", VIRTUAL)
def test_with_one_virtual_cpu_nobody_is_kicked(mmu, policy):
    records, statistics = [], Statistics()

    def tap(record):
        records.append(record)
        statistics(record)

    alone = Machine(mmu, policy=policy, tap=tap)
    process = alone.guest.spawn("alone")
    alone.guest.switch(process)
    process.mmap(AREA, "64K")
    alone.guest.store(AREA, 1)
    alone.qemu.process.madvise_dontneed(alone.chain(AREA).hva, PAGE)
    process.munmap(AREA)
    values = statistics.values()
    assert values["remote_tlb_flush_requests"] > 0
    assert values["remote_tlb_flush"] == 0
    interrupts = (ExitReason.EXTERNAL_INTERRUPT, ExitReason.WRMSR)
    exits = [one.reason for one in records if isinstance(one, VmExit)]
    assert [one for one in exits if one in interrupts] == [ExitReason.WRMSR]  # EFER, at boot


@pytest.mark.parametrize("mmu, policy", VIRTUAL)
def test_the_counters_of_the_virtual_cpus_add_up_to_those_of_all(mmu, policy):
    two = TwoCpus(mmu, policy)
    for page in range(20):
        two.store(page % 2, page, AREA + page * PAGE)
    two.process.mprotect(AREA, write=False)
    two.process.munmap(AREA)
    total, each = two.statistics.values(), [two.statistics.of_vcpu(cpu) for cpu in range(2)]
    own = [one.name for one in STATISTICS if one.scope == "vCPU"]
    assert [sum(one[name] for one in each) for name in own] == [total[name] for name in own]
    assert all(one["exits"] for one in each)
    assert two.statistics.of_vcpu(7) == dict.fromkeys(own, 0)
