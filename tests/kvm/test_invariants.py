"""No frame has two roles, and no leaf of EPT or shadow points where memory is not."""

import random

import pytest

from kvmlab.kvm.policy import POLICIES
from kvmlab.kvm.records import ShadowPageZapped
from kvmlab.machine import Machine

SHADOW = tuple(one.name for one in POLICIES)
AREA, PAGES = 0x1000_0000, 40


def churn(machine, seed):
    """A few processes that map, write, protect, unmap and end, in a seeded order."""
    choose = random.Random(seed)
    guest = machine.guest
    processes = []
    for _ in range(120):
        if len(processes) < 3:
            processes.append(guest.spawn(f"p{len(processes)}"))
        process = choose.choice(processes)
        guest.switch(process)
        action = choose.random()
        if action < 0.1:
            guest.exit(process)
            processes.remove(process)
        elif not process.vmas:
            process.mmap(AREA, PAGES * 4096)
        elif action < 0.2:
            process.munmap(AREA)
        elif action < 0.3:
            process.mprotect(AREA, write=False)
            process.mprotect(AREA, write=True)
        else:
            for _ in range(6):
                guest.store(AREA + choose.randrange(PAGES) * 4096, choose.getrandbits(32))
        yield


DESIGNS = [("ept", "naive"), ("agile", "naive"), *(("shadow", one) for one in SHADOW)]


@pytest.mark.parametrize("mmu, policy", DESIGNS)
@pytest.mark.parametrize("seed", range(4))
def test_host_frames_are_free_backing_or_tables_and_never_two_of_them(mmu, policy, seed):
    machine = Machine(mmu, guest_memory="16M", host_memory="32M", policy=policy)
    for number, _ in enumerate(churn(machine, seed)):
        if number % 10 == 9:
            machine.tick()
        check_frames(machine)


@pytest.mark.parametrize("levels, policy", [(2, "today"), (3, "bypass")])
def test_so_they_are_while_guests_of_32_bits_are_shadowed(levels, policy):
    machine = Machine(
        "shadow", guest_memory="16M", host_memory="32M", policy=policy, guest_levels=levels
    )
    for _ in churn(machine, levels):
        check_frames(machine)


def check_frames(machine):
    host, mmu = machine.host, machine.vcpu.mmu
    process_tables, backing = set(), set()
    collect(machine, machine.qemu.process.root, 4, process_tables, backing)
    mmu_tables = mmu_frames(machine)
    used = len(process_tables) + len(backing) + len(mmu_tables)
    assert not (process_tables & backing)
    assert not (process_tables & mmu_tables)
    assert not (backing & mmu_tables)
    assert len(mmu_tables) == mmu.table_frames
    assert host.buddy.free_frames + used == host.buddy.total


def collect(machine, table, level, tables, leaves, present=1):
    """Every table frame and every mapped frame of a tree; ``present`` tells x86 from EPT."""
    tables.add(table >> 12)
    for index in range(512):
        entry = machine.ram.load(table + 8 * index)
        if entry & present and (present != 7 or entry & 7 != 6):  # 110b notes that none answers
            target = entry & 0x000F_FFFF_FFFF_F000
            if level == 1:
                leaves.add(target >> 12)
            else:
                collect(machine, target, level - 1, tables, leaves, present)


def mmu_frames(machine):
    """Tables that the hypervisor built: found from the EPT root, or from its shadow pages."""
    tables, leaves, backing = set(), set(), set()
    if machine.mmu in ("ept", "agile"):
        collect(machine, machine.cpu.context.ept.root, 4, tables, leaves, present=7)
        collect(machine, machine.qemu.process.root, 4, set(), backing)
        assert leaves <= backing
    if machine.mmu == "ept":
        return tables
    pages = list(machine.vcpu.mmu.pages._by_key.values())
    backing = set()
    collect(machine, machine.qemu.process.root, 4, set(), backing)
    frames = {page.hpa >> 12 for page in pages}
    if machine.cpu.context.pdptes:
        assert all(one >> 12 in frames for one in machine.cpu.context.pdptes if one)
        frames.update(one >> 12 for one in machine.vcpu.mmu.pages.pointer_tables)
    for page in pages:
        for index in range(512):
            spte = machine.ram.load(page.hpa + 8 * index)
            if machine.vcpu.mmu.pages.present(spte):
                target = (spte & 0x000F_FFFF_FFFF_F000) >> 12
                assert target in (backing if index in page.maps else frames)
    return frames | tables


@pytest.mark.parametrize("policy", SHADOW)
@pytest.mark.parametrize("seed", range(4))
def test_a_guest_table_is_writable_only_while_its_shadow_page_may_lag_behind(policy, seed):
    machine = Machine("shadow", guest_memory="16M", host_memory="32M", policy=policy)
    unsync = False
    for _ in churn(machine, seed):
        pages = machine.vcpu.mmu.pages
        for gfn, shadows in pages._by_gfn.items():
            out_of_step = all(one.unsync and one.role.level == 1 for one in shadows)
            unsync |= out_of_step
            for slot in pages._rmap.at(gfn):
                assert out_of_step or not pages.read(slot) & 2, hex(gfn)
    assert unsync == (policy == "today")


def test_a_small_budget_recycles_and_the_guest_does_not_notice():
    records = []
    machine = Machine(
        "shadow", guest_memory="16M", host_memory="32M", policy="today", tap=records.append
    )
    guest = machine.guest
    process = guest.spawn("wide")
    guest.switch(process)
    for table in range(100):  # budget: 4096 frames / 50 = 81 shadow pages
        process.mmap(AREA + (table << 21), 4096)
        guest.store(AREA + (table << 21), table + 1)
        assert len(machine.vcpu.mmu.pages) <= 81
    check_frames(machine)
    assert any(isinstance(one, ShadowPageZapped) and one.why == "recycled" for one in records)
    for table in range(100):
        assert guest.load(AREA + (table << 21)) == table + 1


def test_memory_is_all_given_back_when_processes_end():
    machine = Machine("native", guest_memory="16M")
    free = machine.guest.frames.buddy.free_frames
    for _ in churn(machine, 7):
        pass
    for process in list(machine.guest.processes):
        machine.guest.exit(process)
    assert machine.guest.frames.buddy.free_frames == free
