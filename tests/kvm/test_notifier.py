"""The host takes pages back: the MMU notifier drops what depended on them, at once.

Measured on a live KVM: madvise(DONTNEED) on 16 pages makes pages_4k fall by 16 without an exit
of the guest; the next access faults again and reads zeroes.
"""

import random

import pytest

from kvmlab.base.errors import BadAddress
from kvmlab.hardware.records import VmExit
from kvmlab.host.records import HostMigrated, HostTookBack
from kvmlab.kvm.records import Zap
from kvmlab.machine import Machine
from tests.kvm.test_invariants import check_frames, churn, collect

AREA, PAGES = 0x1000_0000, 16
POLICIES = ("naive", "update", "bypass", "today")
DESIGNS = [("ept", "naive"), ("agile", "naive"), *(("shadow", one) for one in POLICIES)]


def started(mmu, policy="naive", **options):
    records = []
    machine = Machine(mmu, policy=policy, tap=records.append, **options)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "2M", page=machine.guest_page)
    return machine, records


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_pages_taken_back_are_zapped_without_an_exit_and_read_as_zeroes(mmu, policy):
    machine, records = started(mmu, policy)
    for page in range(PAGES):
        machine.guest.store(AREA + page * 4096, page + 1)
    for page in range(PAGES):  # agile paging may have switched their table meanwhile
        machine.guest.load(AREA + page * 4096)
    hvas = [machine.chain(AREA + page * 4096).hva for page in range(PAGES)]
    records.clear()
    for hva in hvas:
        machine.qemu.process.madvise_dontneed(hva, 4096)
    assert len({one.gfn for one in records if isinstance(one, Zap) and one.level == 1}) == PAGES
    assert len([one for one in records if isinstance(one, HostTookBack)]) == PAGES
    assert not [one for one in records if isinstance(one, VmExit)]
    for page in range(PAGES):
        assert machine.chain(AREA + page * 4096).hpa is None
        records.clear()
        assert machine.guest.load(AREA + page * 4096) == 0
        assert len([one for one in records if isinstance(one, VmExit)]) == 1  # filled anew
    check_frames(machine)


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_what_was_zapped_before_something_failed_is_flushed_all_the_same(mmu):
    def fail(_gpas):
        raise BadAddress("one who listens cannot go on")

    machine, _ = started(mmu)
    machine.guest.store(AREA, 1)
    machine.vm.on_unmap.append(fail)
    with pytest.raises(BadAddress, match="cannot go on"):
        machine.qemu.process.madvise_dontneed(machine.chain(AREA).hva, 4096)
    assert not machine.vcpu.flushes.pending
    machine.vm.on_unmap.remove(fail)
    assert machine.guest.load(AREA) == 1  # which the host had not taken yet


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_other_pages_keep_what_they_hold(mmu):
    machine, _ = started(mmu)
    for page in range(PAGES):
        machine.guest.store(AREA + page * 4096, page + 1)
    machine.qemu.process.madvise_dontneed(machine.chain(AREA + 4096).hva, 4096)
    values = [machine.guest.load(AREA + page * 4096) for page in range(PAGES)]
    assert values == [1, 0, *range(3, PAGES + 1)]


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
def test_a_large_host_page_goes_as_a_whole(mmu):
    machine, _ = started(mmu, guest_page="2M", host_page="2M")
    machine.guest.store(AREA + 0x1000, 7)
    hva = machine.chain(AREA).hva
    with pytest.raises(BadAddress, match="whole pages of 2M"):
        machine.qemu.process.madvise_dontneed(hva, 4096)
    assert machine.guest.load(AREA + 0x1000) == 7
    machine.qemu.process.madvise_dontneed(hva, 2 << 20)
    assert machine.guest.load(AREA + 0x1000) == 0


@pytest.mark.parametrize("mmu, policy", DESIGNS)
@pytest.mark.parametrize("page", ["4K", "2M"])
def test_a_migrated_page_keeps_its_contents_and_is_filled_anew(mmu, policy, page):
    machine, records = started(mmu, policy, guest_page=page, host_page=page)
    for number in range(3):
        machine.guest.store(AREA + number * 4096, number + 1)
    machine.guest.load(AREA + 4096)  # agile paging dropped it when it switched the table
    before = machine.chain(AREA + 4096)
    records.clear()
    new = machine.qemu.process.migrate(before.hva)
    (moved,) = [one for one in records if isinstance(one, HostMigrated)]
    assert [one for one in records if isinstance(one, Zap)]
    assert machine.chain(AREA + 4096).hpa == new != before.hpa
    assert (moved.old, moved.new) == tuple(one & -(1 << moved.shift) for one in (before.hpa, new))
    assert not any(machine.ram.read(moved.old, 1 << moved.shift))
    assert [machine.guest.load(AREA + number * 4096) for number in range(3)] == [1, 2, 3]
    machine.guest.store(AREA + 4096, 9)
    assert machine.ram.load(new) == 9


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_a_root_of_the_guest_migrates_and_no_walk_goes_where_it_was(mmu, policy):
    """Agile paging may hold where in the host the guest's root is: in the root that it arms."""
    machine, _ = started(mmu, policy)
    process = machine.guest.current
    for number in range(4):  # four stores to the root, so that it is written often enough
        process.mmap(number + 1 << 39, "4K")
        machine.guest.store(number + 1 << 39, number)
    slot = machine.vm.slots.find(process.root)
    machine.qemu.process.migrate(slot.hva_of(process.root))
    machine.cpu.flush_tlb()
    assert [machine.guest.load(number + 1 << 39) for number in range(4)] == [0, 1, 2, 3]
    check_frames(machine)


def test_a_page_that_is_not_there_cannot_migrate():
    machine, records = started("ept")
    records.clear()
    hva = machine.vm.slots.find(0).hva + (8 << 20)
    with pytest.raises(BadAddress, match=f"HVA {hva:#x} is not backed"):
        machine.qemu.process.migrate(hva)
    assert records == []


def test_memory_that_is_not_the_processs_cannot_be_given_back():
    machine, records = started("ept")
    records.clear()
    for hva, size in ((0x1000, 4096), (machine.vm.slots.find(0).hva + 1, 4096)):
        with pytest.raises(BadAddress, match=f"{hva:#x}"):
            machine.qemu.process.madvise_dontneed(hva, size)
    assert records == []


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_no_leaf_and_no_tlb_entry_points_to_a_frame_that_was_taken_back(mmu, policy):
    options = {"guest_memory": "16M", "host_memory": "32M"}
    machine = Machine(mmu, policy=policy, **options)
    choose = random.Random(5)
    for _ in churn(machine, 11):
        gva = AREA + choose.randrange(40) * 4096
        hva = machine.chain(gva).hva if machine.guest.current else None
        if hva:
            machine.qemu.process.madvise_dontneed(hva & ~0xFFF, 4096)
        check_frames(machine)
        backing = set()
        collect(machine, machine.qemu.process.root, 4, set(), backing)
        assert {one.page >> 12 for one in machine.cpu.tlb.entries()} <= backing
