"""What the host does to a VM's memory costs the guest time, and in the end its life."""

import pytest

from kvmlab.base.errors import ProcessKilled
from kvmlab.hardware.records import VmExit
from kvmlab.host.ksm import RUN
from kvmlab.host.records import HostSwappedIn, HostSwappedOut
from kvmlab.linux.vmstat import VmStat
from kvmlab.machine import Machine
from tests.host.setting import MIB
from tests.kvm.test_invariants import mmu_frames

AREA = 0x1000_0000
DESIGNS = [("ept", "naive"), ("shadow", "today")]


def started(mmu, policy="naive", swap=0, guest="16M", host="32M"):
    records = []
    machine = Machine(mmu, policy=policy, tap=records.append, guest_memory=guest, host_memory=host)
    machine.host.swapon(swap * MIB)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "8M")
    return machine, records


def fill(machine, pages):
    for page in range(pages):
        machine.guest.store(AREA + page * 4096, page + 1)


def squeeze(machine, left):
    """Another process of the host takes all but about ``left`` MiB, and keeps it."""
    pages = machine.host.buddy.free_frames - left * 256
    other = machine.host.process("other")
    other.mlock(other.mmap(pages * 4096))
    other.oom_score_adj = -1000
    return other


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_a_guest_larger_than_what_the_host_has_left_keeps_every_byte(mmu, policy):
    machine, records = started(mmu, policy, swap=16)
    squeeze(machine, 3)
    fill(machine, 1200)
    for page in range(1200):
        assert machine.guest.load(AREA + page * 4096) == page + 1
    assert any(isinstance(one, HostSwappedOut) for one in records)
    assert any(isinstance(one, HostSwappedIn) for one in records)
    mmu_frames(machine)  # no leaf points where the host has another page


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_reclaim_zaps_leaves_and_the_next_access_is_a_major_fault(mmu, policy):
    machine, records = started(mmu, policy, swap=16)
    machine.guest.store(AREA, 5)
    hva = machine.chain(AREA).hva
    for _ in range(4):
        machine.host.memory.reclaim.shrink(3000, "direct")
    assert machine.chain(AREA).hpa is None
    assert machine.qemu.process.swap_entries > 0
    records.clear()
    assert machine.guest.load(AREA) == 5
    back = [one.hva for one in records if isinstance(one, HostSwappedIn)]
    assert hva in back
    assert sum(isinstance(one, VmExit) for one in records) >= 1


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_pages_that_ksm_merged_are_copied_by_one_fault_when_the_guest_writes(mmu, policy):
    machine, records = started(mmu, policy)
    qemu, ksm = machine.qemu.process, machine.host.ksm
    qemu.advise_mergeable(machine.vm.slots.find(0).hva, wanted=True)
    for page in range(8):
        machine.guest.store(AREA + page * 4096, 7)
    ksm.run = RUN
    for _ in range(4):
        ksm.scan(100_000)
    assert machine.chain(AREA).hpa == machine.chain(AREA + 4096).hpa
    records.clear()
    assert [machine.guest.load(AREA + page * 4096) for page in range(8)] == [7] * 8
    stat = VmStat()
    machine.guest.store(AREA, 9)
    for one in records:
        stat(one)
    assert stat["cow_ksm"] >= 1
    assert machine.chain(AREA).hpa != machine.chain(AREA + 4096).hpa
    assert [machine.guest.load(AREA + page * 4096) for page in range(8)] == [9, *[7] * 7]
    mmu_frames(machine)


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_a_guest_whose_qemu_was_killed_stops_with_one_clear_line(mmu, policy):
    machine, _ = started(mmu, policy)
    squeeze(machine, 3)
    with pytest.raises(ProcessKilled, match="qemu was killed by the host's OOM killer"):
        fill(machine, 1200)
    assert not machine.qemu.process.alive
    for _ in range(2):
        with pytest.raises(ProcessKilled):
            machine.guest.load(AREA)
    assert machine.host.meminfo()["AnonPages"] * 1024 < 30 * MIB


def test_a_kill_by_another_process_reaches_the_guest_at_its_next_access():
    machine, _ = started("ept")
    fill(machine, 800)
    machine.qemu.process.oom_score_adj = 1000
    other = machine.host.process("other")
    other.populate(other.mmap(29 * MIB), 29 * MIB)
    with pytest.raises(ProcessKilled):
        machine.guest.load(AREA)
