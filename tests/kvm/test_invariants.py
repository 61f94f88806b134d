"""No frame has two roles, and no leaf of EPT or shadow points where memory is not."""

import random

import pytest

from kvmlab.machine import Machine

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


@pytest.mark.parametrize("mmu", ["ept", "shadow"])
@pytest.mark.parametrize("seed", range(4))
def test_host_frames_are_free_backing_or_tables_and_never_two_of_them(mmu, seed):
    machine = Machine(mmu, guest_memory="16M", host_memory="32M")
    for _ in churn(machine, seed):
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
        if entry & present:
            target = entry & 0x000F_FFFF_FFFF_F000
            if level == 1:
                leaves.add(target >> 12)
            else:
                collect(machine, target, level - 1, tables, leaves, present)


def mmu_frames(machine):
    """Tables that the hypervisor built: found from the EPT root, or from its shadow pages."""
    if machine.mmu == "ept":
        tables, leaves = set(), set()
        collect(machine, machine.cpu.context.ept.root, 4, tables, leaves, present=7)
        backing = set()
        collect(machine, machine.qemu.process.root, 4, set(), backing)
        assert leaves <= backing
        return tables
    pages = list(machine.vcpu.mmu._pages._by_key.values())
    backing = set()
    collect(machine, machine.qemu.process.root, 4, set(), backing)
    frames = {page.hpa >> 12 for page in pages}
    for page in pages:
        for index in range(512):
            spte = machine.ram.load(page.hpa + 8 * index)
            if spte & 1:
                target = (spte & 0x000F_FFFF_FFFF_F000) >> 12
                assert target in (backing if index in page.maps else frames)
    return frames


@pytest.mark.parametrize("seed", range(4))
def test_no_shadowed_guest_table_is_writable_through_any_shadow_leaf(seed):
    machine = Machine("shadow", guest_memory="16M", host_memory="32M")
    for _ in churn(machine, seed):
        pages = machine.vcpu.mmu._pages
        for gfn in pages._by_gfn:
            for slot in pages._rmap.get(gfn, ()):
                assert not pages.read(slot) & 2, hex(gfn)


def test_memory_is_all_given_back_when_processes_end():
    machine = Machine("native", guest_memory="16M")
    free = machine.guest._buddy.free_frames
    for _ in churn(machine, 7):
        pass
    for process in list(machine.guest.processes):
        machine.guest.exit(process)
    assert machine.guest._buddy.free_frames == free
