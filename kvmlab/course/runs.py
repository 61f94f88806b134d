"""What whole machines did, for questions about them: each run once, and its result kept.

A machine takes milliseconds, so a family of questions shares one run per choice of parameters.
What is returned is never changed.
"""

from dataclasses import replace
from functools import cache

from kvmlab.hardware.records import Kind, Step, TlbFill, VmExit
from kvmlab.hardware.tlb import UNIFIED, ArrayShape
from kvmlab.kvm.policy import NAIVE
from kvmlab.machine import Chain, Machine
from kvmlab.study.access import Request, first_access, usual_address

AREA = 0x1000_0000
_PAGE = 4096
_MOST_TOUCHES, _MOST_PROCESSES = 24, 5
_CACHES = ((2, 32), (3, 4), (4, 4), (5, 2))
_NESTED = ArrayShape(16, 16, (12, 21, 30))


@cache
def cold_walk(
    mmu: str, guest_levels: int, host_levels: int, guest_page: str, host_page: str
) -> tuple[object, ...]:
    """The records of one cold walk of a page that was touched before."""
    gva = usual_address(guest_levels)
    request = Request(gva, mmu, guest_page, host_page, guest_levels, host_levels)
    return tuple(first_access(request).records)


def references(records: tuple[object, ...]) -> list[Step]:
    """The references of a run."""
    return [one for one in records if isinstance(one, Step)]


def filled(records: tuple[object, ...]) -> TlbFill:
    """The translation that a walk left in the TLB."""
    return next(one for one in records if isinstance(one, TlbFill))


def touches(
    mmu: str, policy: str, pages: int, host_page: str, *, again: bool
) -> tuple[VmExit, ...]:
    """The exits of a program's first writes to ``pages`` neighbours, in one table that is there.

    ``again``: it has had that memory before, unmapped it, and mapped it anew.
    """
    each = _touched(mmu, policy, host_page, again=again)
    return tuple(one for exits in each[:pages] for one in exits)


@cache
def _touched(
    mmu: str, policy: str, host_page: str, *, again: bool
) -> tuple[tuple[VmExit, ...], ...]:
    """The exits of each first write to one page after the other."""
    records: list[object] = []
    machine = Machine(
        mmu,
        guest_memory="8M",
        host_memory="32M",
        host_page=host_page,
        policy=policy,
        tap=records.append,
    )
    process = machine.guest.spawn("program")
    machine.guest.switch(process)
    process.mmap(AREA + 64 * _PAGE, _PAGE)
    machine.guest.touch(AREA + 64 * _PAGE, Kind.WRITE)  # so that the table is there
    process.mmap(AREA, 64 * _PAGE)
    if again:
        _touch_each(machine, records)
        process.munmap(AREA)
        process.mmap(AREA, 64 * _PAGE)
    return _touch_each(machine, records)


def _touch_each(machine: Machine, records: list[object]) -> tuple[tuple[VmExit, ...], ...]:
    found = []
    for number in range(_MOST_TOUCHES):
        records.clear()
        machine.guest.touch(AREA + number * _PAGE, Kind.WRITE)
        found.append(tuple(one for one in records if isinstance(one, VmExit)))
    return tuple(found)


@cache
def switches(mmu: str, policy: str, count: int) -> tuple[VmExit, ...]:
    """The exits of ``count`` switches between two processes that have run before."""
    records: list[object] = []
    machine = Machine(mmu, guest_memory="8M", host_memory="32M", policy=policy, tap=records.append)
    processes = [machine.guest.spawn(name) for name in ("first", "second")]
    for one in processes:
        machine.guest.switch(one)
        one.mmap(AREA, _PAGE)
        machine.guest.touch(AREA, Kind.WRITE)
    start = len(records)
    for number in range(count):
        machine.guest.switch(processes[number % 2])
    return tuple(one for one in records[start:] if isinstance(one, VmExit))


@cache
def shadow_tables(pages: int, step: int) -> tuple[int, ...]:
    """How many shadow pages one process adds, two, and so on, that touch ``pages`` each.

    The pages lie ``step`` bytes apart.  Another process ran before, so the kernel's half, which
    all share, is shadowed already.
    """
    machine = Machine("shadow", guest_memory="8M", host_memory="32M", policy=NAIVE.name)
    first = machine.guest.spawn("init")
    machine.guest.switch(first)
    first.mmap(AREA, _PAGE)
    machine.guest.touch(AREA, Kind.WRITE)
    before, found = machine.table_bytes()["shadow"], []
    for number in range(_MOST_PROCESSES):
        process = machine.guest.spawn(f"process {number}")
        machine.guest.switch(process)
        for page in range(pages):
            process.mmap(AREA + page * step, _PAGE)
            machine.guest.touch(AREA + page * step, Kind.WRITE)
        found.append((machine.table_bytes()["shadow"] - before) // _PAGE)
    return tuple(found)


@cache
def path_tables(step: int) -> tuple[int, ...]:
    """How many pages of tables a process has that touched one page, two, and so on."""
    machine = Machine("native", guest_memory="8M")
    before, found = machine.table_bytes()["guest"], []
    process = machine.guest.spawn("program")
    machine.guest.switch(process)
    for page in range(_MOST_TOUCHES):
        process.mmap(AREA + page * step, _PAGE)
        machine.guest.touch(AREA + page * step, Kind.WRITE)
        found.append((machine.table_bytes()["guest"] - before) // _PAGE)
    return tuple(found)


@cache
def chains(mmu: str) -> tuple[tuple[Chain, int], ...]:
    """Pages of a program in all four address spaces, each with the leaf that hardware reads."""
    records: list[object] = []
    machine = Machine(mmu, guest_memory="8M", host_memory="32M", tap=records.append)
    process = machine.guest.spawn("program")
    machine.guest.switch(process)
    process.mmap(AREA, 64 * _PAGE)
    found = []
    for number in range(0, 64, 3):
        gva = AREA + number * _PAGE
        machine.guest.touch(gva, Kind.WRITE)
        machine.cpu.flush_tlb()
        start = len(records)
        machine.guest.touch(gva, Kind.READ)
        last = [one for one in records[start:] if isinstance(one, Step)][-1]
        found.append((machine.chain(gva), last.entry))
    return tuple(found)


@cache
def second_walk(mmu: str, apart: int, *, nested: bool) -> tuple[tuple[object, ...], int]:
    """The records of a miss beside a page that was just walked, and that walk's references.

    The processor has paging-structure caches, and with ``nested`` a nested TLB; all were empty.
    """
    records: list[object] = []
    geometry = replace(UNIFIED, walk_caches=_CACHES, nested=_NESTED if nested else None)
    machine = Machine(
        mmu, guest_memory="8M", host_memory="32M", geometry=geometry, tap=records.append
    )
    process = machine.guest.spawn("program")
    machine.guest.switch(process)
    for gva in (AREA, AREA + apart):
        process.mmap(gva, _PAGE)
        machine.guest.touch(gva, Kind.WRITE)
    machine.cpu.flush_tlb()
    start = len(records)
    machine.guest.touch(AREA, Kind.READ)
    middle = len(records)
    machine.guest.touch(AREA + apart, Kind.READ)
    return tuple(records[middle:]), len(references(tuple(records[start:middle])))
