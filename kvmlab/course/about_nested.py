"""Questions on guests of guests, and on which design is cheaper."""

from functools import cache

from kvmlab.course import runs
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Words, kind, picked
from kvmlab.course.told import told
from kvmlab.kvm.policy import NAIVE
from kvmlab.machine import Machine
from kvmlab.study.costs import GRADED, CostTable
from kvmlab.study.counters import Counters, Tally

_PAGE = 4096
_ROUNDS = (0, 2, 8, 24)


@kind("nested.references")
def references(draw: Draw, difficulty: int) -> Problem:
    """How many references the walk of a nested guest's address reads."""
    mmu = draw.choose(("l2-ept", "l2-shadow"))
    pages = ("4K",) if difficulty == 1 else ("4K", "2M")
    host_levels = 4 if difficulty < 3 else draw.choose((4, 5))
    guest_page, host_page = draw.choose(pages), draw.choose(pages)
    records = runs.cold_walk(mmu, 4, host_levels, guest_page, host_page)
    steps = runs.references(records)
    guest = sum(one.table != "ept" for one in steps)
    host = (len(steps) - guest) // (guest + 1)
    return Problem(
        Number("references"),
        len(steps),
        {
            "design": Said(f"design.{mmu}"),
            "host": host_levels,
            "guest_page": guest_page,
            "host_page": host_page,
        },
        {
            "three-dimensions": (guest + 1) * (host + 1) ** 2 - 1,
            "no-final-walk": guest * (host + 1),
            "guest-only": guest,
            "walks-add-up": guest + 2 * host,
        },
        steps=told(records),
    )


@kind("nested.exits")
def exits(draw: Draw, difficulty: int) -> Problem:
    """How many exits to L0 the first touches of a nested guest cost."""
    mmu = "l2-ept" if difficulty < 3 else draw.choose(("l2-ept", "l2-shadow"))
    pages = draw.between(2, 2 + 2 * difficulty)
    found = runs.touches(mmu, NAIVE.name, pages, "4K", again=False)
    reasons = sorted({one.reason.name for one in found})
    summed: tuple[Words, ...] = tuple(
        Said(
            "course.told.exits",
            {"reason": name, "number": sum(one.reason.name == name for one in found)},
        )
        for name in reasons
    )
    return Problem(
        Number("exits"),
        len(found),
        {"design": Said(f"design.{mmu}"), "pages": pages},
        {
            "nested-as-one-level": pages,
            "resume-forgotten": sum(one.reason.name != "VMRESUME" for one in found),
            "one-for-each-level": 2 * pages,
            "no-exits": 0,
        },
        steps=(*told(found[: len(found) // pages]), *summed),
    )


@cache
def _program(mmu: str, pages: int, switches: int) -> tuple[Tally, ...]:
    """The counts of a program: touch pages, switch, then read each page cold so many times."""
    counters = Counters()
    machine = Machine(mmu, guest_memory="8M", host_memory="32M", tap=counters)
    one, other = (machine.guest.spawn(name) for name in ("first", "second"))
    machine.guest.switch(one)
    one.mmap(runs.AREA, pages * _PAGE)
    counters.clear()
    for number in range(pages):
        machine.guest.store(runs.AREA + number * _PAGE, number)
    for _ in range(switches):
        machine.guest.switch(other)
        machine.guest.switch(one)
    found = [counters.total]
    for _ in range(_ROUNDS[-1]):
        for number in range(pages):
            machine.cpu.flush_tlb()
            machine.guest.load(runs.AREA + number * _PAGE)
        found.append(counters.total)
    return tuple(found)


_DESIGNS = ("shadow", "ept")


@kind("cost.cheaper")
def cheaper(draw: Draw, difficulty: int) -> Problem:
    """Which design costs a program fewer cycles: exits against references."""
    pages = draw.choose((4, 8))
    rounds = draw.choose(_ROUNDS)
    switches = draw.choose((0, 20)) if difficulty > 1 else 0
    exit_cost = draw.choose((700, 1400, 2800))
    reference = draw.choose((4, 14, 54))
    table: CostTable = GRADED.edit("exit", exit_cost)
    for name in ("reference.1", "reference.2", "reference.3", "reference.4"):
        table = table.edit(name, reference)
    totals = {mmu: _program(mmu, pages, switches)[rounds] for mmu in _DESIGNS}
    cycles = {mmu: table.cycles(total).total for mmu, total in totals.items()}
    options: dict[str, Words] = {mmu: Said(f"design.{mmu}") for mmu in _DESIGNS}
    lines = tuple(
        Said(
            "course.told.cycles",
            {
                "design": Said(f"design.{mmu}"),
                "references": totals[mmu].all_references,
                "exits": totals[mmu].all_exits,
                "cycles": cycles[mmu],
            },
        )
        for mmu in _DESIGNS
    )
    return Problem(
        picked(draw, options),
        min(_DESIGNS, key=lambda mmu: cycles[mmu]),
        {
            "pages": pages,
            "rounds": rounds,
            "switches": 2 * switches,
            "exit": exit_cost,
            "reference": reference,
        },
        {"ept-always-wins": "ept", "shadow-always-wins": "shadow"},
        steps=lines,
    )


@kind("cost.cycles")
def cycles(draw: Draw, difficulty: int) -> Problem:
    """What a cold walk costs with a price for each level."""
    mmu = draw.choose(("native", "ept") if difficulty > 1 else ("native",))
    guest_page = draw.choose(("4K", "2M")) if difficulty > 1 else "4K"
    host_page = draw.choose(("4K", "2M")) if difficulty > 2 and mmu == "ept" else "4K"
    records = runs.cold_walk(mmu, 4, 4, guest_page, host_page)
    prices = sorted(draw.sample(range(2, 60), 4), reverse=True)
    table: CostTable = GRADED
    for level, price in enumerate(prices, start=1):
        table = table.edit(f"reference.{level}", price)
    counters = Counters()
    for record in records:
        counters(record)
    total = counters.total
    steps = runs.references(records)
    exit_cost = table.exit("EPT_VIOLATION").cycles
    return Problem(
        Number("cycles"),
        table.cycles(total).total,
        {
            "design": Said(f"design.{mmu}"),
            "guest_page": guest_page,
            "host_page": host_page,
            "prices": ", ".join(f"L{level}: {price}" for level, price in enumerate(prices, 1)),
        },
        {
            "prices-upside-down": sum(prices[4 - one.level] for one in steps),
            "guest-only": sum(prices[one.level - 1] for one in steps if one.table == "guest"),
            "leaf-price-for-all": prices[0] * len(steps),
            "exit-for-each-walk": table.cycles(total).total + exit_cost,
        },
        steps=told(records),
    )


KINDS = (references, exits, cheaper, cycles)
