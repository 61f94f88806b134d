"""Native, shadow, EPT and agile are one machine to the guest: same values, faults, memory."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import SegmentationFault
from kvmlab.hardware.records import PageFault
from kvmlab.kvm.policy import POLICIES
from kvmlab.kvm.records import Zap
from kvmlab.machine import Machine

SHADOW = tuple(("shadow", {"policy": one.name}) for one in POLICIES)
DESIGNS = (("ept", {}), ("agile", {}), *SHADOW)
AREAS = (0x1000_0000, 0x7F12_3440_0000)
PAGES = 3  # few, so that operations meet
PROCESSES = st.integers(0, 1)
AREA = st.integers(0, len(AREAS) - 1)

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), PROCESSES, AREA, st.integers(0, PAGES)),
        st.tuples(st.just("store"), PROCESSES, AREA, st.integers(0, PAGES), st.integers(0, 255)),
        st.tuples(st.just("protect"), PROCESSES, AREA, st.booleans()),
        st.tuples(st.just("remap"), PROCESSES, AREA, st.booleans()),
        st.tuples(st.just("restart"), PROCESSES),
        st.tuples(st.just("tick"), PROCESSES),
    ),
    min_size=8,
    max_size=60,
)


@dataclass
class Seen:
    """What the guest can know of a run."""

    values: list
    faults: list
    memory: dict


def run(mmu, operations, **options):
    faults, machine = [], None

    def tap(record):
        if isinstance(record, PageFault):
            faults.append((record.gva, record.error_code))

    machine = Machine(mmu, tap=tap, guest_memory="16M", host_memory="64M", **options)
    guest = machine.guest
    processes = [start(guest, name, machine.guest_page) for name in "ab"]
    values = []
    for operation, who, *rest in operations:
        process = processes[who]
        if process is not guest.current:
            guest.switch(process)
        try:
            if operation == "tick":
                machine.tick()
                continue
            values.append(perform(guest, processes, operation, who, rest))
        except SegmentationFault:
            values.append("SIGSEGV")
    return Seen(values, faults, guest_memory(machine)), machine


def start(guest, name, page):
    process = guest.spawn(name)
    for area in AREAS[: 1 if guest.width == 32 else None]:
        process.mmap(area, max(PAGES << 12, page), page=page)
    return process


def perform(guest, processes, operation, who, rest):
    process = processes[who]
    if operation == "load":
        return guest.load(AREAS[rest[0]] + rest[1] * 4096 + 8)
    if operation == "store":
        return guest.store(AREAS[rest[0]] + rest[1] * 4096 + 8, rest[2])
    if operation == "restart":
        guest.exit(process)
        processes[who] = start(guest, process.name, 1 << process.vmas[0].shift)
        guest.switch(processes[who])
        return None
    area = AREAS[rest[0]]
    vma = process.vma_at(area)
    if operation == "protect":
        return process.mprotect(area, write=rest[1])
    process.munmap(area)
    return process.mmap(area, vma.end - vma.start, write=rest[1], page=1 << vma.shift).end


def guest_memory(machine):
    """Guest-physical memory that is not zero, page tables with their A and D bits included."""
    found = {}
    for start, length in ((0x10_0000, (16 << 20) - 0x10_0000),):
        for gpa in range(start, start + length, 4096):
            hpa = gpa if machine.vm is None else machine.host_address(gpa)
            data = machine.ram.read(hpa, 4096) if hpa is not None else b""
            if any(data):
                found[gpa] = data
    return found


@settings(max_examples=30)
@given(OPERATIONS)
@example([("store", 0, 0, 1, 7), ("remap", 0, 0, True), ("load", 0, 0, 1)])
@example([("store", 0, 0, 1, 7), ("protect", 0, 0, False), ("store", 0, 0, 1, 9)])
@example([*(("store", 0, 0, n, n) for n in range(3)), ("tick", 0), ("tick", 0), ("load", 0, 0, 1)])
def test_all_designs_are_one_machine_to_the_guest(operations):
    native, _ = run("native", operations)
    for mmu, policy in DESIGNS:
        seen, machine = run(mmu, operations, **policy)
        assert seen.values == native.values, (mmu, policy)
        assert seen.faults == native.faults, (mmu, policy)
        assert seen.memory == native.memory, (mmu, policy)
        check_no_stale_translation(machine)


SHAPES = ((2, "4K"), (2, "4M"), (3, "4K"), (3, "2M"), (5, "4K"), (4, "2M"))


@settings(max_examples=20)
@given(st.sampled_from(SHAPES), OPERATIONS)
def test_other_guest_formats_agree_with_native_too(shape, operations):
    levels, page = shape
    operations = [
        (name, who, 0, *rest[1:]) if rest else (name, who) for name, who, *rest in operations
    ]
    options = {"guest_levels": levels, "guest_page": page}
    native, _ = run("native", operations, **options)
    able = [one for one in DESIGNS if one[0] != "agile" or levels > 3]
    for mmu, policy in able:
        seen, machine = run(mmu, operations, **options, **policy)
        assert seen == native, (mmu, policy)
        check_no_stale_translation(machine)


def check_no_stale_translation(machine):
    """Every cached translation of the running process is what its tables say now."""
    for entry in machine.cpu.tlb.entries():
        gva = entry.vpn << entry.shift
        if gva < machine.guest.user_end and entry.tag == machine.cpu.context.tag:
            assert machine.chain(gva).hpa == entry.page, hex(gva)


def test_invlpg_drops_every_fragment_of_a_large_guest_page():
    """A 2 MiB page on 4 KiB EPT pages fills the TLB in fragments; one INVLPG ends them all."""
    machine = Machine("ept", guest_page="2M")
    process = machine.guest.spawn("a")
    machine.guest.switch(process)
    process.mmap(AREAS[0], "2M", page="2M")
    for page in range(8):
        machine.guest.load(AREAS[0] + page * 4096)
    assert len([one for one in machine.cpu.tlb.entries() if one.belongs_to(AREAS[0])]) == 8
    process.munmap(AREAS[0])
    assert not [one for one in machine.cpu.tlb.entries() if one.belongs_to(AREAS[0])]


def test_a_table_write_under_shadow_paging_drops_the_entry_it_changes():
    """The operations above would prove little if shadow paging never had to zap anything."""
    zaps = []
    machine = Machine("shadow", tap=lambda r: zaps.append(r) if isinstance(r, Zap) else None)
    process = machine.guest.spawn("a")
    machine.guest.switch(process)
    process.mmap(AREAS[0], "64K")
    machine.guest.store(AREAS[0], 1)
    zaps.clear()
    process.mprotect(AREAS[0], write=False)
    assert zaps


NESTED = [("l2-ept", {}), *(("l2-shadow", {"policy": name}) for name in ("naive", "today"))]


@settings(max_examples=5)
@given(st.sampled_from([*NESTED, ("l2-ept", {"vmcs_shadowing": False})]), OPERATIONS)
def test_a_nested_guest_sees_the_same_machine(design, operations):
    mmu, options = design
    native, _ = run("native", operations)
    seen, machine = run(mmu, operations, **options)
    assert seen == native
    check_no_stale_translation(machine)


@pytest.mark.parametrize("levels, page", [(2, "4K"), (3, "4K"), (4, "2M"), (5, "4K")])
def test_nested_guests_of_other_formats_agree_too(levels, page):
    operations = [("store", 0, 0, n, n) for n in range(3)] + [("protect", 0, 0, False)]
    operations += [("store", 0, 0, 1, 9), ("restart", 0), ("load", 0, 0, 1)]
    options = {"guest_levels": levels, "guest_page": page}
    native, _ = run("native", operations, **options)
    for mmu in ("l2-ept", "l2-shadow"):
        seen, _ = run(mmu, operations, **options)
        assert seen == native, mmu


def test_nested_paging_of_amd_is_the_same_machine_too():
    operations = [("store", 0, 0, n, n) for n in range(3)] + [("protect", 0, 0, False)]
    operations += [("store", 0, 0, 1, 9), ("restart", 0), ("load", 0, 0, 1)]
    native, _ = run("native", operations)
    seen, machine = run("npt", operations)
    assert seen == native
    check_no_stale_translation(machine)
